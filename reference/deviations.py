"""What widely used copies of the modules do otherwise, and by how much it changes the output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn

from paddle_attn.attention import CBAM

from .compare import load_tensors, module_cases

SHAPE = "2x32x7x7"


class Deviation(NamedTuple):
    what: str
    where: str  # the copy that does it
    case: str  # the module of the reference that it is compared with
    apply: Callable[[nn.Layer, Tensor], Tensor]  # the copy's output: from the authors' module and an input
    at_start: bool = False  # with the initial parameters, not the reference's


def deviations(golden: Path) -> list[tuple[Deviation, float]]:
    """Each deviation with the largest change of the output on a reference tensor."""
    cases = {case.name: case for case in module_cases()}
    found = []
    for deviation in DEVIATIONS:
        case = cases[deviation.case]
        tensors = np.load(golden / case.file(SHAPE))
        x = paddle.to_tensor(tensors["x"])
        attn = case.create(x.shape[1]) if deviation.at_start else load_tensors(case, tensors)
        attn.eval()
        with paddle.no_grad():
            expected = attn(x)
            found.append((deviation, float((deviation.apply(attn, x) - expected).abs().max())))
    return found


def _spatial(cbam: CBAM, x: Tensor, pooled: list[Tensor]) -> Tensor:
    gate = cbam.spatial_gate
    return x * F.sigmoid(gate.bn(gate.conv(paddle.concat(pooled, axis=1))))


def _cbam_mean_first(cbam: CBAM, x: Tensor) -> Tensor:
    x = x * cbam.channel_gate(x)
    return _spatial(cbam, x, [x.mean(1, keepdim=True), x.max(1, keepdim=True)])


def _cbam_without_biases(cbam: CBAM, x: Tensor) -> Tensor:
    for layer in (cbam.channel_gate.mlp[0], cbam.channel_gate.mlp[2]):
        layer.bias.set_value(np.zeros(layer.bias.shape, "float32"))
    return cbam(x)


def _cbam_residual(cbam: CBAM, x: Tensor) -> Tensor:
    y = x * cbam.channel_gate(x)
    pooled = paddle.concat([y.max(1, keepdim=True), y.mean(1, keepdim=True)], axis=1)
    return y * F.sigmoid(cbam.spatial_gate.conv(pooled)) + x


def _bam_added(bam: nn.Layer, x: Tensor) -> Tensor:
    channel = bam.channel_gate(x.mean([2, 3])).unsqueeze([2, 3])
    return x * (1 + F.sigmoid(channel + bam.spatial_gate(x)))


def _sge_without_bias(sge: nn.Layer, x: Tensor) -> Tensor:
    sge.bias.set_value(np.zeros(sge.bias.shape, "float32"))
    return sge(x)


def _simam_wrong_eps(simam: nn.Layer, x: Tensor) -> Tensor:
    size = x.shape[2] * x.shape[3]
    z = F.instance_norm(x, eps=simam.e_lambda)
    return x * F.sigmoid(z * z * ((size - 1) / (4 * size)) + 0.5)


DEVIATIONS = (
    Deviation(
        "CBAM pools [mean, max] along the channels, the authors [max, mean]: "
        "the authors' weights are applied to the wrong map",
        "timm/layers/cbam.py",
        "cbam",
        _cbam_mean_first,
    ),
    Deviation(
        "CBAM's shared perceptron has no biases",
        "timm/layers/cbam.py (mlp_bias=False)",
        "cbam",
        _cbam_without_biases,
    ),
    Deviation(
        "CBAM's spatial gate has no batch norm, and the input is added to the output",
        "External-Attention-pytorch/model/attention/CBAM.py",
        "cbam",
        _cbam_residual,
    ),
    Deviation(
        "BAM adds its two branches, as the paper says; the authors' code multiplies them",
        "External-Attention-pytorch/model/attention/BAM.py",
        "bam",
        _bam_added,
    ),
    Deviation(
        "SGE's bias starts at 0; the authors confirm 1 (at the start of training)",
        "a widely copied SGE",
        "sge",
        _sge_without_bias,
        at_start=True,
    ),
    Deviation(
        "SimAM by instance norm with eps = λ, not λ(M-1)/M (λ = 0.1, 7x7)",
        "a common shortcut",
        "simam_lambda0.1",
        _simam_wrong_eps,
    ),
)
