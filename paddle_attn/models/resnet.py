"""ResNet and ResNeXt (version 1.5: the stride is on the 3x3 convolution).

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al., "Aggregated Residual Transformations for
Deep Neural Networks", CVPR 2017. Parameters have the names of `paddle.vision.models.resnet`; the attention's are `*.attn.*`.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from .placement import NO_ATTENTION, Placement

HE_FAN_OUT = ParamAttr(initializer=nn.initializer.KaimingNormal(mode="fan_out"))


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Conv2D:
    """A convolution in front of a batch norm: size-preserving padding, no bias."""
    padding = kernel_size // 2
    return nn.Conv2D(in_channels, out_channels, kernel_size, stride, padding, groups=groups, weight_attr=HE_FAN_OUT, bias_attr=False)


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and a shortcut: `[N, in, H, W] -> [N, width, H/stride, W/stride]`."""

    kind = "basic"
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Layer | None, groups: int, base_width: int, placement: Placement):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = nn.BatchNorm2D(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = nn.BatchNorm2D(width)
        self.downsample = downsample
        self.slot = placement.slot
        self.attn = placement.make(width)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.conv2(x)
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = self.bn2(x)
        if self.slot == "post_bn":
            x = self.attn(x)
        return F.relu(x + shortcut)


class BottleneckBlock(nn.Layer):
    """1x1, 3x3, 1x1 convolutions and a shortcut: `[N, in, H, W] -> [N, 4 * width, H/stride, W/stride]`."""

    kind = "bottleneck"
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, downsample: nn.Layer | None, groups: int, base_width: int, placement: Placement):
        super().__init__()
        out_channels = width * self.expansion
        inner = width * base_width // 64 * groups
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = nn.BatchNorm2D(inner)
        self.conv2 = conv(inner, inner, 3, stride, groups)
        self.bn2 = nn.BatchNorm2D(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = nn.BatchNorm2D(out_channels)
        self.downsample = downsample
        self.slot = placement.slot
        self.attn = placement.make(inner if self.slot == "pre_bn" else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.conv2(x)
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = F.relu(self.bn2(x))
        x = self.bn3(self.conv3(x))
        if self.slot == "post_bn":
            x = self.attn(x)
        return F.relu(x + shortcut)


class ResNet(nn.Layer):
    """A stem, four stages of blocks, global average pooling and a linear classifier: `[N, 3, H, W] -> [N, num_classes]`.

    Args:
        block: BasicBlock or BottleneckBlock.
        depths: the number of blocks in each of the four stages.
        num_classes: of the classifier.
        placement: the attention of every block and its slot (`placement.place`).
        groups, base_width: ResNeXt's: of the 3x3 convolutions in bottlenecks.
    """

    classifier_prefix = "fc."

    def __init__(
        self,
        block: type[BasicBlock] | type[BottleneckBlock],
        depths: tuple[int, int, int, int],
        num_classes: int = 1000,
        placement: Placement = NO_ATTENTION,
        groups: int = 1,
        base_width: int = 64,
    ):
        super().__init__()
        self.conv1 = conv(3, 64, 7, stride=2)
        self.bn1 = nn.BatchNorm2D(64)
        self.maxpool = nn.MaxPool2D(3, stride=2, padding=1)
        channels = 64
        for stage, depth in enumerate(depths):
            width, stride = 64 << stage, 1 if stage == 0 else 2
            blocks = []
            for index in range(depth):
                downsample = None
                if index == 0 and (stride != 1 or channels != width * block.expansion):
                    downsample = nn.Sequential(conv(channels, width * block.expansion, 1, stride), nn.BatchNorm2D(width * block.expansion))
                blocks.append(block(channels, width, stride if index == 0 else 1, downsample, groups, base_width, placement))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(F.relu(self.bn1(self.conv1(x))))
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        return self.fc(self.avgpool(x).flatten(1))


def resnet18(num_classes: int, placement: Placement) -> ResNet:
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, placement)


def resnet34(num_classes: int, placement: Placement) -> ResNet:
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, placement)


def resnet50(num_classes: int, placement: Placement) -> ResNet:
    return ResNet(BottleneckBlock, (3, 4, 6, 3), num_classes, placement)


def resnet101(num_classes: int, placement: Placement) -> ResNet:
    return ResNet(BottleneckBlock, (3, 4, 23, 3), num_classes, placement)


def resnext50_32x4d(num_classes: int, placement: Placement) -> ResNet:
    return ResNet(BottleneckBlock, (3, 4, 6, 3), num_classes, placement, groups=32, base_width=4)
