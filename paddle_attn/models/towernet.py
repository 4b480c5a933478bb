"""TowerNet: four convolutions, then three Inception blocks; the network of the notebook behind this project.

The blocks are those of Szegedy et al., "Going Deeper with Convolutions", CVPR 2015. Parameters have the
notebook's names, b1 to b6, and its checkpoints load. Three differences from the notebook change no result:

- Convolutions before a batch norm have no bias, because the norm removes it. A checkpoint's bias is folded
  into the running mean.
- ReLU follows the max-pool. The two commute, and a quarter of the elements remains.
- Global average pooling accepts any size, not only 256 px.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from ..errors import UserError
from ..ops.layers import BatchNorm2D, Conv2D, Linear, max_pool2d, relu
from .placement import Placement
from .spec import ModelSpec

MIN_SIZE = 128  # px, what seven halvings need
# the notebook's statistics in the loader's order R, G, B (the notebook had them as B, G, R)
MEAN, STD = (0.5740969, 0.5463266, 0.5095035), (0.29220656, 0.26041326, 0.26059777)


class Inception(nn.Layer):
    """Four parallel routes, concatenated: `[N, in, H, W] -> [N, 256, H, W]`."""

    def __init__(self, in_channels: int):
        super().__init__()
        self.route1x1_1 = Conv2D(in_channels, 64, 1)
        self.route1x1_2 = Conv2D(in_channels, 64, 1)
        self.route3x3_2 = Conv2D(64, 128, 3, padding=1)
        self.route1x1_3 = Conv2D(in_channels, 16, 1)
        self.route5x5_3 = Conv2D(16, 32, 5, padding=2)
        self.route1x1_4 = Conv2D(in_channels, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        route1 = relu(self.route1x1_1(x))
        route2 = relu(self.route3x3_2(relu(self.route1x1_2(x))))
        route3 = relu(self.route5x5_3(relu(self.route1x1_3(x))))
        route4 = relu(self.route1x1_4(max_pool2d(x, 3, stride=1, padding=1)))
        return paddle.concat([route1, route2, route3, route4], axis=1)


def conv_bn(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    convolution = Conv2D(in_channels, out_channels, 3, stride, padding=1, bias_attr=False)
    return nn.Sequential(convolution, BatchNorm2D(out_channels, epsilon=1e-3))


class TowerNet(nn.Layer):
    """`[N, 3, H, W] -> [N, num_classes]`, H and W at least 128.

    Args:
        num_classes: of the classifier.
        placements: of the attention, one for each of its four places: after the max-pools of b3 and b4 and
            the two inside b5.

    Raises: UserError from `forward` when the image is smaller than 128 px.
    """

    classifier_name = "b6."
    # only the notebook's checkpoints have these biases; each is folded into the running mean after it
    void_biases: ClassVar[Mapping[str, str]] = {f"b{i}.0.0.bias": f"b{i}.0.1._mean" for i in (1, 2, 3, 4)}
    torch_names = ()
    feature_channels = (64, 128, 256, 256)

    def __init__(self, num_classes: int, placements: Sequence[Placement]):
        super().__init__()
        self.b1 = nn.Sequential(conv_bn(3, 64, stride=2))
        self.b2 = nn.Sequential(conv_bn(64, 128))
        self.b3 = nn.Sequential(conv_bn(128, 256))
        self.b4 = nn.Sequential(conv_bn(256, 256))
        # the notebook also counts the pools and attentions between them
        self.b5 = nn.LayerDict({"0": Inception(256), "3": Inception(256), "6": Inception(256)})
        self.b6 = Linear(256, num_classes)
        self.attn = nn.LayerDict()
        for site, placement in enumerate(placements):
            if placement.slot == "post_pool":
                self.attn[str(site)] = placement.make(256)

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The maps after b1 to b4 and their max-pools, strides 4, 8, 16 and 32."""
        if paddle.in_dynamic_mode() and min(x.shape[2:]) < MIN_SIZE:
            raise UserError(
                f"towernet needs images of at least {MIN_SIZE}x{MIN_SIZE} px, found {x.shape[2]}x{x.shape[3]}"
            )
        x1 = relu(max_pool2d(self.b1(x), 2, 2))
        x2 = relu(max_pool2d(self.b2(x1), 2, 2))
        x3 = self._attend(0, relu(max_pool2d(self.b3(x2), 2, 2)))
        x4 = self._attend(1, relu(max_pool2d(self.b4(x3), 2, 2)))
        return [x1, x2, x3, x4]

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)[-1]
        x = self.b5["0"](x)
        x = self._attend(2, max_pool2d(x, 2, 2))
        x = self.b5["3"](x)
        x = self._attend(3, max_pool2d(x, 2, 2))
        x = self.b5["6"](x)
        return self.b6(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def _attend(self, site: int, x: Tensor) -> Tensor:
        return self.attn[str(site)](x) if str(site) in self.attn else x


MODELS: dict[str, ModelSpec] = {
    "towernet": ModelSpec(
        TowerNet,
        slots=("post_pool",),
        default_slot="post_pool",
        stage_strides=(16, 32, 64, 128),
        input_size=256,
        min_size=MIN_SIZE,
        mean=MEAN,
        std=STD,
        num_classes=16,
        packaged={None: "towernet.safetensors", "simam": "towernet_simam.safetensors"},
    ),
}
