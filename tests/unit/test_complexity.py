"""Parameters and multiply-accumulates: counts by hand and published numbers."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddle_attn import create_attention, create_model, insert_attention, profile


class Small(paddle.nn.Layer):
    def __init__(self):
        super().__init__()
        self.conv = paddle.nn.Conv2D(3, 8, 3, stride=2, padding=1, bias_attr=False)
        self.bn = paddle.nn.BatchNorm2D(8)
        self.grouped = paddle.nn.Conv2D(8, 16, 1, groups=4)
        self.attn = create_attention("se", 16, reduction=4)
        self.fc = paddle.nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.attn(self.grouped(self.bn(self.conv(x)))).mean([2, 3]))


def test_a_small_network_has_the_counts_by_hand():
    found = profile(Small(), size=16)
    area = 8 * 8
    attn = 2 * 16 * area + 16 + 16 * 4 + 4 * 16  # mean, product, sigmoid; the two linear layers
    assert found.macs == 8 * area * 3 * 9 + 16 * area * 2 + attn + 16 * 5
    assert (found.attn_macs, found.attn_params, found.attn_sites) == (attn, 2 * 16 * 4, 1)
    # the running statistics of the batch norm do not count
    assert found.params == 8 * 3 * 9 + 2 * 8 + 16 * 2 + 16 + 2 * 16 * 4 + 16 * 5 + 5


@pytest.mark.parametrize(
    ("model", "published"),
    [("resnet18", 1.82), ("resnet34", 3.67), ("resnet50", 4.11), ("mobilenet_v2", 0.31)],
)
def test_macs_are_within_three_percent_of_the_published_ones(model: str, published: float):
    """The papers also count batch norm and pooling."""
    assert profile(create_model(model)).macs / 1e9 == pytest.approx(published, rel=0.03)


def test_a_profile_leaves_the_network_unchanged():
    net = Small()
    net.bn.eval()
    before = {key: value.numpy().copy() for key, value in net.state_dict().items()}
    modes = [layer.training for layer in net.sublayers(include_self=True)]
    profile(net, 16)
    assert [layer.training for layer in net.sublayers(include_self=True)] == modes
    assert all(np.array_equal(value.numpy(), before[key]) for key, value in net.state_dict().items())
    assert not any(layer._forward_post_hooks for layer in net.sublayers(include_self=True))


def test_an_inserted_attention_counts():
    net = paddle.vision.models.resnet18(num_classes=4)
    before = profile(net, 64)
    places = insert_attention(net, "simam", after="layer3.*.conv2", size=64)
    after = profile(net, 64)
    assert after.attn_sites == len(places) == 2 and after.params == before.params
    assert after.macs - before.macs == after.attn_macs == 2 * 7 * 256 * 4 * 4


@pytest.mark.parametrize(
    ("attn", "line"),
    [
        (None, "1,361,472 trainable parameters, 0.794 GMACs, no attention"),
        (
            "simam",
            "1,361,472 trainable parameters, 0.795 GMACs; "
            "of these the attention at 4 places: 0 parameters, 0.0006 GMACs",
        ),
    ],
)
def test_a_profile_prints_as_one_line(attn: str | None, line: str):
    assert str(profile(create_model("towernet", attn), 256)) == line
