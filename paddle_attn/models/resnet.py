"""ResNet and ResNeXt (version 1.5: the 3x3 convolution has the stride), for ImageNet and for CIFAR.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al., "Aggregated Residual
Transformations for Deep Neural Networks", CVPR 2017. Parameters have the names of
`paddle.vision.models.resnet`; an attention's are `*.attn.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

import paddle.nn.functional as F
from paddle import Tensor, nn
from paddle.nn.initializer import KaimingNormal
from paddle.vision.models.resnet import model_urls

from ..attention.layers import initialise, pytorch_default
from ..ops.layers import BatchNorm2D, Conv2D, Linear, MaxPool2D, batch_norm, relu
from .placement import Placement
from .spec import CifarSpec, ModelSpec

# The SimAM repository puts an attention and the layer before it into a Sequential.
SIMAM_REPOSITORY = (
    (r"\.(bn[23]|conv[23])\.0\.", r".\1."),
    (r"\.(bn[23]|conv[23])\.1\.", ".attn."),
)


def conv(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> Conv2D:
    """A convolution before a batch norm: no bias, padding that keeps the size."""
    padding = kernel_size // 2
    return Conv2D(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias_attr=False)


def before_each(placement: Placement, **channels: int | None) -> nn.LayerDict:
    """An attention in front of each convolution of a block, by the names of the convolutions that exist."""
    return nn.LayerDict({name: placement.make(number) for name, number in channels.items() if number})


def attend(block: nn.Layer, convolution: str, x: Tensor) -> Tensor:
    """The attention in front of a convolution, for the slot `pre_conv`."""
    return block.attn[convolution](x) if block.slot == "pre_conv" else x


def he_fan_out(net: nn.Layer) -> None:
    """Start each 2-D convolution as He et al. propose, normal with std sqrt(2 / fan out); attentions' too,
    as in the authors' networks.
    """
    for layer in net.sublayers():
        if isinstance(layer, nn.Conv2D):
            initialise(layer, KaimingNormal(mode="fan_out"))


class BasicBlock(nn.Layer):
    """Two 3x3 convolutions and a shortcut: `[N, in, H, W] -> [N, width, H/stride, W/stride]`."""

    slots = ("pre_conv", "pre_bn", "post_bn", "post_add", "post_relu", "inner", "stage")
    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Layer | None,
        groups: int,
        base_width: int,
        placement: Placement,
    ):
        super().__init__()
        self.conv1 = conv(in_channels, width, 3, stride)
        self.bn1 = BatchNorm2D(width)
        self.conv2 = conv(width, width, 3)
        self.bn2 = BatchNorm2D(width)
        self.downsample = downsample
        self.slot = placement.slot
        self.attn = None
        if self.slot == "pre_conv":
            shortcut = in_channels if downsample else None
            self.attn = before_each(placement, downsample=shortcut, conv1=in_channels, conv2=width)
        elif self.slot in ("pre_bn", "post_bn", "post_add", "post_relu", "inner"):
            self.attn = placement.make(width)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(attend(self, "downsample", x))
        x = batch_norm(self.bn1, self.conv1(attend(self, "conv1", x)), activation=F.relu)
        if self.slot == "inner":
            x = self.attn(x)
        x = self.conv2(attend(self, "conv2", x))
        if self.slot == "pre_bn":
            x = self.attn(x)
        if self.slot == "post_bn":
            return relu(self.attn(self.bn2(x)) + shortcut)
        if self.slot == "post_add":
            return relu(self.attn(batch_norm(self.bn2, x, shortcut)))
        x = batch_norm(self.bn2, x, shortcut, F.relu)
        return self.attn(x) if self.slot == "post_relu" else x


class BottleneckBlock(nn.Layer):
    """1x1, 3x3, 1x1 convolutions and a shortcut: `[N, in, H, W] -> [N, 4 * width, H/stride, W/stride]`."""

    slots = ("pre_conv", "pre_bn", "post_bn", "post_add", "post_relu", "inner", "stage", "unit")
    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        stride: int,
        downsample: nn.Layer | None,
        groups: int,
        base_width: int,
        placement: Placement,
    ):
        super().__init__()
        out_channels = width * self.expansion
        inner = width * base_width // 64 * groups
        self.conv1 = conv(in_channels, inner, 1)
        self.bn1 = BatchNorm2D(inner)
        self.slot = placement.slot
        if self.slot == "unit":
            self.unit = placement.make(inner, stride=stride)
        else:
            self.conv2 = conv(inner, inner, 3, stride, groups)
            self.bn2 = BatchNorm2D(inner)
        self.conv3 = conv(inner, out_channels, 1)
        self.bn3 = BatchNorm2D(out_channels)
        self.downsample = downsample
        if self.slot == "pre_conv":
            shortcut = in_channels if downsample else None
            self.attn = before_each(
                placement, downsample=shortcut, conv1=in_channels, conv2=inner, conv3=inner
            )
        elif self.slot in ("pre_bn", "post_bn", "post_add", "post_relu", "inner"):
            self.attn = placement.make(inner if self.slot in ("pre_bn", "inner") else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(attend(self, "downsample", x))
        x = batch_norm(self.bn1, self.conv1(attend(self, "conv1", x)), activation=F.relu)
        if self.slot == "unit":
            x = self.unit(x)
        else:
            x = self.conv2(attend(self, "conv2", x))
            if self.slot == "pre_bn":
                x = self.attn(x)
            x = batch_norm(self.bn2, x, activation=F.relu)
        if self.slot == "inner":
            x = self.attn(x)
        x = self.conv3(attend(self, "conv3", x))
        if self.slot == "post_bn":
            return relu(self.attn(self.bn3(x)) + shortcut)
        if self.slot == "post_add":
            return relu(self.attn(batch_norm(self.bn3, x, shortcut)))
        x = batch_norm(self.bn3, x, shortcut, F.relu)
        return self.attn(x) if self.slot == "post_relu" else x


Block = type[BasicBlock] | type[BottleneckBlock]


class ResNet(nn.Layer):
    """A stem, stages of blocks, global average pooling, a classifier: `[N, 3, H, W] -> [N, num_classes]`.

    Args:
        block: BasicBlock or BottleneckBlock.
        depths: the number of blocks in each stage.
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
        width: of the first stage; each further one doubles it.
        small_images: CIFAR's stem, one 3x3 convolution instead of a 7x7 with stride 2 and a max-pool.
        groups, base_width: of the 3x3 convolutions in ResNeXt's bottlenecks.
    """

    classifier_name = "fc."
    void_biases: ClassVar[Mapping[str, str]] = {}
    torch_names = (
        *SIMAM_REPOSITORY,
        (r"^linear\.", "fc."),
        (r"\.shortcut\.", ".downsample."),
    )

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        num_classes: int,
        placements: Sequence[Placement],
        width: int = 64,
        small_images: bool = False,
        groups: int = 1,
        base_width: int = 64,
    ):
        super().__init__()
        self.conv1 = conv(3, width, 3) if small_images else conv(3, width, 7, stride=2)
        self.bn1 = BatchNorm2D(width)
        self.maxpool = nn.Identity() if small_images else MaxPool2D(3, stride=2, padding=1)
        self.feature_channels: list[int] = []
        self.attn = nn.LayerDict()
        self.slot = placements[0].slot
        if self.slot == "pre_conv":
            self.attn["conv1"] = placements[0].make(3)
        channels = width
        for stage, (depth, placement) in enumerate(zip(depths, placements, strict=True)):
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                out_channels = (width << stage) * block.expansion
                downsample = None
                if stride != 1 or channels != out_channels:
                    downsample = nn.Sequential(
                        conv(channels, out_channels, 1, stride), BatchNorm2D(out_channels)
                    )
                here = placement.block(index)
                blocks.append(block(channels, width << stage, stride, downsample, groups, base_width, here))
                channels = out_channels
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            if placement.slot == "stage" and stage + 1 < len(depths):
                self.attn[str(stage + 1)] = placement.make(channels)
            self.feature_channels.append(channels)
        self.avgpool = nn.AdaptiveAvgPool2D(1)
        self.fc = Linear(channels, num_classes)
        if small_images:
            pytorch_default(self)
        else:
            he_fan_out(self)
            pytorch_default(self.fc)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The map after each stage, strides 4, 8, 16 and 32; 1, 2 and 4 for small images."""
        x = self.maxpool(batch_norm(self.bn1, self.conv1(attend(self, "conv1", x)), activation=F.relu))
        maps = []
        for stage in range(1, len(self.feature_channels) + 1):
            x = getattr(self, f"layer{stage}")(x)
            if str(stage) in self.attn:
                x = self.attn[str(stage)](x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)[-1]
        return self.fc(self.avgpool(x).flatten(1))


def imagenet_spec(block: Block, depths: Sequence[int], weights: tuple[str, str], **kwargs: int) -> ModelSpec:
    return ModelSpec(partial(ResNet, block, depths, **kwargs), slots=block.slots, pretrained=weights)


def cifar_spec(block: Block, depth: int) -> ModelSpec:
    return CifarSpec(partial(ResNet, block, [depth] * 3, width=16, small_images=True), slots=block.slots)


MODELS: dict[str, ModelSpec] = {
    "resnet18": imagenet_spec(BasicBlock, (2, 2, 2, 2), model_urls["resnet18"]),
    "resnet34": imagenet_spec(BasicBlock, (3, 4, 6, 3), model_urls["resnet34"]),
    "resnet50": imagenet_spec(BottleneckBlock, (3, 4, 6, 3), model_urls["resnet50"]),
    "resnet101": imagenet_spec(BottleneckBlock, (3, 4, 23, 3), model_urls["resnet101"]),
    "resnet152": imagenet_spec(BottleneckBlock, (3, 8, 36, 3), model_urls["resnet152"]),
    "resnext50_32x4d": imagenet_spec(
        BottleneckBlock, (3, 4, 6, 3), model_urls["resnext50_32x4d"], groups=32, base_width=4
    ),
    "cifar_resnet20": cifar_spec(BasicBlock, 3),
    "cifar_resnet32": cifar_spec(BasicBlock, 5),
    "cifar_resnet56": cifar_spec(BasicBlock, 9),
    "cifar_resnet110": cifar_spec(BasicBlock, 18),
    "cifar_resnet164": cifar_spec(BottleneckBlock, 18),
}
