"""More attention modules in PyTorch, from their formulas, with our names and default arguments."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CoordinateAttention(nn.Module):
    def __init__(self, channels: int, reduction: int = 32):
        super().__init__()
        hidden = max(8, channels // reduction)
        self.conv1, self.bn1 = nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv_h, self.conv_w = nn.Conv2d(hidden, channels, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.mean(3, keepdim=True), x.mean(2, keepdim=True).transpose(2, 3)
        strip = F.hardswish(self.bn1(self.conv1(torch.cat([rows, columns], 2))))
        rows, columns = strip.split([x.shape[2], x.shape[3]], 2)
        return x * torch.sigmoid(self.conv_h(rows)) * torch.sigmoid(self.conv_w(columns.transpose(2, 3)))


class PlaneGate(nn.Module):
    """The gate of one plane: the maximum and the mean along `axis`."""

    def __init__(self, axis: int):
        super().__init__()
        self.axis = axis
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(1, self.axis)
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return torch.sigmoid(self.bn(self.conv(pooled))).transpose(1, self.axis)


class TripletAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.cw, self.hc, self.hw = PlaneGate(2), PlaneGate(3), PlaneGate(1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.cw(x) + self.hc(x) + self.hw(x)) / 3


class ShuffleAttention(nn.Module):
    def __init__(self, channels: int, groups: int = 64):
        super().__init__()
        self.groups, half = groups, channels // (2 * groups)
        self.cweight, self.sweight = (nn.Parameter(torch.zeros(1, half, 1, 1)) for _ in range(2))
        self.cbias, self.sbias = (nn.Parameter(torch.ones(1, half, 1, 1)) for _ in range(2))
        self.gn = nn.GroupNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        a, b = x.reshape(batch * self.groups, -1, height, width).chunk(2, 1)
        a = a * torch.sigmoid(self.cweight * a.mean([2, 3], keepdim=True) + self.cbias)
        b = b * torch.sigmoid(self.sweight * self.gn(b) + self.sbias)
        halves = torch.cat([a, b], 1).reshape(batch, 2, channels // 2, height, width)
        return halves.transpose(1, 2).reshape(x.shape)


class PolarizedSelfAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv_q_right, self.conv_v_right = (nn.Conv2d(channels, n, 1, bias=False) for n in (1, half))
        self.conv_up = nn.Conv2d(half, channels, 1, bias=False)
        self.conv_q_left, self.conv_v_left = (nn.Conv2d(channels, half, 1, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.conv_q_right(x).flatten(2).softmax(2)  # [N, 1, H*W]
        average = self.conv_v_right(x).flatten(2) @ weights.transpose(1, 2)  # [N, C/2, 1]
        channel = torch.sigmoid(self.conv_up(average.unsqueeze(3)))
        query = self.conv_q_left(x).mean([2, 3]).unsqueeze(1)  # [N, 1, C/2]
        score = (query @ self.conv_v_left(x).flatten(2)).softmax(2)
        spatial = torch.sigmoid(score).reshape(x.shape[0], 1, *x.shape[2:])
        return x * channel + x * spatial


class EfficientMultiScaleAttention(nn.Module):
    def __init__(self, channels: int, factor: int = 32):
        super().__init__()
        self.factor, width = factor, channels // factor
        self.gn = nn.GroupNorm(width, width)
        self.conv1x1, self.conv3x3 = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        v = x.reshape(x.shape[0] * self.factor, -1, height, width)
        strip = torch.cat([v.mean(3, keepdim=True), v.mean(2, keepdim=True).transpose(2, 3)], 2)
        rows, columns = torch.sigmoid(self.conv1x1(strip)).split([height, width], 2)
        x1, x2 = self.gn(v * rows * columns.transpose(2, 3)), self.conv3x3(v)
        a1, a2 = (map_.mean([2, 3], keepdim=True).softmax(1) for map_ in (x1, x2))
        gate = torch.sigmoid((a1 * x2).sum(1, keepdim=True) + (a2 * x1).sum(1, keepdim=True))
        return (v * gate).reshape(x.shape)


class NormalizationAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        scales = self.bn.weight.detach().abs()
        return x * torch.sigmoid(self.bn(x) * (scales / scales.sum())[:, None, None])


class FrequencyChannelAttention(nn.Module):
    ROWS = (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2)
    COLUMNS = (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2)

    def __init__(self, channels: int, side: int = 7, reduction: int = 16):
        super().__init__()
        self.side = side
        position = (torch.arange(side) + 0.5) * math.pi / side
        rows, columns = (
            torch.stack([(position * u).cos() * math.sqrt((2 if u else 1) / side) for u in frequencies])
            for frequencies in (self.ROWS, self.COLUMNS)
        )
        table = (rows[:, :, None] * columns[:, None, :]).repeat_interleave(channels // len(rows), 0)
        self.register_buffer("table", table, persistent=False)  # [C, side, side]
        hidden = channels // reduction
        self.fc = nn.Sequential(
            nn.Linear(channels, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, channels, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        z = (F.adaptive_avg_pool2d(x, self.side) * self.table).sum([2, 3])
        return x * torch.sigmoid(self.fc(z))[:, :, None, None]


class GatedChannelTransformation(nn.Module):
    def __init__(self, channels: int, epsilon: float = 1e-5):
        super().__init__()
        self.epsilon = epsilon
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma, self.beta = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        e = self.alpha * (x.pow(2).sum([2, 3], keepdim=True) + self.epsilon).sqrt()
        d = (e.pow(2).mean(1, keepdim=True) + self.epsilon).sqrt()
        return x * (1 + torch.tanh(self.gamma * e / d + self.beta))


class NonLocal(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.hidden = channels // 2
        self.theta, self.phi, self.g = (nn.Conv2d(channels, self.hidden, 1) for _ in range(3))
        self.out, self.bn = nn.Conv2d(self.hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        pooled = F.max_pool2d(x, 2)
        theta, phi, g = self.theta(x).flatten(2), self.phi(pooled).flatten(2), self.g(pooled).flatten(2)
        weights = (theta.transpose(1, 2) @ phi / math.sqrt(self.hidden)).softmax(2)
        z = (g @ weights.transpose(1, 2)).reshape(x.shape[0], self.hidden, *x.shape[2:])
        return x + self.bn(self.out(z))


class SpatialChannelSE(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.channel_gate = nn.Sequential(
            nn.Linear(channels, channels // 2), nn.ReLU(), nn.Linear(channels // 2, channels)
        )
        self.spatial_gate = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        channel = torch.sigmoid(self.channel_gate(x.mean([2, 3])))[:, :, None, None]
        return torch.maximum(x * channel, x * torch.sigmoid(self.spatial_gate(x)))


def depthwise(channels: int, kernel: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    padding = tuple(dilation * (side // 2) for side in kernel)
    return nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, groups=channels)


class LargeSeparableKernelAttention(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.conv0h, self.conv0v = depthwise(channels, (1, 3)), depthwise(channels, (3, 1))
        self.conv_spatial_h, self.conv_spatial_v = (depthwise(channels, side, 2) for side in ((1, 3), (3, 1)))
        self.conv1 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv1(self.conv_spatial_v(self.conv_spatial_h(self.conv0v(self.conv0h(x)))))


class LargeSelectiveKernel(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        half = channels // 2
        self.conv0, self.conv_spatial = depthwise(channels, (5, 5)), depthwise(channels, (7, 7), 3)
        self.conv1, self.conv2 = nn.Conv2d(channels, half, 1), nn.Conv2d(channels, half, 1)
        self.conv_squeeze, self.conv = nn.Conv2d(2, 2, 7, padding=3), nn.Conv2d(half, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        near = self.conv0(x)
        near, far = self.conv1(near), self.conv2(self.conv_spatial(near))
        both = torch.cat([near, far], 1)
        pooled = torch.cat([both.mean(1, keepdim=True), both.amax(1, keepdim=True)], 1)
        gates = torch.sigmoid(self.conv_squeeze(pooled))
        return x * self.conv(near * gates[:, :1] + far * gates[:, 1:])


class MixedLocalChannelAttention(nn.Module):
    def __init__(self, channels: int, side: int = 5):
        super().__init__()
        self.side, size = side, int(abs(math.log2(channels) + 1) / 2)
        size += size % 2 == 0
        self.conv, self.conv_local = (nn.Conv1d(1, 1, size, padding=size // 2, bias=False) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *size = x.shape
        regions = F.adaptive_avg_pool2d(x, self.side).flatten(2).transpose(1, 2)  # [N, 25, C]
        local = torch.sigmoid(self.conv_local(regions.reshape(batch, 1, -1))).reshape(regions.shape)
        overall = torch.sigmoid(self.conv(regions.mean(1, keepdim=True)))
        gate = (local + overall) / 2
        gate = gate.transpose(1, 2).reshape(batch, channels, self.side, self.side)
        return x * F.adaptive_avg_pool2d(gate, size)


MODULES: dict[str, Callable[[int], nn.Module]] = {
    "coordatt": CoordinateAttention,
    "ema": EfficientMultiScaleAttention,
    "fca": FrequencyChannelAttention,
    "gct": GatedChannelTransformation,
    "lsk": LargeSelectiveKernel,
    "lska": LargeSeparableKernelAttention,
    "mlca": MixedLocalChannelAttention,
    "nam": NormalizationAttention,
    "nonlocal": NonLocal,
    "psa": PolarizedSelfAttention,
    "scse": SpatialChannelSE,
    "shuffle": ShuffleAttention,
    "triplet": TripletAttention,
}
