"""The backbones: parameters, names and logits as in the references, places of attentions, errors."""

from __future__ import annotations

import importlib
import itertools
import json
import pkgutil
import re

import numpy as np
import paddle
import pytest
from helpers import COMMITTED, EXPECTED, GOLDEN, assert_learns, fits, golden_file, is_quick, kwargs_for
from paddle.vision import models as paddle_models

from paddle_attn import create_model, list_attention, list_models, load_weights, model_spec, models
from paddle_attn.attention import ATTENTION, Attention
from paddle_attn.models.complexity import trainable_params
from paddle_attn.models.placement import find_slot, paper_slot
from paddle_attn.ops.layers import Conv2D
from paddle_attn.weights.protocol import Backbone
from reference.compare import (
    entry,
    network_difference,
    networks,
    notebook_difference,
    notebook_file,
    reference_kwargs,
)

PADDLES = [name for name in list_models() if hasattr(paddle_models, name)]
# the deeper and wider models of a family: only the slow tests train them
LARGE = {
    *("cifar_preresnet32", "cifar_preresnet56", "cifar_preresnet110", "cifar_preresnet164"),
    *("cifar_resnet32", "cifar_resnet56", "cifar_resnet110", "cifar_resnet164"),
    *("cifar_wideresnet28x10", "cifar_wideresnet40x10"),
    *("resnet34", "resnet101", "resnet152", "resnext50_32x4d", "vgg19"),
}
SMALL = [name for name in list_models() if name not in LARGE]
ALL = [None, *list_attention()]


def create_lazily(model: str, attn: str | None = None, attn_pos: str = "paper", **kwargs) -> paddle.nn.Layer:
    """A network without memory for its parameters: enough to see names and shapes."""
    with paddle.LazyGuard():
        return create_model(model, attn, kwargs, attn_pos)


# ---- parameters


COUNTED = ("resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "mobilenet_v2")
# published numbers of trainable parameters with 1000 classes, for the models in COUNTED
COUNTS = [
    (None, {}, (11_689_512, 21_797_672, 25_557_032, 44_549_160, 25_028_904, 3_504_872)),
    ("simam", {}, (11_689_512, 21_797_672, 25_557_032, 44_549_160, 25_028_904, 3_504_872)),
    ("se", {}, (11_776_552, 21_954_856, 28_071_976, 49_292_328, 27_543_848, 3_533_288)),
    ("se", {"bias": True}, (11_778_592, 21_958_868, 28_088_024, 49_326_872, 27_559_896, 3_534_885)),
    ("cbam", {}, (11_779_392, 21_960_468, 28_089_624, 49_330_172, 27_561_496, 3_536_585)),
    ("sge", {}, (11_690_536, 21_799_720, 25_559_080, 44_553_384, 25_030_952, None)),
    ("sge", {"groups": 8}, (None, None, None, None, None, 3_505_144)),
    ("eca", {"k_size": [3, 5, 7, 7]}, (11_689_556, None, None, None, None, None)),
    ("eca", {"k_size": [3, 3, 5, 7]}, (None, 21_797_744, None, 44_549_317, None, None)),
    ("eca", {"k_size": [3, 5, 5, 7]}, (None, None, 25_557_112, None, None, None)),
    ("srm", {}, (11_697_192, 21_812_776, 25_617_448, 44_679_208, 25_089_320, 3_510_888)),
    ("gc", {}, (11_780_760, 21_963_132, 28_105_032, 49_363_481, 27_576_904, 3_536_592)),
    ("bam", {}, (11_712_503, 21_820_663, 25_915_099, 44_907_227, 25_386_971, None)),
    *(
        (name, kwargs, [counts.get(model) for model in COUNTED])
        for name, expected in EXPECTED.items()
        for kwargs, counts in expected.get("parameters", [])
    ),
]


@pytest.mark.parametrize(
    ("model", "attn", "kwargs", "published"),
    [
        (model, attn, kwargs, published)
        for attn, kwargs, row in COUNTS
        for model, published in zip(COUNTED, row, strict=True)
        if published
    ],
)
def test_trainable_parameters_are_the_published_ones(
    model: str, attn: str | None, kwargs: dict, published: int
):
    assert trainable_params(create_lazily(model, attn, **kwargs)) == published


def test_towernet_has_the_notebooks_parameters_without_the_void_biases():
    assert trainable_params(create_model("towernet", "simam")) == 1_361_472


@pytest.mark.parametrize("model", PADDLES)
def test_parameters_keep_paddles_names_under_every_attention(model: str):
    with paddle.LazyGuard():
        expected = {key: value.shape for key, value in getattr(paddle_models, model)().state_dict().items()}
    for attn in [None, "cbam"]:  # CBAM has parameters and running statistics
        state = create_lazily(model, attn).state_dict()
        assert {
            key: value.shape for key, value in state.items() if not re.search(r"(^|\.)attn\.", key)
        } == expected


@pytest.mark.parametrize("model", list_models())
def test_every_model_is_a_backbone(model: str):
    net = create_lazily(model)
    assert isinstance(net, Backbone)
    state = net.state_dict()
    assert state[f"{net.classifier_name}bias"].shape == [model_spec(model).num_classes]
    assert set(net.void_biases.values()) <= set(state) and not set(net.void_biases) & set(state)
    assert len(net.feature_channels) == len(model_spec(model).feature_strides)


def test_every_family_of_the_package_is_registered():
    families = [
        importlib.import_module(f"{models.__name__}.{info.name}")
        for info in pkgutil.iter_modules(models.__path__)
    ]
    tables = [family.MODELS for family in families if hasattr(family, "MODELS")]
    assert sum(map(len, tables)) == len(models.MODELS)
    assert all(table.items() <= models.MODELS.items() for table in tables)


# ---- logits of the authors' networks

REFERENCE = json.loads((GOLDEN / "networks" / "networks.json").read_text())


@pytest.mark.parametrize(
    ("model", "attn"), [(model, attn) for model, attns in networks(GOLDEN).items() for attn in attns]
)
def test_logits_are_those_of_the_authors_networks(model: str, attn: str):
    golden_file(f"networks/{entry(model, attn).replace('/', '-')}.keys.json")
    assert network_difference(GOLDEN, model, attn) <= 1e-3
    expected = REFERENCE[entry(model, attn)]
    net = create_model(model, attn, reference_kwargs(model, attn), num_classes=len(expected["logits"][0]))
    assert trainable_params(net) == expected["params"]


def test_towernet_gives_the_notebooks_logits():
    assert notebook_difference(notebook_file(COMMITTED, "towernet")) <= 1e-5


def test_towernet_loads_the_checkpoint_that_the_notebook_saved():
    report = load_weights(
        create_model("towernet", "simam"), golden_file("networks/towernet-simam-notebook.pdparams")
    )
    assert report.folded == ("b1.0.0.bias", "b2.0.0.bias", "b3.0.0.bias", "b4.0.0.bias")
    assert not report.missing and not report.unexpected and not report.mismatched


# ---- every model with every attention


def goes_forward_backward(model: str, attn: str | None) -> None:
    spec = model_spec(model)
    net = create_model(model, attn, kwargs_for(model, attn), num_classes=5)
    x = paddle.randn([2, 3, max(spec.min_size, 64), max(spec.min_size, 64)])
    assert net(x).shape == [2, 5]
    assert_learns(net, x)


COMBINATIONS = [(model, attn) for model in list_models() for attn in ALL if fits(model, attn)]


@pytest.mark.parametrize(
    ("model", "attn"),
    [pair for pair in COMBINATIONS if pair[0] in SMALL and is_quick(*pair)] + [("vgg19", "cbam")],
)
def test_a_small_model_learns_under_every_attention(model: str, attn: str | None):
    goes_forward_backward(model, attn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "attn"), [pair for pair in COMBINATIONS if pair[0] in LARGE or not is_quick(*pair)]
)
def test_every_other_model_learns_under_every_attention(model: str, attn: str | None):
    goes_forward_backward(model, attn)


@pytest.mark.parametrize("size", [(128, 128), (200, 136), (224, 300)])
def test_towernet_takes_any_size_from_128(size: tuple[int, int]):
    net = create_model("towernet", "simam")
    net.eval()
    y = net(paddle.randn([1, 3, *size]))
    assert y.shape == [1, 16] and np.isfinite(y.numpy()).all()


def test_towernet_rejects_images_below_128_px():
    with pytest.raises(ValueError, match=r"at least 128x128 px, found 128x127"):
        create_model("towernet")(paddle.randn([1, 3, 128, 127]))


def test_towernet_learns_when_its_last_map_is_1x1():
    """At 128 px the last SimAM sees 1x1 maps, for which the published code gives NaN."""
    net = create_model("towernet", "simam")
    net(paddle.randn([2, 3, 128, 128])).sum().backward()
    assert np.abs(net.b1[0][0].weight.grad.numpy()).max() > 0


# ---- places, stages, features

# where the papers and the authors' code put an attention, for one model of each kind; None: nowhere
KINDS = {
    "resnet18": ("resnet34", "cifar_resnet20", "cifar_resnet32", "cifar_resnet56", "cifar_resnet110"),
    "resnet50": ("resnet101", "resnet152", "resnext50_32x4d", "cifar_resnet164"),
    "cifar_preresnet20": (
        *("cifar_preresnet32", "cifar_preresnet56", "cifar_preresnet110"),
        *("cifar_wideresnet28x10", "cifar_wideresnet40x10"),
    ),
    "cifar_preresnet164": (),
    "mobilenet_v2": ("cifar_mobilenetv2",),
    "vgg19": (),
    "towernet": (),
}
PLACES = {
    "bam": ("stage", "stage", "stage", "stage", None, "pre_pool", "post_pool"),
    "cbam": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    "eca": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    "gc": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    "se": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    "sge": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    "simam": ("pre_bn", "pre_bn", "post_bn", "pre_bn", "pre_bn", "pre_pool", "post_pool"),
    "sk": (None, "unit", None, None, None, None, None),
    "srm": ("post_bn", "post_bn", "post_bn", "post_bn", "post_bn", "pre_pool", "post_pool"),
    **{name: tuple(expected["places"]) for name, expected in EXPECTED.items()},
}


@pytest.mark.parametrize("attn", PLACES)
def test_every_attention_sits_where_the_papers_put_it(attn: str):
    for (kind, others), slot in zip(KINDS.items(), PLACES[attn], strict=True):
        assert {model: paper_slot(model_spec(model), attn) for model in (kind, *others)} == dict.fromkeys(
            (kind, *others), slot
        )


def test_every_slot_that_a_module_or_a_model_names_exists():
    slots = {slot for model in list_models() for slot in model_spec(model).slots}
    assert {module.paper_slot for module in ATTENTION.values()} <= slots
    for model in list_models():
        spec = model_spec(model)
        assert spec.default_slot in spec.slots and not set(spec.unpublished_slots) & set(spec.slots)


@pytest.mark.parametrize(
    "model", [model for model in [*SMALL, "cifar_preresnet164"] if len(model_spec(model).slots) > 1]
)
def test_every_slot_is_another_function(model: str):
    x = paddle.randn([2, 3, 64, 64])
    answers = {}
    for slot in [slot for slot in model_spec(model).slots if slot != "unit"]:
        assert find_slot(model_spec(model), "simam", slot) == slot
        paddle.seed(0)
        net = create_model(
            model, "simam", attn_pos=slot
        )  # train mode: new batch norms do nothing in eval mode
        paddle.seed(0)  # of dropout
        answers[slot] = net(x).numpy()
    for one, other in itertools.combinations(answers, 2):
        difference = np.abs(answers[one] - answers[other]).max()
        assert difference > 1e-3 * np.abs(answers[one]).max(), (one, other)


def sites(net: paddle.nn.Layer) -> dict[str, int]:
    """The attentions in a network: `{name: channels}`."""
    return {name: layer.channels for name, layer in net.named_sublayers() if isinstance(layer, Attention)}


def test_attentions_get_the_channels_of_their_place():
    assert sites(create_lazily("resnet50", "simam"))["layer1.0.attn"] == 64
    assert sites(create_lazily("resnet50", "se"))["layer1.0.attn"] == 256
    assert sites(create_lazily("resnet50", "bam")) == {"attn.1": 256, "attn.2": 512, "attn.3": 1024}
    channels = [64, 128, 256, 512, 512]
    assert sites(create_lazily("vgg19", "simam")) == {f"attn.{i}": c for i, c in enumerate(channels)}
    assert sites(create_lazily("towernet", "simam")) == {f"attn.{i}": 256 for i in range(4)}
    assert sites(create_lazily("mobilenet_v2", "simam"))["features.2.attn"] == 96
    assert sites(create_lazily("mobilenet_v2", "se"))["features.2.attn"] == 24


def test_an_attention_can_sit_before_every_convolution():
    block = {"conv1": 64, "conv2": 64, "conv3": 64}
    found = sites(create_lazily("resnet50", "simam", attn_pos="pre_conv"))
    assert found["attn.conv1"] == 3
    assert {
        name.removeprefix("layer1.0.attn."): n for name, n in found.items() if "layer1.0." in name
    } == block | {"downsample": 64}
    assert {
        name.removeprefix("layer1.1.attn."): n for name, n in found.items() if "layer1.1." in name
    } == block | {"conv1": 256}
    convolutions = [
        name for name, layer in create_lazily("resnet50").named_sublayers() if isinstance(layer, Conv2D)
    ]
    assert len(found) == len(convolutions)


def test_every_second_block_of_chosen_stages_can_have_one():
    found = sites(create_lazily("resnet50", "simam", attn_pos="post_relu", every=2, stages=[2, 3]))
    assert found == {f"layer2.{block}.attn": 512 for block in (1, 3)} | {
        f"layer3.{block}.attn": 1024 for block in (1, 3, 5)
    }


def test_stages_can_be_chosen_and_take_their_own_arguments():
    chosen = sites(create_model("resnet18", "gc", {"stages": [2, 4]}))
    assert set(chosen) == {f"layer{stage}.{block}.attn" for stage in (2, 4) for block in (0, 1)}
    net = create_model("resnet18", "eca", {"k_size": [3, 5, 7, 9]})
    assert [getattr(net, f"layer{stage}")[0].attn.k_size for stage in (1, 2, 3, 4)] == [3, 5, 7, 9]


@pytest.mark.parametrize("model", [*SMALL, "vgg19"])
def test_features_have_the_channels_and_strides_of_the_spec(model: str):
    net = create_model(model, "simam")
    net.eval()
    found = net.forward_features(paddle.zeros([1, 3, 128, 160]))
    strides = model_spec(model).feature_strides
    assert [list(map_.shape) for map_ in found] == [
        [1, channels, 128 // stride, 160 // stride]
        for channels, stride in zip(net.feature_channels, strides, strict=True)
    ]


def test_features_only_returns_the_maps_of_the_backbone():
    maps = create_model("resnet18", "simam", features_only=True)
    maps.eval()
    x = paddle.randn([1, 3, 64, 96])
    for ours, theirs in zip(maps(x), maps.net.forward_features(x), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())
    assert (maps.channels, maps.strides) == ([64, 128, 256, 512], [4, 8, 16, 32])


# ---- specs and errors


def test_paddles_models_expect_imagenets_size_and_statistics():
    for model in PADDLES:
        spec = model_spec(model)
        assert (spec.input_size, spec.mean, spec.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_the_word_none_means_no_attention():
    assert sites(create_lazily("towernet", "none")) == {}


def test_list_models_takes_a_pattern():
    assert list_models("resnet1*") == ["resnet101", "resnet152", "resnet18"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet5O"}, ["unknown model 'resnet5O'", "towernet", "did you mean 'resnet50'?"]),
        ({"name": "resnet18", "attn": "cbma"}, ["unknown attention 'cbma'", "did you mean 'cbam'?"]),
        (
            {"name": "resnet18", "attn": "se", "attn_pos": "front"},
            [
                "unknown attention position for this network 'front'",
                "inner, paper, post_add, post_bn, post_relu, pre_bn, pre_conv, stage",
            ],
        ),
        ({"name": "resnet18", "attn_kwargs": {"groups": 8}}, ["needs an attention"]),
        (
            {"name": "towernet", "attn": "se", "attn_pos": "pre_bn"},
            ["unknown attention position for this network 'pre_bn'", "paper, post_pool"],
        ),
        ({"name": "resnet50", "attn": "se", "attn_pos": "unit"}, ["'unit'"]),
        ({"name": "resnet50", "attn": "sk", "pretrained": True}, ["'sk' replaces the 3x3 convolutions"]),
        ({"name": "resnet50", "attn": "sk", "attn_kwargs": {"stride": 2}}, ["the network sets the stride"]),
        (
            {"name": "resnet18", "attn": "se", "attn_kwargs": {"name": "x"}},
            ["unknown argument of attention 'se' 'name'"],
        ),
        ({"name": "resnet18", "attn": "se", "attn_kwargs": {"stages": [[1]]}}, ["stages must be a list"]),
        (
            {"name": "resnet18", "attn": "sk"},
            ["'sk' replaces the 3x3 convolution of a bottleneck", "resnet50"],
        ),
        ({"name": "resnet50", "attn": "sk", "attn_pos": "post_bn"}, ["has no other place", "'post_bn'"]),
        (
            {"name": "mobilenet_v2", "attn": "bam"},
            ["no paper puts 'bam' into this network", "pre_bn, post_bn, post_add"],
        ),
        (
            {"name": "resnet18", "attn": "eca", "attn_kwargs": {"k_size": [3, 5]}},
            ["k_size must be one value or a list of 4"],
        ),
        (
            {"name": "resnet18", "attn": "gc", "attn_kwargs": {"stages": [0, 5]}},
            ["stages must be a list of numbers from 1 to 4"],
        ),
        (
            {"name": "resnet18", "attn": "se", "attn_kwargs": {"every": 0}},
            ["every must be a whole number from 1", "0"],
        ),
        (
            {"name": "cifar_resnet20", "features_only": True},
            ["strides 4, 8, 16 and 32, which cifar_resnet20 lacks"],
        ),
        ({"name": "mobilenet_v2", "attn": "sge"}, ["groups must divide channels", "16 channels", "64"]),
        ({"name": "resnet18", "num_classes": 0}, ["num_classes", "0"]),
        ({"name": "cifar_resnet20", "pretrained": True}, ["no pretrained weights for cifar_resnet20"]),
    ],
)
def test_errors_state_what_was_expected_and_found(arguments: dict, words: list[str]):
    with pytest.raises(ValueError) as error:
        create_model(**arguments)
    for word in words:
        assert word in str(error.value)
