"""Attention inserted into networks of Paddle and of users."""

from __future__ import annotations

import copy
import gc
from pathlib import Path

import numpy as np
import paddle
import pytest
from helpers import assert_learns, smaller_kwargs
from paddle.static import InputSpec
from paddle.vision import models

from paddle_attn import create_model, insert_attention, list_attention
from paddle_attn.errors import UserError

SIZE = 64
NETWORKS = {  # and a pattern of their sublayers
    "densenet121": (models.densenet121, "db_conv_2.*"),
    "shufflenet_v2": (models.shufflenet_v2_x0_25, "2_*"),
    "squeezenet": (models.squeezenet1_1, "_conv[12]"),
    "googlenet": (models.googlenet, "_ince*"),
    "resnet18": (models.resnet18, "layer3.*.conv2"),
    "mobilenet_v2": (models.mobilenet_v2, "features.*.conv"),
}


def small(name: str) -> paddle.nn.Layer:
    paddle.seed(0)
    net = NETWORKS[name][0](num_classes=4)
    net.eval()
    return net


def answer(net: paddle.nn.Layer, x: paddle.Tensor) -> np.ndarray:
    out = net(x)
    return (
        out[0] if isinstance(out, (list, tuple)) else out
    ).numpy()  # GoogLeNet also returns auxiliary outputs


@pytest.mark.parametrize("name", NETWORKS)
def test_paddles_networks_keep_their_names_and_compute_another_function(name: str):
    size = 224 if name == "googlenet" else SIZE  # GoogLeNet's auxiliary classifiers need it
    net, x = small(name), paddle.randn([2, 3, size, size])
    before, answered = {key: value.numpy() for key, value in net.state_dict().items()}, answer(net, x)
    places = insert_attention(net, "se", after=NETWORKS[name][1], size=size, reduction=2)
    after = net.state_dict()
    assert set(before) <= set(after) and all(
        np.array_equal(after[key].numpy(), before[key]) for key in before
    )
    added = {f"{place}.attn.fc.{i}.weight" for place in places for i in (0, 2)}
    assert added and set(after) - set(before) == added
    assert np.abs(answer(net, x) - answered).max() > 0


def test_attentions_follow_the_sublayers_that_match_the_pattern():
    net = small("resnet18")
    assert insert_attention(net, "simam", after="layer[34].*.conv2", size=SIZE) == [
        f"layer{i}.{j}.conv2" for i in (3, 4) for j in (0, 1)
    ]
    assert net.layer3[0].conv2.attn.channels == 256


@pytest.mark.parametrize("name", list_attention())
def test_an_inserted_attention_computes_the_same_as_alone(name: str):
    class Net(paddle.nn.Layer):
        def __init__(self):
            super().__init__()
            self.body = paddle.nn.Conv2D(3, 128, 3)  # as wide as the defaults of every module need
            self.head = paddle.nn.Linear(128, 2)

        def forward(self, x):
            return self.head(self.body(x).mean([2, 3]))

    net = Net()
    net.eval()
    x = paddle.randn([2, 3, 16, 12])
    plain = net.body(x)
    assert insert_attention(net, name, after="body", size=16) == ["body"]
    net.eval()
    np.testing.assert_allclose(
        net(x).numpy(), net.head(net.body.attn(plain).mean([2, 3])).numpy(), rtol=1e-5, atol=1e-6
    )


def test_state_dict_copy_export_and_training_work(tmp_path: Path):
    net, other = small("mobilenet_v2"), small("mobilenet_v2")
    for one in (net, other):
        insert_attention(one, "cbam", after="features.*.conv", size=SIZE, reduction=4)
        one.eval()
    x = paddle.randn([2, 3, SIZE, SIZE])
    copied = copy.deepcopy(net)
    other.set_state_dict(net.state_dict())
    np.testing.assert_allclose(answer(other, x), answer(net, x), rtol=1e-5)
    np.testing.assert_allclose(answer(copied, x), answer(net, x), rtol=1e-5)
    spec = [InputSpec([None, 3, SIZE, SIZE], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(copied, input_spec=spec, full_graph=True), str(tmp_path / "net"))
    np.testing.assert_allclose(
        paddle.jit.load(str(tmp_path / "net"))(x).numpy(), answer(net, x), rtol=1e-4, atol=1e-6
    )
    model = paddle.Model(net)
    model.prepare(paddle.optimizer.SGD(0.1, parameters=net.parameters()), paddle.nn.CrossEntropyLoss())
    before = net.features[1].conv.attn.channel_gate.mlp[2].bias.numpy().copy()
    model.train_batch([x], [paddle.to_tensor([0, 1])])
    assert not np.array_equal(net.features[1].conv.attn.channel_gate.mlp[2].bias.numpy(), before)


@pytest.mark.parametrize("name", ["densenet121", "shufflenet_v2", "squeezenet", "googlenet"])
def test_state_dict_training_and_export_work_in_other_networks(name: str, tmp_path: Path):
    size = 224 if name == "googlenet" else SIZE
    net, other = small(name), small(name)
    for one in (net, other):
        insert_attention(one, "eca", after=NETWORKS[name][1], size=size, k_size=3)
        one.eval()
    x = paddle.randn([2, 3, size, size])
    other.set_state_dict(net.state_dict())
    np.testing.assert_allclose(answer(other, x), answer(net, x), rtol=1e-5)
    spec = [InputSpec([None, 3, size, size], "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(other, input_spec=spec, full_graph=True), str(tmp_path / "net"))
    np.testing.assert_allclose(
        answer(paddle.jit.load(str(tmp_path / "net")), x), answer(net, x), rtol=1e-3, atol=1e-5
    )

    def loss(out, label):
        return paddle.nn.functional.cross_entropy(out[0] if isinstance(out, (list, tuple)) else out, label)

    model = paddle.Model(net)
    model.prepare(
        paddle.optimizer.SGD(0.1, parameters=net.parameters()), lambda *outs: loss(outs[0], outs[-1])
    )
    key = next(key for key in net.state_dict() if key.endswith(".attn.conv.weight"))
    before = net.state_dict()[key].numpy().copy()
    model.train_batch([x], [paddle.to_tensor([0, 1])])
    assert not np.array_equal(net.state_dict()[key].numpy(), before)


def learns_and_exports(network: str, attn: str, folder: Path) -> None:
    """Insert, train a step, export, and compare at another size and batch."""
    size, other = (224, 216) if network == "googlenet" else (SIZE, SIZE + 40)
    net = small(network)
    assert insert_attention(net, attn, after=NETWORKS[network][1], size=size, **smaller_kwargs(attn))
    assert_learns(net, paddle.randn([2, 3, size, size]))
    net.eval()
    # Paddle's own ShuffleNet has no export with a dynamic height: its reshape takes one unknown side
    sides = [other, other] if network == "shufflenet_v2" else [None, None]
    spec = [InputSpec([None, 3, *sides], "float32", "x")]
    x = paddle.randn([3, 3, other, other])
    expected = answer(net, x)
    paddle.jit.save(paddle.jit.to_static(net, input_spec=spec, full_graph=True), str(folder / "net"))
    found = answer(paddle.jit.load(str(folder / "net")), x)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    gc.collect()  # traced programs and their networks form cycles


@pytest.mark.parametrize("attn", list_attention())
def test_every_attention_learns_and_exports_in_one_network(attn: str, tmp_path: Path):
    learns_and_exports("squeezenet", attn, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("attn", list_attention())
@pytest.mark.parametrize("network", [name for name in NETWORKS if name != "squeezenet"])
def test_every_attention_learns_and_exports_in_every_other_network(network: str, attn: str, tmp_path: Path):
    learns_and_exports(network, attn, tmp_path)


def test_a_layer_that_is_called_more_than_once_is_an_error():
    net = paddle.vision.models.resnet50(num_classes=4)
    with pytest.raises(UserError, match=r"calls the sublayer 'layer1\.0\.relu' 3 times, expected once"):
        insert_attention(net, "se", after="layer1.*.relu", size=SIZE)


def test_an_attention_inherits_the_mode_and_fits_this_zoos_plain_blocks():
    net = create_model("resnet18", num_classes=4)
    net.eval()
    assert insert_attention(net, "srm", after="layer1.*", size=SIZE) == ["layer1.0", "layer1.1"]
    assert not net.layer1[0].attn.bn.training
    assert net(paddle.randn([1, 3, SIZE, SIZE])).shape == [1, 4]


def test_a_sequential_with_another_forward_applies_the_attention():
    class FirstOnly(paddle.nn.Sequential):
        def forward(self, x):
            return self[0](x)

    net = paddle.nn.Sequential(FirstOnly(paddle.nn.Conv2D(3, 8, 1)), paddle.nn.Flatten())
    x = paddle.randn([1, 3, 8, 8])
    plain = net(x).numpy()
    insert_attention(net, "simam", after="0", size=8)
    assert np.abs(net(x).numpy() - plain).max() > 0


def test_a_network_for_grayscale_images_takes_one():
    net = paddle.vision.models.LeNet()
    with pytest.raises(UserError, match=r"fails on an image of shape \[1, 3, 28, 28\].*in_channels"):
        insert_attention(net, "simam", after="features.2", size=28)
    assert insert_attention(net, "simam", after="features.2", size=28, in_channels=1) == ["features.2"]
    assert net(paddle.randn([2, 1, 28, 28])).shape == [2, 10]


def test_an_error_leaves_the_network_unchanged():
    net = small("resnet18")
    keys = set(net.state_dict())
    with pytest.raises(UserError, match=r"unknown sublayer pattern 'layer3\.\*\.conv9'"):
        insert_attention(net, "simam", after="layer3.*.conv9", size=SIZE)
    with pytest.raises(UserError, match="unknown attention 'simm'"):
        insert_attention(net, "simm", after="layer3.*.conv2", size=SIZE)
    with pytest.raises(UserError, match=r"the sublayer 'fc' gives no map .*output of shape \[1, 4\]"):
        insert_attention(net, "se", after="fc", size=SIZE)
    with pytest.raises(
        UserError, match=r"groups must divide channels.*behind the sublayer 'layer3\.0\.conv2'"
    ):
        insert_attention(net, "sge", after="layer3.*.conv2", size=SIZE, groups=7)
    assert set(net.state_dict()) == keys
    insert_attention(net, "se", after="layer3.*.conv2", size=SIZE)
    with pytest.raises(UserError, match=r"the sublayer 'layer3\.0\.conv2' has an 'attn' already"):
        insert_attention(net, "simam", after="layer*.*.conv2", size=SIZE)


@pytest.mark.parametrize("key", ["size", "in_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "1", None, True, 10**9])
def test_an_image_of_an_impossible_shape_is_refused(key: str, value: object):
    with pytest.raises(UserError, match=f"{key} must be a whole number from 1 to 8,192, found {value!r}"):
        insert_attention(paddle.nn.Conv2D(3, 8, 3), "simam", after="x", **{key: value})
