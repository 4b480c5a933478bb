"""MobileNetV2, for ImageNet and for CIFAR.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arxiv.org/abs/1801.04381.
Parameters have the names of `paddle.vision.models.mobilenetv2`; an attention's are `*.attn.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from paddle import Tensor, nn
from paddle.nn.initializer import Constant, Normal
from paddle.vision.models.mobilenetv2 import model_urls

from ..attention.layers import initialise, pytorch_default
from ..ops.layers import BatchNorm2D, Linear, batch_norm
from .placement import Placement
from .resnet import SIMAM_REPOSITORY, conv, he_fan_out
from .spec import CifarSpec, ModelSpec

STAGES = (  # expansion, output channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
BLOCKS = sum(blocks for _, _, blocks, _ in STAGES)
LAST_CHANNELS = 1280


class ConvBNReLU(nn.Sequential):
    """A convolution, a batch norm and `relu()`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        groups: int,
        relu: type[nn.Layer],
    ):
        convolution = conv(in_channels, out_channels, kernel_size, stride, groups)
        super().__init__(convolution, BatchNorm2D(out_channels), relu())

    def forward(self, x: Tensor) -> Tensor:
        return batch_norm(self[1], self[0](x), activation=self[2])


class InvertedResidual(nn.Layer):
    """Expand 1x1, depthwise 3x3, project 1x1; a shortcut when the shape stays the same.

    Shape: `[N, in, H, W] -> [N, out, H/stride, W/stride]`.

    `conv` holds the layers under Paddle's names: [expand,]
    depthwise, projection, batch norm. `small_images` is the block of the CIFAR network: it expands by 1 too,
    uses ReLU instead of ReLU6, and projects the shortcut when only the channels change.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        placement: Placement,
        small_images: bool,
    ):
        super().__init__()
        hidden = in_channels * expansion
        relu = nn.ReLU if small_images else nn.ReLU6
        expand = [ConvBNReLU(in_channels, hidden, 1, 1, 1, relu)] if expansion > 1 or small_images else []
        depthwise = ConvBNReLU(hidden, hidden, 3, stride, hidden, relu)
        self.conv = nn.Sequential(
            *expand, depthwise, conv(hidden, out_channels, 1), BatchNorm2D(out_channels)
        )
        self.has_shortcut = stride == 1 and (in_channels == out_channels or small_images)
        self.downsample = None
        if self.has_shortcut and in_channels != out_channels:
            self.downsample = nn.Sequential(conv(in_channels, out_channels, 1), BatchNorm2D(out_channels))
        self.slot = placement.slot
        self.attn = None
        if self.slot != "pre_project" or expansion > 1:
            self.attn = placement.make(out_channels if self.slot in ("post_bn", "post_add") else hidden)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = None
        if self.has_shortcut:
            shortcut = x if self.downsample is None else self.downsample(x)
        *expand, depthwise, project, project_bn = self.conv
        for layer in expand:
            x = layer(x)
        depthwise_conv, depthwise_bn, relu = depthwise
        x = depthwise_conv(x)
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = batch_norm(depthwise_bn, x, activation=relu)
        if self.slot == "pre_project" and self.attn is not None:
            x = self.attn(x)
        x = project(x)
        if self.slot == "post_bn":
            x = self.attn(project_bn(x))
            return x if shortcut is None else x + shortcut
        x = batch_norm(project_bn, x, shortcut)
        if self.slot == "post_add":
            x = self.attn(x)
        return x


class MobileNetV2(nn.Layer):
    """`[N, 3, H, W] -> [N, num_classes]`.

    Args:
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
        small_images: the CIFAR form: stride 1 in the stem and the second stage, other blocks.
    """

    classifier_name = "classifier.1."
    void_biases: ClassVar[Mapping[str, str]] = {}
    torch_names = (
        # the SimAM repository for ImageNet: an attention is an element of `conv`; SimAM shifts a batch norm
        (r"^(features\.\d+)\.conv\.\d+\.([A-Za-z]\w*\.)", r"\1.attn.\2"),
        (r"^(features\.\d+\.conv\.\d)\.2\.", r"\1.1."),
        (r"^classifier\.0\.", "classifier.1."),
        # the SimAM repository for CIFAR
        *((rf"^layers\.{index}\.", f"features.{index + 1}.") for index in range(BLOCKS)),
        (r"^conv1\.", "features.0.0."),
        (r"^bn1\.", "features.0.1."),
        (r"^conv2\.", f"features.{BLOCKS + 1}.0."),
        (r"^bn2\.", f"features.{BLOCKS + 1}.1."),
        (r"^linear\.", "classifier.1."),
        *SIMAM_REPOSITORY,
        (r"\.shortcut\.", ".downsample."),
        (r"^(features\.\d+)\.conv1\.", r"\1.conv.0.0."),
        (r"^(features\.\d+)\.bn1\.", r"\1.conv.0.1."),
        (r"^(features\.\d+)\.conv2\.", r"\1.conv.1.0."),
        (r"^(features\.\d+)\.bn2\.", r"\1.conv.1.1."),
        (r"^(features\.\d+)\.conv3\.", r"\1.conv.2."),
        (r"^(features\.\d+)\.bn3\.", r"\1.conv.3."),
    )

    def __init__(self, num_classes: int, placements: Sequence[Placement], small_images: bool = False):
        super().__init__()
        relu = nn.ReLU if small_images else nn.ReLU6
        channels = 32
        features = [ConvBNReLU(3, channels, 3, 1 if small_images else 2, 1, relu)]
        self.feature_channels: list[int] = []
        self.feature_ends: list[int] = []  # indices of the blocks whose maps are features
        for stage, ((expansion, out_channels, blocks, stride), placement) in enumerate(
            zip(STAGES, placements, strict=True)
        ):
            stride = 1 if small_images and stage == 1 else stride
            if stride == 2 and stage > 1:
                self.feature_channels.append(channels)
                self.feature_ends.append(len(features) - 1)
            for index in range(blocks):
                features.append(
                    InvertedResidual(
                        channels,
                        out_channels,
                        stride if index == 0 else 1,
                        expansion,
                        placement.block(index),
                        small_images,
                    )
                )
                channels = out_channels
        self.feature_channels.append(channels)
        self.feature_ends.append(len(features) - 1)
        features.append(ConvBNReLU(channels, LAST_CHANNELS, 1, 1, 1, relu))
        self.features = nn.Sequential(*features)
        self.pool2d_avg = nn.AdaptiveAvgPool2D(1)
        # no dropout, as in the SimAM repository; the first layer gives the second its name in Paddle
        self.classifier = nn.Sequential(nn.Dropout(0.0), Linear(LAST_CHANNELS, num_classes))
        if small_images:
            pytorch_default(self)
        else:
            he_fan_out(self)
            for layer in self.sublayers():
                if isinstance(layer, nn.Linear):  # of the attentions too
                    initialise(layer, Normal(0.0, 0.01), Constant(0.0))

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The last map of each stride, before the last convolution: 4, 8, 16, 32 (1, 2, 4, 8)."""
        maps = []
        for index, layer in enumerate(self.features[:-1]):
            x = layer(x)
            if index in self.feature_ends:
                maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        x = self.features[-1](self.forward_features(x)[-1])
        return self.classifier(self.pool2d_avg(x).flatten(1))


COMMON = {
    "slots": ("pre_bn", "post_bn", "post_add", "pre_project"),
    "unpublished_slots": ("stage",),
    "stages": len(STAGES),
}
MODELS: dict[str, ModelSpec] = {
    "mobilenet_v2": ModelSpec(
        MobileNetV2,
        **COMMON,
        stage_strides=(2, 4, 8, 16, 16, 32, 32),
        pretrained=model_urls["mobilenetv2_1.0"],
    ),
    "cifar_mobilenetv2": CifarSpec(
        partial(MobileNetV2, small_images=True),
        **COMMON,
        feature_strides=(1, 2, 4, 8),
        stage_strides=(1, 1, 2, 4, 4, 8, 8),
    ),
}
