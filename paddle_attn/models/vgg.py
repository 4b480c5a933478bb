"""VGG19 without batch norm.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
arxiv.org/abs/1409.1556. Parameters have the names of `paddle.vision.models.vgg`; an attention's are
`attn.<stage>.*`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import ClassVar

from paddle import Tensor, nn
from paddle.vision.models.vgg import model_urls

from ..attention.base import adaptive_mean, is_static
from ..ops.layers import Conv2D, Linear, MaxPool2D, ReLU
from .placement import Placement
from .spec import ModelSpec

# channels and convolutions of each stage, which a max-pool ends
VGG19_STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))


class VGG(nn.Layer):
    """Five stages of 3x3 convolutions with ReLU, then three linear layers.

    Shape: `[N, 3, H, W] -> [N, num_classes]`, H and W at least 32.

    Args:
        stages: channels and number of convolutions in each stage.
        num_classes: of the classifier.
        placements: of the attention, one for each stage (`placement.place`).
    """

    classifier_name = "classifier.6."
    void_biases: ClassVar[Mapping[str, str]] = {}
    torch_names = ()

    def __init__(self, stages: Sequence[tuple[int, int]], num_classes: int, placements: Sequence[Placement]):
        super().__init__()
        features: list[nn.Layer] = []
        channels = 3
        for width, depth in stages:
            for _ in range(depth):
                features += [Conv2D(channels, width, 3, padding=1), ReLU()]
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
            Linear(channels * 7 * 7, 4096),
            nn.ReLU(),
            nn.Dropout(),
            Linear(4096, 4096),
            nn.ReLU(),
            nn.Dropout(),
            Linear(4096, num_classes),
        )

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The maps after the second to the fifth max-pool, strides 4, 8, 16 and 32."""
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
        # ONNX has no adaptive pooling of a map whose size is unknown
        x = self.avgpool(x) if is_static(x) else adaptive_mean(x, 7, 7)
        return self.classifier(x.flatten(1))


MODELS: dict[str, ModelSpec] = {
    "vgg19": ModelSpec(
        partial(VGG, VGG19_STAGES),
        slots=("pre_pool",),
        default_slot="pre_pool",
        stages=len(VGG19_STAGES),
        stage_strides=(1, 2, 4, 8, 16),
        pretrained=model_urls["vgg19"],
    ),
}
