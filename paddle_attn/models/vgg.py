"""VGG19, without batch norm, as Paddle's own.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arxiv.org/abs/1409.1556. Parameters have the names of `paddle.vision.models.vgg`; the attention's are `attn.<stage>.*`.
"""

from __future__ import annotations

from collections.abc import Sequence

from paddle import Tensor, nn

from .layers import Conv2D, MaxPool2D
from .placement import Placement

VGG19_STAGES = (
    (64, 2),
    (128, 2),
    (256, 4),
    (512, 4),
    (512, 4),
)  # channels, convolutions; a max-pool ends each


class VGG(nn.Layer):
    """Five stages of 3x3 convolutions with ReLU, then three linear layers: `[N, 3, H, W] -> [N, num_classes]`, H and W >= 32.

    Args:
        stages: channels and number of convolutions of each stage.
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
    """

    classifier_prefix = "classifier.6."

    def __init__(self, stages: Sequence[tuple[int, int]], num_classes: int, placements: Sequence[Placement]):
        super().__init__()
        features: list[nn.Layer] = []
        channels = 3
        for width, depth in stages:
            for _ in range(depth):
                features += [Conv2D(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(MaxPool2D(2, 2))
        self.features = nn.Sequential(*features)
        self.feature_channels = [width for width, _ in stages[1:]]
        self.attn = nn.LayerDict()
        for stage, ((width, _), placement) in enumerate(zip(stages, placements, strict=True)):
            if placement.slot == "pre_pool":
                self.attn[str(stage)] = placement.make(width)
        self.avgpool = nn.AdaptiveAvgPool2D(7)
        self.classifier = nn.Sequential(
            nn.Linear(channels * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            nn.Linear(4096, num_classes),
        )

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The maps behind the second to the last max-pool, strides 4, 8, 16, 32."""
        maps = []
        for layer in self.features:
            if isinstance(layer, MaxPool2D) and str(len(maps)) in self.attn:
                x = self.attn[str(len(maps))](x)
            x = layer(x)
            if isinstance(layer, MaxPool2D):
                maps.append(x)
        return maps[1:]

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)[-1]
        return self.classifier(self.avgpool(x).flatten(1))


def vgg19(num_classes: int, placements: Sequence[Placement]) -> VGG:
    return VGG(VGG19_STAGES, num_classes, placements)
