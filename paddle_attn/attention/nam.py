"""NAM: a gate for every neuron from its batch norm, weighted by the channel's share of the norm's scales.

Liu, Shao, Teng and Hoffmann, "NAM: Normalization-based Attention Module", NeurIPS 2021 workshop,
arxiv.org/abs/2111.12419
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from ..ops.layers import BatchNorm2D
from .base import Attention, scale, sigmoid_gate


class NormalizationAttention(Attention):
    """`x * sigmoid(w * bn(x))` with `w = |scale| / sum |scale|` of the batch norm.

    No gradient flows through w, as in the authors' code.

    Args:
        channels: of the input.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is `[N, C, H, W]`; it starts near 0.5,
    because w is 1 / C. When all scales are 0 it is 0.5 (the authors' code: NaN).

    Known difference: the paper also has a spatial branch, which was never released, and writes the gate
    without the product. The authors' training for CIFAR can add 1e-4 * sign(scale) to the gradients of the
    scales, an L1 penalty, which is absent here. Copies that let the gradient flow through w are wrong by as
    much as the gradient itself.
    """

    torch_names = ((r"\.nam\.", ".attn."), (r"\bChannel_Att\.bn2\.", "bn."))
    flow = """
    s = x -> batch norm @bn [C, H, W] -> × its share of all scales -> sigmoid
    y = x, s -> × [C, H, W]
    """

    def __init__(self, channels: int):
        super().__init__(channels)
        self.bn = BatchNorm2D(channels)

    def forward(self, x: Tensor) -> Tensor:
        return sigmoid_gate(x, self.bn(x), self._share(x))

    def gate(self, x: Tensor) -> Tensor:
        return F.sigmoid(scale(self.bn(x), self._share(x).reshape([1, -1, 1, 1])))

    def _share(self, x: Tensor) -> Tensor:
        """Of the sum of all scales, for each channel: `[C]`."""
        scales = self.bn.weight.abs()
        share = scales / paddle.clip(scales.sum(), min=1e-30)
        # not the weight's own detach: an exported program then writes |weight| over the weight
        return share.detach().astype(x.dtype)

    def macs(self, height: int, width: int) -> int:
        # scale and shift, weight, sigmoid, product; absolute value, sum, quotient of the scales
        return 4 * self.channels * height * width + 3 * self.channels
