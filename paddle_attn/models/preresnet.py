"""PreResNet and WideResNet for CIFAR: batch norm and ReLU come before each convolution.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arxiv.org/abs/1603.05027; Zagoruyko and
Komodakis, "Wide Residual Networks", BMVC 2016, arxiv.org/abs/1605.07146. An attention's parameters are
`*.attn.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn.initializer import Constant

from ..attention.layers import pytorch_default
from ..ops.layers import BatchNorm2D, Linear, batch_norm
from .placement import Placement
from .resnet import SIMAM_REPOSITORY, conv, he_fan_out
from .spec import CifarSpec, ModelSpec


class PreBasicBlock(nn.Layer):
    """Twice batch norm, ReLU, 3x3 convolution; a shortcut: `[N, in, H, W] -> [N, width, H/stride, W/stride]`.

    A shortcut that changes the shape is a 1x1 convolution of the block's input, as in the SimAM repository.
    """

    slots = ("post_bn", "post_add", "inner", "stage")  # no pre_bn: the 3x3 convolution ends the branch
    expansion = 1
    dropout_rate = 0.0
    activates_shortcut = False

    def __init__(self, in_channels: int, width: int, stride: int, placement: Placement):
        super().__init__()
        self.bn1 = BatchNorm2D(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn2 = BatchNorm2D(width)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.conv2 = conv(width, width, 3)
        self.downsample = conv(in_channels, width, 1, stride) if stride != 1 or in_channels != width else None
        self.slot = placement.slot
        self.attn = placement.make(width) if self.slot in ("post_bn", "post_add", "inner") else None

    def forward(self, x: Tensor) -> Tensor:
        activated = batch_norm(self.bn1, x, activation=F.relu)
        shortcut = (
            x if self.downsample is None else self.downsample(activated if self.activates_shortcut else x)
        )
        x = self.conv1(activated)
        x = self.dropout(batch_norm(self.bn2, x, activation=F.relu))
        if self.slot == "inner":
            x = self.attn(x)
        x = self.conv2(x)
        if self.slot == "post_bn":
            x = self.attn(x)
        x = x + shortcut
        if self.slot == "post_add":
            x = self.attn(x)
        return x


class WideBasicBlock(PreBasicBlock):
    """WideResNet's block: with dropout; a convolution in the shortcut takes the activated input."""

    dropout_rate = 0.3
    activates_shortcut = True


class PreBottleneckBlock(nn.Layer):
    """The same with 1x1, 3x3 and 1x1 convolutions: `[N, in, H, W] -> [N, 4 * width, H/stride, W/stride]`."""

    slots = ("pre_bn", "post_bn", "post_add", "inner", "stage")
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, placement: Placement):
        super().__init__()
        out_channels = width * self.expansion
        self.bn1 = BatchNorm2D(in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.bn2 = BatchNorm2D(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = BatchNorm2D(width)
        self.conv3 = conv(width, out_channels, 1)
        self.downsample = (
            conv(in_channels, out_channels, 1, stride) if stride != 1 or in_channels != out_channels else None
        )
        self.slot = placement.slot
        if self.slot in ("pre_bn", "post_bn", "post_add", "inner"):
            self.attn = placement.make(width if self.slot in ("pre_bn", "inner") else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(batch_norm(self.bn1, x, activation=F.relu))
        x = self.conv2(batch_norm(self.bn2, x, activation=F.relu))
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = batch_norm(self.bn3, x, activation=F.relu)
        if self.slot == "inner":
            x = self.attn(x)
        x = self.conv3(x)
        if self.slot == "post_bn":
            x = self.attn(x)
        x = x + shortcut
        if self.slot == "post_add":
            x = self.attn(x)
        return x


Block = type[PreBasicBlock] | type[PreBottleneckBlock]


class PreResNet(nn.Layer):
    """A 3x3 convolution, three stages of blocks, batch norm, ReLU, global average pooling, a classifier.

    Shape: `[N, 3, H, W] -> [N, num_classes]`.

    Args:
        block: PreBasicBlock, WideBasicBlock or PreBottleneckBlock.
        depth: the number of blocks in each stage.
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
        widen: WideResNet's factor: the stages have `16 * widen` channels, twice and four times that many; the
            first convolution keeps 16.
    """

    classifier_name = "fc."
    void_biases: ClassVar[Mapping[str, str]] = {}
    torch_names = (
        (r"^block(\d)\.layer\.", r"layer\1."),  # WideResNet's
        (r"^bn1\.", "bn."),
        *SIMAM_REPOSITORY,
        (r"^linear\.", "fc."),
        (r"\.shortcut\.0\.", ".downsample."),
        (r"\.convShortcut\.", ".downsample."),
    )

    def __init__(
        self,
        block: Block,
        depth: int,
        num_classes: int,
        placements: Sequence[Placement],
        widen: int = 1,
    ):
        super().__init__()
        channels = 16
        self.conv1 = conv(3, channels, 3)
        self.feature_channels: list[int] = []
        self.attn = nn.LayerDict()
        for stage, placement in enumerate(placements):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, 16 * widen << stage, stride, placement.block(index)))
                channels = (16 * widen << stage) * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            if placement.slot == "stage" and stage + 1 < len(placements):
                self.attn[str(stage + 1)] = placement.make(channels)
            self.feature_channels.append(channels)
        self.bn = BatchNorm2D(channels)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc = Linear(channels, num_classes)
        if widen == 1:
            pytorch_default(self)
        else:
            he_fan_out(self)
            pytorch_default(self.fc)
            Constant(0.0)(self.fc.bias)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The map after each stage, before the last batch norm: strides 1, 2 and 4."""
        x = self.conv1(x)
        maps = []
        for stage in ("1", "2", "3"):
            x = getattr(self, f"layer{stage}")(x)
            if stage in self.attn:
                x = self.attn[stage](x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = batch_norm(self.bn, self.forward_features(x)[-1], activation=F.relu)
        return self.fc(self.avgpool(x).flatten(1))


def cifar_spec(block: Block, depth: int, **kwargs: int) -> ModelSpec:
    return CifarSpec(partial(PreResNet, block, depth, **kwargs), slots=block.slots)


MODELS: dict[str, ModelSpec] = {
    "cifar_preresnet20": cifar_spec(PreBasicBlock, 3),
    "cifar_preresnet32": cifar_spec(PreBasicBlock, 5),
    "cifar_preresnet56": cifar_spec(PreBasicBlock, 9),
    "cifar_preresnet110": cifar_spec(PreBasicBlock, 18),
    "cifar_preresnet164": cifar_spec(PreBottleneckBlock, 18),
    "cifar_wideresnet28x10": cifar_spec(WideBasicBlock, 4, widen=10),
    "cifar_wideresnet40x10": cifar_spec(WideBasicBlock, 6, widen=10),
}
