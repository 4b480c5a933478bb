"""SE: a gate for every channel from the global averages of all channels.

Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018, arxiv.org/abs/1709.01507
"""

from __future__ import annotations

from paddle import Tensor, nn

from .. import ops
from .base import Attention, global_mean
from .layers import pytorch_default


def hidden_width(channels: int, reduction: int) -> int:
    """The width of a hidden layer, `channels // reduction`. Raises ValueError when it would be 0."""
    if reduction < 1 or channels // reduction < 1:
        raise ValueError(f"reduction must be between 1 and channels ({channels}), found {reduction}")
    return channels // reduction


def plain_weights(perceptron: nn.Sequential, x: Tensor) -> list[Tensor]:
    """The weights and biases of its two linear layers, for a fused form of the whole perceptron.

    Empty when a layer has hooks or was replaced, or when the weights are not of the type of x.
    """
    layers = [perceptron, *perceptron]
    kinds = [nn.Sequential, nn.Linear, nn.ReLU, nn.Linear, nn.Sigmoid]
    if [type(layer) for layer in layers] != kinds[: len(layers)] or not all(map(ops.is_plain, layers)):
        return []
    weights = perceptron.parameters()
    return weights if all(weight.dtype == x.dtype for weight in weights) else []


class SqueezeExcite(Attention):
    """`x * sigmoid(W2 relu(W1 mean_HW(x)))`.

    Args:
        channels: of the input.
        reduction: the hidden layer has `channels // reduction` units.
        bias: of the two linear layers. The authors' Caffe code has it, the SimAM paper's comparison does
            not.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, 1, 1]`.

    Raises: ValueError when reduction leaves no hidden unit.
    """

    needs = "at least `reduction` (16) channels"
    torch_names = ((r"\.se\.", ".attn."),)
    flow = """
    s = x -> mean over H, W [C] -> linear @fc.0 [C/16] -> ReLU -> linear @fc.2 [C] -> sigmoid [C, 1, 1]
    y = x, s -> × [C, H, W]
    """

    def __init__(self, channels: int, *, reduction: int = 16, bias: bool = False):
        super().__init__(channels)
        hidden = hidden_width(channels, reduction)
        bias_attr = None if bias else False
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias_attr=bias_attr),
            nn.ReLU(),
            nn.Linear(hidden, channels, bias_attr=bias_attr),
            nn.Sigmoid(),
        )
        pytorch_default(self)

    def forward(self, x: Tensor) -> Tensor:
        fused, weights = ops.find("se", x), plain_weights(self.fc, x)
        return fused(x, *weights) if fused and len(weights) == 2 else super().forward(x)

    def gate(self, x: Tensor) -> Tensor:
        return self.fc(global_mean(x)).unsqueeze([2, 3])

    def macs(self, height: int, width: int) -> int:
        return 2 * self.channels * height * width + self.channels  # mean, product; sigmoid
