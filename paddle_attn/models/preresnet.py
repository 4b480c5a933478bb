"""CIFAR's networks with the activation before the convolution: PreResNet and WideResNet.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, arxiv.org/abs/1603.05027; Zagoruyko and Komodakis, "Wide
Residual Networks", BMVC 2016, arxiv.org/abs/1605.07146. The attention's parameters are `*.attn.*`.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle.nn.functional as F
from paddle import Tensor, nn

from .placement import Placement
from .resnet import conv


class PreBasicBlock(nn.Layer):
    """Batch norm, ReLU, 3x3 convolution, twice, and a shortcut: `[N, in, H, W] -> [N, width, H/stride, W/stride]`.

    A shortcut that changes the shape is a 1x1 convolution of the input, as in the SimAM repository.
    """

    expansion = 1
    dropout_rate = 0.0
    activates_shortcut = False

    def __init__(self, in_channels: int, width: int, stride: int, placement: Placement):
        super().__init__()
        self.bn1 = nn.BatchNorm2D(in_channels)
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn2 = nn.BatchNorm2D(width)
        self.dropout = nn.Dropout(self.dropout_rate)
        self.conv2 = conv(width, width, 3)
        self.downsample = conv(in_channels, width, 1, stride) if stride != 1 or in_channels != width else None
        self.slot = placement.slot
        self.attn = placement.make(width) if self.slot in ("post_bn", "post_add") else None

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        shortcut = (
            x if self.downsample is None else self.downsample(activated if self.activates_shortcut else x)
        )
        x = self.conv1(activated)
        x = self.dropout(F.relu(self.bn2(x)))
        x = self.conv2(x)
        if self.slot == "post_bn":
            x = self.attn(x)
        x = x + shortcut
        if self.slot == "post_add":
            x = self.attn(x)
        return x


class WideBasicBlock(PreBasicBlock):
    """WideResNet's: dropout before the second convolution, and a shortcut that changes the shape takes the activated input."""

    dropout_rate = 0.3
    activates_shortcut = True


class PreBottleneckBlock(nn.Layer):
    """The same with 1x1, 3x3, 1x1 convolutions: `[N, in, H, W] -> [N, 4 * width, H/stride, W/stride]`."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, placement: Placement):
        super().__init__()
        out_channels = width * self.expansion
        self.bn1 = nn.BatchNorm2D(in_channels)
        self.conv1 = conv(in_channels, width, 1)
        self.bn2 = nn.BatchNorm2D(width)
        self.conv2 = conv(width, width, 3, stride)
        self.bn3 = nn.BatchNorm2D(width)
        self.conv3 = conv(width, out_channels, 1)
        self.downsample = (
            conv(in_channels, out_channels, 1, stride) if stride != 1 or in_channels != out_channels else None
        )
        self.slot = placement.slot
        if self.slot in ("pre_bn", "post_bn", "post_add"):
            self.attn = placement.make(width if self.slot == "pre_bn" else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(F.relu(self.bn1(x)))
        x = self.conv2(F.relu(self.bn2(x)))
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = self.conv3(F.relu(self.bn3(x)))
        if self.slot == "post_bn":
            x = self.attn(x)
        x = x + shortcut
        if self.slot == "post_add":
            x = self.attn(x)
        return x


class PreResNet(nn.Layer):
    """A 3x3 convolution, three stages of blocks, batch norm, ReLU, global average, classifier: `[N, 3, H, W] -> [N, num_classes]`.

    Args:
        block: PreBasicBlock, WideBasicBlock or PreBottleneckBlock.
        depth: the number of blocks in each stage.
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
        widen: WideResNet's factor: the stages are `16 * widen`, twice and four times that wide; the first convolution stays 16.
    """

    classifier_prefix = "fc."

    def __init__(
        self,
        block: type[PreBasicBlock] | type[PreBottleneckBlock],
        depth: int,
        num_classes: int,
        placements: Sequence[Placement],
        widen: int = 1,
    ):
        super().__init__()
        channels = 16
        self.conv1 = conv(3, channels, 3)
        self.attn = nn.LayerDict()
        for stage, placement in enumerate(placements):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, 16 * widen << stage, stride, placement))
                channels = (16 * widen << stage) * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            if placement.slot == "stage" and stage + 1 < len(placements):
                self.attn[str(stage + 1)] = placement.make(channels)
        self.bn = nn.BatchNorm2D(channels)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for stage in ("1", "2", "3"):
            x = getattr(self, f"layer{stage}")(x)
            if stage in self.attn:
                x = self.attn[stage](x)
        x = F.relu(self.bn(x))
        return self.fc(self.avgpool(x).flatten(1))


def cifar_preresnet20(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(PreBasicBlock, 3, num_classes, placements)


def cifar_preresnet32(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(PreBasicBlock, 5, num_classes, placements)


def cifar_preresnet56(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(PreBasicBlock, 9, num_classes, placements)


def cifar_preresnet110(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(PreBasicBlock, 18, num_classes, placements)


def cifar_preresnet164(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(PreBottleneckBlock, 18, num_classes, placements)


def cifar_wideresnet28x10(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(WideBasicBlock, 4, num_classes, placements, widen=10)


def cifar_wideresnet40x10(num_classes: int, placements: Sequence[Placement]) -> PreResNet:
    return PreResNet(WideBasicBlock, 6, num_classes, placements, widen=10)
