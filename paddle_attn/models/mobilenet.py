"""MobileNetV2.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arxiv.org/abs/1801.04381. Parameters have
the names of `paddle.vision.models.mobilenetv2`; the attention's are `*.attn.*`.
"""

from __future__ import annotations

from paddle import ParamAttr, Tensor, nn

from .placement import NO_ATTENTION, Placement
from .resnet import conv

STAGES = (  # expansion, output channels, blocks, stride of the first
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
LAST_CHANNELS = 1280


def conv_bn_relu6(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(in_channels, out_channels, kernel_size, stride, groups), nn.BatchNorm2D(out_channels), nn.ReLU6())


class InvertedResidual(nn.Layer):
    """Expand 1x1, depthwise 3x3, project 1x1; a shortcut where the shape stays: `[N, in, H, W] -> [N, out, H/stride, W/stride]`.

    `conv` holds the layers under Paddle's names: [expand,] depthwise, projection, batch norm.
    """

    kind = "inverted_residual"

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int, placement: Placement):
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [conv_bn_relu6(in_channels, hidden, 1)]
        depthwise = conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden)
        self.conv = nn.Sequential(*expand, depthwise, conv(hidden, out_channels, 1), nn.BatchNorm2D(out_channels))
        self.has_shortcut = stride == 1 and in_channels == out_channels
        self.slot = placement.slot
        self.attn = placement.make(hidden if self.slot == "pre_bn" else out_channels)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        *expand, depthwise, project, project_bn = self.conv
        for layer in expand:
            x = layer(x)
        depthwise_conv, depthwise_bn, relu6 = depthwise
        x = depthwise_conv(x)
        if self.slot == "pre_bn":
            x = self.attn(x)
        x = relu6(depthwise_bn(x))
        x = project_bn(project(x))
        if self.slot == "post_bn":
            x = self.attn(x)
        return x + shortcut if self.has_shortcut else x


class MobileNetV2(nn.Layer):
    """`[N, 3, H, W] -> [N, num_classes]`.

    Args:
        num_classes: of the classifier.
        placement: the attention of every block and its slot (`placement.place`).
        dropout: in front of the classifier.
    """

    classifier_prefix = "classifier."

    def __init__(self, num_classes: int = 1000, placement: Placement = NO_ATTENTION, dropout: float = 0.2):
        super().__init__()
        channels = 32
        features: list[nn.Layer] = [conv_bn_relu6(3, channels, 3, stride=2)]
        for expansion, out_channels, blocks, stride in STAGES:
            for index in range(blocks):
                features.append(InvertedResidual(channels, out_channels, stride if index == 0 else 1, expansion, placement))
                channels = out_channels
        features.append(conv_bn_relu6(channels, LAST_CHANNELS, 1))
        self.features = nn.Sequential(*features)
        self.pool2d_avg = nn.AdaptiveAvgPool2D(1)
        small = ParamAttr(initializer=nn.initializer.Normal(0.0, 0.01))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(LAST_CHANNELS, num_classes, weight_attr=small))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool2d_avg(self.features(x))
        return self.classifier(x.flatten(1))


def mobilenet_v2(num_classes: int, placement: Placement) -> MobileNetV2:
    return MobileNetV2(num_classes, placement)
