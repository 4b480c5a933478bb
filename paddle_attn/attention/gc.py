"""GC: a context vector, gathered from the whole map by attention, transformed, and added at every position.

Cao et al., "GCNet: Non-local Networks Meet Squeeze-Excitation Networks and Beyond", ICCVW 2019,
arxiv.org/abs/1904.11492
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import ParamAttr, Tensor, nn

from ..errors import UserError
from ..ops.layers import Conv2D
from .base import Attention, global_mean, scale
from .layers import pytorch_default

ZERO = ParamAttr(initializer=nn.initializer.Constant(0.0))
HE = ParamAttr(initializer=nn.initializer.KaimingNormal())


class GlobalContext(Attention):
    """`x + transform(context(x))`, or `x * sigmoid(transform(context(x)))`.

    The context is the average over the map, weighted by the softmax of a 1x1 convolution, or the plain
    average. The transform is linear, layer norm, ReLU, linear. The last layer starts at 0, so the module
    starts as the identity ('mul': as half of it); the mask starts as He et al. propose, with a bias of 0.

    Args:
        channels: of the input.
        ratio: the transform's hidden width is `int(channels * ratio)`; 1/16 or 1/4 in the paper. With a width
            of 1 (16 to 31 channels at 1/16) the layer norm sees one value and the context is constant: narrow
            networks need a larger ratio.
        pooling: 'att' is the weighted average, 'avg' the plain one.
        fusion: 'add' adds the transformed context, 'mul' scales by its sigmoid.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W. `gate(x)` is `[N, C, 1, 1]`, only
    with 'mul'.

    Raises: ValueError when ratio leaves no hidden channel, or for another pooling or fusion.
    """

    needs = "at least 1 / `ratio` (16) channels"
    torch_names = (
        (r"\.context_block\.", ".attn."),
        (r"\bconv_mask\.", "mask."),
        (r"\bchannel_(add|mul)_conv\.", "transform."),
    )
    flow = """
    w = x -> conv 1×1 @mask [1, H, W] -> softmax over H, W
    c = w, x -> weighted sum over H, W [C] -> linear @transform.0 [C/16] -> layer norm @transform.1 [C/16]
        -> ReLU -> linear @transform.3 [C]
    y = x, c -> + [C, H, W]
    """

    def __init__(self, channels: int, *, ratio: float = 1 / 16, pooling: str = "att", fusion: str = "add"):
        super().__init__(channels)
        hidden = int(channels * ratio) if 0 < ratio <= 1 else 0
        if hidden < 1:
            raise ValueError(f"ratio must be from 1 / channels (1/{channels}) to 1, found ratio={ratio:g}")
        if pooling not in ("att", "avg"):
            raise ValueError(f"pooling must be 'att' or 'avg', found '{pooling}'")
        if fusion not in ("add", "mul"):
            raise ValueError(f"fusion must be 'add' or 'mul', found '{fusion}'")
        self.fusion = fusion
        self.mask = Conv2D(channels, 1, 1, weight_attr=HE) if pooling == "att" else None
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden),  # a 1x1 convolution in the authors' code
            nn.LayerNorm(hidden),
            nn.ReLU(),
            nn.Linear(hidden, channels, weight_attr=ZERO, bias_attr=ZERO),
        )
        pytorch_default(self.transform)

    def forward(self, x: Tensor) -> Tensor:
        context = self._transformed_context(x)
        return x + context if self.fusion == "add" else scale(x, F.sigmoid(context))

    def gate(self, x: Tensor) -> Tensor:
        if self.fusion == "add":
            raise UserError("GC with fusion='add' has no gate: it adds to its input, expected fusion='mul'")
        return F.sigmoid(self._transformed_context(x))

    def _transformed_context(self, x: Tensor) -> Tensor:
        """`[N, C, H, W] -> [N, C, 1, 1]`."""
        if self.mask is None:
            context = global_mean(x)
        else:
            weights = F.softmax(self.mask(x).flatten(2), axis=2)  # [N, 1, H*W]
            context = paddle.matmul(x.flatten(2), weights, transpose_y=True).squeeze(2)
        return self.transform(context).unsqueeze([2, 3])

    def macs(self, height: int, width: int) -> int:
        # weighted sum, addition; softmax
        return 2 * self.channels * height * width + 2 * height * width
