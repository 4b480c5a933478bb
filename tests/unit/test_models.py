"""The backbones: names, counts, placements and logits against the references, and what create_model refuses."""

from __future__ import annotations

import json
import re

import numpy as np
import paddle
import pytest
from helpers import COMMITTED, GOLDEN, fits, golden_file, kwargs_for
from paddle.vision import models as paddle_models

from paddle_attn import create_model, list_attention, list_models, load_weights, model_spec
from paddle_attn.attention import Attention
from paddle_attn.models.complexity import trainable_params
from paddle_attn.models.placement import SLOTS
from reference.fidelity import NETWORKS, network_difference, other_difference, reference_kwargs

PADDLES = [name for name in list_models() if name != "towernet" and not name.startswith("cifar_")]
# one of each family, and of each kind of block; the others are slow
SMALL = (
    "cifar_mobilenetv2",
    "cifar_preresnet20",
    "cifar_resnet20",
    "mobilenet_v2",
    "resnet18",
    "resnet50",
    "towernet",
)


# trainable parameters with 1000 classes: no attention = SimAM, SE without bias, with bias, CBAM, SGE, ECA, SRM, GC, BAM
COUNTS = {
    "resnet18": (
        11_689_512,
        11_776_552,
        11_778_592,
        11_779_392,
        11_690_536,
        11_689_556,
        11_697_192,
        11_780_760,
        11_712_503,
    ),
    "resnet34": (
        21_797_672,
        21_954_856,
        21_958_868,
        21_960_468,
        21_799_720,
        21_797_744,
        21_812_776,
        21_963_132,
        21_820_663,
    ),
    "resnet50": (
        25_557_032,
        28_071_976,
        28_088_024,
        28_089_624,
        25_559_080,
        25_557_112,
        25_617_448,
        28_105_032,
        25_915_099,
    ),
    "resnet101": (
        44_549_160,
        49_292_328,
        49_326_872,
        49_330_172,
        44_553_384,
        44_549_317,
        44_679_208,
        49_363_481,
        44_907_227,
    ),
    "resnext50_32x4d": (
        25_028_904,
        27_543_848,
        27_559_896,
        27_561_496,
        25_030_952,
        None,
        25_089_320,
        27_576_904,
        25_386_971,
    ),
    "mobilenet_v2": (3_504_872, 3_533_288, 3_534_885, 3_536_585, 3_505_144, None, 3_510_888, 3_536_592, None),
}
RELEASED_K = {
    "resnet18": [3, 5, 7, 7],
    "resnet34": [3, 3, 5, 7],
    "resnet50": [3, 5, 5, 7],
    "resnet101": [3, 3, 5, 7],
}


@pytest.mark.parametrize("model", COUNTS)
def test_trainable_parameters_are_the_published_ones(model: str):
    def count(attn: str | None, **kwargs) -> int:
        return trainable_params(
            create_model(model, attn, kwargs or kwargs_for(model, attn), num_classes=1000)
        )

    eca = count("eca", k_size=RELEASED_K[model]) if model in RELEASED_K else None
    bam = count("bam") if fits(model, "bam") else None
    found = (
        count(None),
        count("se"),
        count("se", bias=True),
        count("cbam"),
        count("sge"),
        eca,
        count("srm"),
        count("gc"),
        bam,
    )
    assert found == COUNTS[model]
    assert count("simam") == COUNTS[model][0]


def test_towernets_parameters_are_the_notebooks_without_the_void_biases():
    assert trainable_params(create_model("towernet", "simam")) == 1_361_472


@pytest.mark.parametrize("model", PADDLES)
def test_parameters_keep_paddles_names_under_every_attention(model: str):
    expected = {key: value.shape for key, value in getattr(paddle_models, model)().state_dict().items()}
    for attn in [None, "cbam"]:  # cbam has parameters and running statistics of its own
        state = create_model(model, attn, kwargs_for(model, attn)).state_dict()
        assert {
            key: value.shape for key, value in state.items() if not re.search(r"(^|\.)attn\.", key)
        } == expected


# ---- logits of the authors' networks

REFERENCE = json.loads((GOLDEN / "networks" / "networks.json").read_text())


def entry(model: str, attn: str) -> str:
    return (
        f"cifar/{model.removeprefix('cifar_')}/{attn}"
        if model.startswith("cifar_")
        else f"imagenet/{model}/{attn}"
    )


@pytest.mark.parametrize(
    ("model", "attn"), [(model, attn) for model, attns in NETWORKS.items() for attn in attns]
)
def test_logits_are_those_of_the_authors_networks(model: str, attn: str):
    golden_file(f"networks/{entry(model, attn).replace('/', '-')}.keys.json")
    assert network_difference(GOLDEN, model, attn) <= 1e-3
    expected = REFERENCE[entry(model, attn)]
    net = create_model(model, attn, reference_kwargs(model, attn), num_classes=len(expected["logits"][0]))
    assert trainable_params(net) == expected["params"]


def test_every_network_of_the_reference_is_compared():
    assert {entry(model, attn) for model, attns in NETWORKS.items() for attn in attns} == set(
        REFERENCE
    ) and len(REFERENCE) == 48


def test_towernet_gives_the_notebooks_logits():
    assert other_difference(COMMITTED, "towernet") <= 1e-5


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
    for layer in net.sublayers():  # a dropped or zero-started unit has no gradient to show
        if isinstance(layer, paddle.nn.Dropout):
            layer.p = 0.0
    for name, parameter in net.named_parameters():
        if "attn." in name and not parameter.stop_gradient:
            parameter.set_value(paddle.uniform(parameter.shape, min=0.005, max=0.03))
    x = paddle.randn([2, 3, max(spec.min_size, 64), max(spec.min_size, 64)])
    y = net(x)
    assert y.shape == [2, 5]
    paddle.nn.functional.cross_entropy(y, paddle.to_tensor([0, 3])).backward()
    learning: dict[
        str, bool
    ] = {}  # by the name inside the attention: one site may be dead (ReLU) or 1x1, not all of them
    for name, parameter in net.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name
            assert "attn." in name or name.endswith("bias") or np.abs(parameter.grad.numpy()).max() > 0, (
                f"{name} learns nothing"
            )
            if "attn." in name:
                inside = re.sub(r".*attn\.(\d+\.)?", "", name)
                learning[inside] = learning.get(inside, False) or np.abs(parameter.grad.numpy()).max() > 0
    assert all(learning.values()), learning


ALL = [None, *list_attention(), "sk"]


@pytest.mark.parametrize(
    ("model", "attn"),
    [(model, attn) for model in SMALL for attn in ALL if fits(model, attn)] + [("vgg19", "cbam")],
)
def test_a_small_one_of_each_family_learns_under_every_attention(model: str, attn: str | None):
    goes_forward_backward(model, attn)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "attn"), [(m, a) for m in list_models() if m not in SMALL for a in ALL if fits(m, a)]
)
def test_every_model_learns_under_every_attention(model: str, attn: str | None):
    goes_forward_backward(model, attn)


@pytest.mark.parametrize("size", [(128, 128), (200, 136), (224, 300)])
def test_towernet_takes_any_size_from_128(size: tuple[int, int]):
    net = create_model("towernet", "simam")
    net.eval()
    y = net(paddle.randn([1, 3, *size]))
    assert y.shape == [1, 16] and np.isfinite(y.numpy()).all()


def test_towernet_below_128_says_so():
    with pytest.raises(ValueError, match=r"at least 128x128 px, found 128x127"):
        create_model("towernet")(paddle.randn([1, 3, 128, 127]))


def test_towernets_learning_signal_survives_a_1x1_map():
    """At 128 px the last SimAM sees 1x1 maps; as published it gives NaN, which ReLU turns into a network that learns nothing."""
    net = create_model("towernet", "simam")
    net(paddle.randn([2, 3, 128, 128])).sum().backward()
    assert np.abs(net.b1[0][0].weight.grad.numpy()).max() > 0


# ---- other places, stages, features


@pytest.mark.parametrize(
    "model",
    ["resnet18", "resnet50", "cifar_resnet20", "cifar_preresnet20", "cifar_preresnet164", "mobilenet_v2"],
)
def test_every_other_place_can_be_named_and_is_another_function(model: str):
    x = paddle.randn([2, 3, 64, 64])
    answers, places = [], [slot for slot in SLOTS[model_spec(model).block] if slot != "unit"]
    for attn_pos in places:
        paddle.seed(0)
        net = create_model(
            model, "simam", attn_pos=attn_pos
        )  # in train mode: an untrained batch norm does nothing in eval mode
        paddle.seed(0)  # of dropout
        answers.append(net(x).numpy())
    for index, answer in enumerate(answers):
        assert all(np.abs(answer - other).max() > 1e-3 * np.abs(answer).max() for other in answers[:index]), (
            places
        )


def sites(net: paddle.nn.Layer) -> dict[str, int]:
    return {name: layer.channels for name, layer in net.named_sublayers() if isinstance(layer, Attention)}


def test_the_papers_places():
    assert (
        sites(create_model("resnet50", "simam"))["layer1.0.attn"] == 64
        and sites(create_model("resnet50", "se"))["layer1.0.attn"] == 256
    )
    assert sites(create_model("resnet50", "bam")) == {"attn.1": 256, "attn.2": 512, "attn.3": 1024}
    assert sites(create_model("vgg19", "simam")) == {
        f"attn.{i}": channels for i, channels in enumerate([64, 128, 256, 512, 512])
    }
    assert sites(create_model("towernet", "simam")) == {f"attn.{i}": 256 for i in range(4)}
    assert (
        sites(create_model("mobilenet_v2", "simam"))["features.2.attn"] == 96
        and sites(create_model("mobilenet_v2", "se"))["features.2.attn"] == 24
    )


def test_stages_can_be_chosen_and_take_their_own_arguments():
    chosen = sites(create_model("resnet18", "gc", {"stages": [2, 4]}))
    assert set(chosen) == {f"layer{stage}.{block}.attn" for stage in (2, 4) for block in (0, 1)}
    net = create_model("resnet18", "eca", {"k_size": [3, 5, 7, 9]})
    assert [getattr(net, f"layer{stage}")[0].attn.k_size for stage in (1, 2, 3, 4)] == [3, 5, 7, 9]


@pytest.mark.parametrize("model", ["resnet18", "resnet50", "mobilenet_v2", "vgg19", "towernet"])
def test_features_have_the_channels_and_strides_that_they_say(model: str):
    maps = create_model(model, "simam", features_only=True)
    maps.eval()
    found = maps(paddle.zeros([1, 3, 128, 160]))
    assert [list(map_.shape) for map_ in found] == [
        [1, c, 128 // s, 160 // s] for c, s in zip(maps.channels, maps.strides, strict=True)
    ]
    assert maps.strides == [4, 8, 16, 32]


# ---- what create_model knows and refuses


def test_models_know_what_they_expect():
    assert model_spec("towernet").input_size == 256
    for model in PADDLES:
        spec = model_spec(model)
        assert (spec.input_size, spec.mean, spec.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_none_is_a_word_for_no_attention():
    assert trainable_params(create_model("towernet", "none")) == trainable_params(
        create_model("towernet", None)
    )


def test_list_models_takes_a_pattern():
    assert list_models("resnet*") == ["resnet101", "resnet152", "resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet5O"}, ["unknown model 'resnet5O'", "towernet", "did you mean 'resnet50'?"]),
        ({"name": "resnet18", "attn": "cbma"}, ["unknown attention 'cbma'", "did you mean 'cbam'?"]),
        (
            {"name": "resnet18", "attn": "se", "attn_pos": "front"},
            [
                "unknown attention position for this network 'front'",
                "paper, post_add, post_bn, pre_bn, stage",
            ],
        ),
        ({"name": "resnet18", "attn_kwargs": {"groups": 8}}, ["without an attention"]),
        (
            {"name": "towernet", "attn": "se", "attn_pos": "pre_bn"},
            ["unknown attention position for this network 'pre_bn'", "paper, post_pool"],
        ),
        ({"name": "resnet50", "attn": "se", "attn_pos": "unit"}, ["'unit'"]),
        ({"name": "resnet50", "attn": "sk", "pretrained": True}, ["'sk' replaces the 3x3 convolutions"]),
        ({"name": "resnet50", "attn": "sk", "attn_kwargs": {"stride": 2}}, ["the stride is the network's"]),
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
            {"name": "cifar_resnet20", "features_only": True},
            ["strides 4, 8, 16 and 32, which cifar_resnet20 has not"],
        ),
        ({"name": "mobilenet_v2", "attn": "sge"}, ["groups must divide channels", "16 channels", "64"]),
        ({"name": "resnet18", "num_classes": 0}, ["num_classes", "0"]),
        ({"name": "towernet", "pretrained": True}, ["no ImageNet weights for towernet"]),
    ],
)
def test_errors_say_what_was_expected_and_found(arguments: dict, words: list[str]):
    with pytest.raises(ValueError) as error:
        create_model(**arguments)
    for word in words:
        assert word in str(error.value)
