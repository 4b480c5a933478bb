"""The backbones: names, counts, placements and logits against the references, and what create_model refuses."""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle.vision import models as paddle_models
from test_attention import our_name, ours

from paddle_attn import create_model, list_attention, list_models, load_weights, model_spec
from paddle_attn.complexity import trainable_params

ZOO = [name for name in list_models() if name != "towernet"]
SMALL = ("mobilenet_v2", "resnet18", "resnet50", "towernet")  # one of each family; vgg19 and the large ones are slow


def kwargs_for(model: str, attn: str | None) -> dict:
    return {"groups": 8} if (model, attn) == ("mobilenet_v2", "sge") else {}


# trainable parameters with 1000 classes: no attention = SimAM, SE without bias, with bias, CBAM, SGE
COUNTS = {
    "resnet18": (11_689_512, 11_776_552, 11_778_592, 11_779_392, 11_690_536),
    "resnet34": (21_797_672, 21_954_856, 21_958_868, 21_960_468, 21_799_720),
    "resnet50": (25_557_032, 28_071_976, 28_088_024, 28_089_624, 25_559_080),
    "resnet101": (44_549_160, 49_292_328, 49_326_872, 49_330_172, 44_553_384),
    "resnext50_32x4d": (25_028_904, 27_543_848, 27_559_896, 27_561_496, 25_030_952),
    "mobilenet_v2": (3_504_872, 3_533_288, 3_534_885, 3_536_585, 3_505_144),
}


@pytest.mark.parametrize("model", COUNTS)
def test_trainable_parameters_are_the_published_ones(model: str):
    def count(attn: str | None, **kwargs) -> int:
        return trainable_params(create_model(model, attn, kwargs or kwargs_for(model, attn), num_classes=1000))

    assert (count(None), count("se"), count("se", bias=True), count("cbam"), count("sge")) == COUNTS[model]
    assert count("simam") == COUNTS[model][0]


def test_towernets_parameters_are_the_notebooks_without_the_void_biases():
    assert trainable_params(create_model("towernet", "simam")) == 1_361_472


@pytest.mark.parametrize("model", ZOO)
def test_parameters_keep_paddles_names_under_every_attention(model: str):
    expected = {key: value.shape for key, value in getattr(paddle_models, model)().state_dict().items()}
    for attn in [None, "cbam"]:  # cbam has parameters and running statistics of its own
        state = create_model(model, attn, kwargs_for(model, attn)).state_dict()
        assert {key: value.shape for key, value in state.items() if not re.search(r"(^|\.)attn\.", key)} == expected


# ---- logits of the authors' networks


def torch_weights(key: str, shape: list[int]) -> np.ndarray:
    """The prescribed weights of a torch key (the reference's README)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith("running_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith("running_var"):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
        value = np.sqrt(2 / np.prod(shape[1:])) * rng.standard_normal(shape)
    elif key.endswith("weight"):
        value = rng.uniform(0.2, 0.6, shape)
    else:
        value = 0.05 * rng.standard_normal(shape)
    return value.astype("float32")


def our_key(torch_key: str, attn: str) -> str:
    """Where the SimAM and PytorchInsight repositories' keys go in our networks."""
    key = re.sub(r"\.(bn[23])\.1\.", ".attn.", torch_key)
    key = re.sub(r"\.(bn[23]|conv2)\.0\.", r".\1.", key)
    key = re.sub(r"(features\.\d+)\.conv\.\d+\.(fc|ChannelGate|SpatialGate)\b", r"\1.attn.\2", key)
    if attn == "simam":  # it pushes the depthwise convolution's batch norm one place on
        key = re.sub(r"(features\.\d+\.conv\.\d)\.2\.", r"\1.1.", key)
    return our_name(key.replace(".sge.", ".attn.").replace("classifier.0", "classifier.1"))


NETWORKS = [
    *(
        f"imagenet/{model}/{attn}"
        for model in ("resnet18", "resnet34", "resnet50", "resnext50_32x4d", "mobilenet_v2")
        for attn in ("none", "simam", "se", "cbam")
    ),
    "imagenet/resnet18/sge",
    "imagenet/resnet50/sge",
]


@pytest.mark.parametrize("entry", NETWORKS)
def test_logits_are_those_of_the_authors_networks(golden: Path, entry: str):
    expected = json.loads((golden / "networks" / "networks.json").read_text())[entry]
    keys = json.loads((golden / "networks" / f"{entry.replace('/', '-')}.keys.json").read_text())
    _, model, attn = entry.split("/")
    net = create_model(model, None if attn == "none" else attn, num_classes=10)
    assert trainable_params(net) == expected["params"]
    state = net.state_dict()
    assert {our_key(key, attn) for key in keys if "num_batches" not in key} == set(state)
    for key, shape in keys.items():
        if "num_batches" not in key:
            state[our_key(key, attn)].set_value(ours(key, torch_weights(key, shape)))
    net.eval()
    x = np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")
    logits = np.array(expected["logits"])
    with paddle.no_grad():
        difference = np.abs(net(paddle.to_tensor(x)).numpy() - logits).max()
    assert difference <= 1e-3 * np.abs(logits).max()


def test_towernet_loads_the_notebooks_checkpoint_and_gives_its_logits(golden: Path):
    expected = json.loads((golden / "networks" / "towernet-simam-notebook.json").read_text())
    net = create_model("towernet", "simam")
    report = load_weights(net, golden / "networks" / "towernet-simam-notebook.pdparams")
    assert report.folded == ("b1.0.0.bias", "b2.0.0.bias", "b3.0.0.bias", "b4.0.0.bias")
    assert not report.missing and not report.unexpected and not report.mismatched
    net.eval()
    x = np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")
    with paddle.no_grad():
        found = net(paddle.to_tensor(x)).numpy()
    np.testing.assert_allclose(found, expected["logits"], atol=1e-5 * np.abs(expected["logits"]).max())


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
    learning: dict[str, bool] = {}  # by the name inside the attention: one site may be dead (ReLU) or 1x1, not all of them
    for name, parameter in net.named_parameters():
        if not parameter.stop_gradient:
            assert parameter.grad is not None and np.isfinite(parameter.grad.numpy()).all(), name
            if "attn." in name:
                inside = re.sub(r".*attn\.(\d+\.)?", "", name)
                learning[inside] = learning.get(inside, False) or np.abs(parameter.grad.numpy()).max() > 0
    assert all(learning.values()), learning


@pytest.mark.parametrize("attn", [None, *list_attention()])
@pytest.mark.parametrize("model", SMALL)
def test_a_small_one_of_each_family_learns_under_every_attention(model: str, attn: str | None):
    goes_forward_backward(model, attn)


@pytest.mark.slow
@pytest.mark.parametrize("attn", [None, *list_attention()])
@pytest.mark.parametrize("model", sorted(set(list_models()) - set(SMALL)))
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


# ---- what create_model knows and refuses


def test_models_know_what_they_expect():
    assert model_spec("towernet").input_size == 256
    for model in ZOO:
        spec = model_spec(model)
        assert (spec.input_size, spec.mean, spec.std) == (224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_none_is_a_word_for_no_attention():
    assert trainable_params(create_model("towernet", "none")) == trainable_params(create_model("towernet", None))


def test_list_models_takes_a_pattern():
    assert list_models("resnet*") == ["resnet101", "resnet18", "resnet34", "resnet50"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "resnet5O"}, ["unknown model 'resnet5O'", "towernet", "did you mean 'resnet50'?"]),
        ({"name": "resnet18", "attn": "cbma"}, ["unknown attention 'cbma'", "did you mean 'cbam'?"]),
        ({"name": "resnet18", "attn": "se", "attn_pos": "front"}, ["unknown attention position 'front'", "paper"]),
        ({"name": "resnet18", "attn_kwargs": {"groups": 8}}, ["without an attention"]),
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
