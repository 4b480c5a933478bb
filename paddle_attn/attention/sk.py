"""SK: two convolutions with different receptive fields, and for every channel a soft choice between them.

Li et al., "Selective Kernel Networks", CVPR 2019, arxiv.org/abs/1903.06586, in the form of the PytorchInsight
repository, which produced the numbers that the SGE paper compares with.
"""

from __future__ import annotations

import paddle.nn.functional as F
from paddle import Tensor

from ..errors import UserError
from ..ops.layers import BatchNorm2D, Conv2D
from .base import Attention, largest_divisor
from .layers import pytorch_default
from .se import hidden_width


class SelectiveKernel(Attention):
    """Replaces a bottleneck's 3x3 convolution with its batch norm and ReLU.

    The branches are a dense and a grouped 3x3 convolution, each with batch norm and ReLU. The global average
    of their sum goes through two 1x1 convolutions; a softmax over the branches gives each channel its
    weights.

    Args:
        channels: in and out.
        stride: of both convolutions.
        groups: of the grouped convolution, a divisor of channels.
        reduction: the 1x1 convolutions have `channels // reduction` hidden channels.

    Shape: `[N, C, H, W] -> [N, C, H/stride, W/stride]`.

    Raises: ValueError when groups does not divide channels, or reduction leaves no hidden channel.
    """

    paper_slot = "unit"
    needs = "a bottleneck, whose 3×3 convolution it replaces; channels in multiples of `groups` (32)"
    torch_names = (
        (r"\.conv2\.", ".unit.conv."),
        (r"\.bn2\.", ".unit.bn."),
        (r"\.conv2g\.", ".unit.conv_grouped."),
        (r"\.bn2g\.", ".unit.bn_grouped."),
        (r"\.conv_fc1\.", ".unit.squeeze."),
        (r"\.bn_fc1\.", ".unit.squeeze_bn."),
        (r"\.conv_fc2\.", ".unit.select."),
    )
    flow = """
    d = x -> conv 3×3 @conv [C, H, W] -> batch norm @bn [C, H, W] -> ReLU
    g = x -> conv 3×3, 32 groups @conv_grouped [C, H, W] -> batch norm @bn_grouped [C, H, W] -> ReLU
    w = d, g -> + [C, H, W] -> mean over H, W [C, 1, 1] -> conv 1×1 @squeeze [C/16, 1, 1]
        -> batch norm @squeeze_bn [C/16, 1, 1] -> ReLU -> conv 1×1 @select [2C, 1, 1]
        -> softmax over the branches [2, C, 1, 1]
    p = d, w -> × first weights [C, H, W]
    q = g, w -> × second weights [C, H, W]
    y = p, q -> + [C, H, W]
    """

    def __init__(self, channels: int, *, stride: int = 1, groups: int = 32, reduction: int = 16):
        super().__init__(channels)
        if groups < 1 or channels % groups:
            raise ValueError(
                f"groups must divide channels: expected a divisor of {channels} channels, "
                f"such as groups={largest_divisor(channels, groups)}, found {groups}"
            )
        hidden = hidden_width(channels, reduction)
        self.stride = stride
        self.conv = Conv2D(channels, channels, 3, stride, 1, bias_attr=False)
        self.bn = BatchNorm2D(channels)
        self.conv_grouped = Conv2D(channels, channels, 3, stride, 1, groups=groups, bias_attr=False)
        self.bn_grouped = BatchNorm2D(channels)
        self.squeeze = Conv2D(channels, hidden, 1, bias_attr=False)
        self.squeeze_bn = BatchNorm2D(hidden)
        self.select = Conv2D(hidden, 2 * channels, 1, bias_attr=False)
        pytorch_default(self)

    def forward(self, x: Tensor) -> Tensor:
        dense = F.relu(self.bn(self.conv(x)))
        grouped = F.relu(self.bn_grouped(self.conv_grouped(x)))
        summary = F.adaptive_avg_pool2d(dense + grouped, 1)
        scores = self.select(F.relu(self.squeeze_bn(self.squeeze(summary))))
        weights = F.softmax(scores.reshape([0, 2, -1, 1, 1]), axis=1)
        return dense * weights[:, 0] + grouped * weights[:, 1]

    def gate(self, x: Tensor) -> Tensor:
        raise UserError("SK replaces a convolution and has no gate: expected another attention")

    def macs(self, height: int, width: int) -> int:
        """Elementwise work for one image of this height and width, without the convolutions inside."""
        area = -(-height // self.stride) * -(-width // self.stride)
        return 6 * self.channels * area
