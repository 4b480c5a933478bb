"""VGG19, without batch norm, as Paddle's own.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arxiv.org/abs/1409.1556. Parameters have the names of `paddle.vision.models.vgg`; the attention's are `attn.<stage>.*`.
"""

from __future__ import annotations

from paddle import Tensor, nn

from .placement import NO_ATTENTION, Placement

VGG19_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions; a max-pool ends each


class VGG(nn.Layer):
    """Five stages of 3x3 convolutions with ReLU, then three linear layers: `[N, 3, H, W] -> [N, num_classes]`, H and W >= 32.

    Args:
        stages: channels and number of convolutions of each stage.
        num_classes: of the classifier.
        placement: the attention of every stage and its slot (`placement.place`).
    """

    kind = "vgg"
    classifier_prefix = "classifier.6."

    def __init__(self, stages: tuple[tuple[int, int], ...] = VGG19_STAGES, num_classes: int = 1000, placement: Placement = NO_ATTENTION):
        super().__init__()
        features: list[nn.Layer] = []
        channels = 3
        for width, depth in stages:
            for _ in range(depth):
                features += [nn.Conv2D(channels, width, 3, padding=1), nn.ReLU()]
                channels = width
            features.append(nn.MaxPool2D(2, 2))
        self.features = nn.Sequential(*features)
        self.slot = placement.slot
        self.attn = nn.LayerList([placement.make(width) for width, _ in stages]) if self.slot else None
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

    def forward(self, x: Tensor) -> Tensor:
        stage = 0
        for layer in self.features:
            if self.slot == "pre_pool" and isinstance(layer, nn.MaxPool2D):
                x = self.attn[stage](x)
                stage += 1
            x = layer(x)
        return self.classifier(self.avgpool(x).flatten(1))


def vgg19(num_classes: int, placement: Placement) -> VGG:
    return VGG(VGG19_STAGES, num_classes, placement)
