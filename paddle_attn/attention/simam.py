"""SimAM: a gate for every neuron from its energy, without parameters.

Yang et al., "SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks", ICML 2021,
proceedings.mlr.press/v139/yang21o.html
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from .. import ops
from .base import HALF, Attention, at_least_one, in_float32, is_static, spatial_size


class SimAM(Attention):
    """`x * sigmoid(d / (4 (v + e_lambda)) + 0.5)`.

    d is a neuron's squared distance from the mean of its map, v the map's unbiased variance.

    Args:
        channels: of the input. SimAM has no parameters and accepts any number.
        e_lambda: the regulariser λ. The paper uses 0.1 for ImageNet and COCO, 1e-4 for CIFAR.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. The gate lies in [sigmoid(0.5), 1); a 1x1 map gets
    sigmoid(0.5). Half-precision maps are computed in float32.

    Raises: ValueError when e_lambda is not positive.
    """

    paper_slot = "pre_bn"
    flow = """
    d = x -> (x − mean)² [C, H, W]
    v = d -> sum / (HW − 1) [C, 1, 1]
    s = d, v -> d / 4(v + λ) + ½ [C, H, W] -> sigmoid
    y = x, s -> × [C, H, W]
    """

    def __init__(self, channels: int, *, e_lambda: float = 1e-4):
        super().__init__(channels)
        if not e_lambda > 0:
            raise ValueError(f"e_lambda must be positive, found {e_lambda}")
        self.e_lambda = float(e_lambda)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:  # a sum of squares would overflow
            return in_float32(self.forward, x)
        fused = ops.find("simam", x)
        return fused(x, self.e_lambda) if fused else x * self.gate(x)

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        return F.sigmoid(self.inverse_energy(x))

    def inverse_energy(self, x: Tensor) -> Tensor:
        """The paper's `1 / e_t` for every neuron, its importance: `[N, C, H, W] -> [N, C, H, W]`."""
        if is_static(x):
            return self._by_instance_norm(x, x.shape[2] * x.shape[3])
        d = x - x.mean([2, 3], keepdim=True)
        d = d * d
        v = d.sum([2, 3], keepdim=True) / at_least_one(spatial_size(x) - 1)
        return d / (4 * (v + self.e_lambda)) + 0.5

    def _by_instance_norm(self, x: Tensor, size: int) -> Tensor:
        """The same in one kernel: z = instance_norm(x) has z^2 = d / (biased variance + eps)."""
        if size == 1:
            return paddle.zeros_like(x) + 0.5
        z = F.instance_norm(x, eps=self.e_lambda * (size - 1) / size)
        return z * z * ((size - 1) / (4 * size)) + 0.5

    def macs(self, height: int, width: int) -> int:
        # mean, difference, square, sum, scale and shift, sigmoid, product
        return 7 * self.channels * height * width

    def extra_repr(self) -> str:
        return f"e_lambda={self.e_lambda:g}"
