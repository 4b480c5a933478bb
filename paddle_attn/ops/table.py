"""The fused operators: which operator has a fused form on which device.

To add a fused form, write its source in the device's folder and add its entry to `TABLE`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import paddle
from paddle import Tensor, _C_ops

from ..runtime import Machine


@dataclass(frozen=True)
class Fused:
    """The fused form of an operator on one device, with its gradient. Calling it runs it.

    Attributes:
        source: the C++ file, relative to this folder. One file may hold several operators.
        name: the name that the source registers with Paddle.
        dtypes: the supported types of the first input.
        min_places: the smallest supported H * W of a map. By default a 1x1 map is left to the reference form.
            With None the first input can have any shape.
        processor: the flag in /proc/cpuinfo of a processor that runs it; "" for any.
    """

    source: str
    name: str
    dtypes: tuple[paddle.dtype, ...] = (paddle.float32,)
    min_places: int | None = 2
    processor: str = ""

    def runs_on(self, machine: Machine) -> bool:
        """Whether the machine's processor has the instructions. Without them it is not compiled either."""
        return not self.processor or self.processor in machine.flags

    def supports(self, x: Tensor) -> bool:
        """Whether x, the first input or the first of a list, is of a supported type, shape and size, and not
        empty.
        """
        shape = x.shape
        if x.dtype not in self.dtypes or 0 in shape:
            return False
        return self.min_places is None or (len(shape) == 4 and shape[2] * shape[3] >= self.min_places)

    def __call__(self, *arguments: Tensor | int | float | bool | list[Tensor] | list[float]) -> Tensor:
        """The output for the operator's inputs, followed by its attributes. Only in dynamic mode."""
        return all_outputs(self, *arguments)[0]


# not a method: Paddle's SOT does not trace one
def all_outputs(
    fused: Fused, *arguments: Tensor | int | float | bool | list[Tensor] | list[float]
) -> list[Tensor]:
    """The same as a call of `fused`, with the outputs after the first, which mostly serve the gradient."""
    outputs = _C_ops._run_custom_op(fused.name, *arguments)
    # Paddle records custom operators under no_grad too: the chain of their inputs would stay in memory
    return outputs if paddle.is_grad_enabled() else [output.detach() for output in outputs]


Bfloat16 = partial(Fused, min_places=1, processor="avx512_bf16")

TABLE: dict[str, dict[str, Fused]] = {  # operator -> device -> fused form
    # attention.SimAM: (x [N, C, H, W], e_lambda) -> [N, C, H, W]
    "simam": {"cpu": Fused("cpu/simam.cc", "paddle_attn_simam")},
    # attention.SpatialGroupEnhance: (x [N, C, H, W], weight [1, G, 1, 1], bias [1, G, 1, 1]) -> [N, C, H, W]
    "sge": {"cpu": Fused("cpu/sge.cc", "paddle_attn_sge")},
    # attention.GatedChannelTransformation with the l2 norm: (x [N, C, H, W], alpha, gamma, beta [1, C, 1, 1],
    # epsilon) -> [N, C, H, W]
    "gct": {"cpu": Fused("cpu/gct.cc", "paddle_attn_gct", min_places=1)},
    # x * gate: (x [N, C, H, W], gate [N, C, 1, 1] or [N, 1, H, W]) -> [N, C, H, W]
    "scale": {"cpu": Fused("cpu/gate.cc", "paddle_attn_scale")},
    # the mean of each plane: (x [N, C, H, W]) -> [N, C, 1, 1]
    "mean": {"cpu": Fused("cpu/gate.cc", "paddle_attn_mean")},
    # the mean of each row, then of each column: (x [N, C, H, W]) -> [N, C, H + W, 1]
    "strip_mean": {"cpu": Fused("cpu/strips.cc", "paddle_attn_strip_mean")},
    # the maximum of each row, then of each column: (x [N, C, H, W]) -> [N, C, H + W, 1]
    "strip_max": {"cpu": Fused("cpu/strips.cc", "paddle_attn_strip_max")},
    # x times the product of a number for its row and one for its column, or times their sum:
    # (x [N, C, H, W], strip [N, C, H + W, 1], by_sum) -> [N, C, H, W]
    "strip_scale": {"cpu": Fused("cpu/strips.cc", "paddle_attn_strip_scale")},
    # x * sigmoid(z factor + shift): (x, z [N, C, H, W], factor, shift [C]) -> [N, C, H, W]
    "sigmoid_gate": {"cpu": Fused("cpu/sigmoid_gate.cc", "paddle_attn_sigmoid_gate")},
    # the maximum and the mean over the channels: (x [N, C, H, W]) -> [N, 2, H, W]
    "channel_pool": {"cpu": Fused("cpu/gate.cc", "paddle_attn_channel_pool")},
    # attention.SqueezeExcite without biases: (x [N, C, H, W], weights [C, R] and [R, C]) -> [N, C, H, W]
    "se": {"cpu": Fused("cpu/channel_gate.cc", "paddle_attn_se")},
    # CBAM's channel gate: (x [N, C, H, W], weights and biases [C, R], [R], [R, C], [C]) -> [N, C, H, W], and
    # the maximum and the mean of that over the channels [N, 2, H, W]
    "cbam": {"cpu": Fused("cpu/channel_gate.cc", "paddle_attn_cbam")},
    # F.conv2d, 3x3, padding 1, C groups: (x [N, C, H, W], weight [C, 1, 3, 3], stride) -> [N, C, H', W']
    "depthwise": {"cpu": Fused("cpu/depthwise.cc", "paddle_attn_depthwise")},
    # F.conv2d, 3x3, padding 1, stride 1: (x [N, C, H, W], weight [K, C, 3, 3]) -> [N, K, H, W]
    # where Paddle gives Inf, these two may give NaN
    "conv3x3": {"cpu": Fused("cpu/winograd.cc", "paddle_attn_conv3x3")},
    # the same with a bias [K] as the third input
    "conv3x3_bias": {"cpu": Fused("cpu/winograd.cc", "paddle_attn_conv3x3_bias")},
    # F.conv2d, k x k with k = 1, 3, 5 or 7, padding (k - 1) / 2: (x [N, C, H, W], weight [K, C, k, k],
    # stride 1 or 2, whether x needs a gradient) -> [N, K, H', W']
    "conv_direct": {"cpu": Fused("cpu/direct.cc", "paddle_attn_conv_direct", min_places=1)},
    # F.conv2d by oneDNN, odd kernel sides, padding dilation (k - 1) / 2: (x [N, C, H, W],
    # weight [K, C / groups, h, w], stride 1 or 2, dilation, whether x needs a gradient) -> [N, K, H', W'],
    # and with a bias [K] as the third input
    "onednn_conv": {"cpu": Fused("cpu/onednn_conv.cc", "paddle_attn_onednn_conv", min_places=1)},
    "onednn_conv_bias": {"cpu": Fused("cpu/onednn_conv.cc", "paddle_attn_onednn_conv_bias", min_places=1)},
    # the same two for `autocast`: multiplied in bfloat16
    "bfloat16_conv": {"cpu": Bfloat16("cpu/onednn_conv.cc", "paddle_attn_bfloat16_conv")},
    "bfloat16_conv_bias": {"cpu": Bfloat16("cpu/onednn_conv.cc", "paddle_attn_bfloat16_conv_bias")},
    # F.relu: (x [N, C, H, W]) -> [N, C, H, W]
    "relu": {"cpu": Fused("cpu/relu.cc", "paddle_attn_relu", min_places=1)},
    # F.max_pool2d: (x [N, C, H, W], kernel_size, stride, padding) -> [N, C, H', W']
    "max_pool": {"cpu": Fused("cpu/maxpool.cc", "paddle_attn_max_pool")},
    # activation(F.batch_norm): (x [N, C, H, W], scale [C], bias [C], running mean [C], running variance [C],
    # activation, frozen, momentum, epsilon) -> [N, C, H, W]; updates the running statistics unless frozen
    "batch_norm": {"cpu": Fused("cpu/batch_norm.cc", "paddle_attn_batch_norm", min_places=1)},
    # activation(F.batch_norm + residual): the same with residual [N, C, H, W] as the second input
    "batch_norm_add": {"cpu": Fused("cpu/batch_norm.cc", "paddle_attn_batch_norm_add", min_places=1)},
    # the updates of all parameters by Paddle's optimisers, in place; rates, decays (L2) and shrinks (AdamW's
    # decay) have a number for each parameter, clip_norm can be 0 -> the norm of all gradients, or 0 [1]
    # Momentum: (parameters, gradients, velocities, rates, decays, momentum, clip_norm)
    "momentum": {"cpu": Fused("cpu/optimizer.cc", "paddle_attn_momentum", min_places=None)},
    # Adam, AdamW: (parameters, gradients, first moments, second moments, powers of beta1, powers of beta2,
    # rates, decays, shrinks, beta1, beta2, epsilon, clip_norm)
    "adam": {"cpu": Fused("cpu/optimizer.cc", "paddle_attn_adam", min_places=None)},
}
