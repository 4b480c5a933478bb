"""FcaNet: a gate for every channel from one frequency of its map, where SE takes the mean.

Qin, Zhang, Wu and Li, "FcaNet: Frequency Channel Attention Networks", ICCV 2021, arxiv.org/abs/2012.11879
"""

from __future__ import annotations

import math
from typing import Any

import paddle
from paddle import Tensor, nn

from .base import HALF, Attention, adaptive_mean, in_float32, is_static, keep_float32, scale
from .layers import linear
from .se import hidden_width

# the frequencies that the authors chose among the 7x7, in their order: the row's, then the column's digit
FREQUENCIES = {
    "top": "00 01 60 05 02 10 12 40 50 16 30 04 06 03 35 22 46 63 33 53 55 21 61 52 54 32 31 41 23 20 65 13",
    "low": "00 01 10 11 02 20 21 12 22 03 30 40 04 13 31 05 14 23 32 41 50 06 15 24 33 42 51 60 16 25 34 43",
    "bot": "66 14 34 36 26 43 11 24 44 45 56 15 42 62 25 51 64 13 65 20 23 41 31 32 54 52 61 21 55 53 33 63",
}
COUNTS = (1, 2, 4, 8, 16, 32)
GRID = 7  # the frequencies belong to maps of 7x7; larger maps multiply them
MAX_SIDE = 1024  # px


class FrequencyChannelAttention(Attention):
    """`x * sigmoid(W2 relu(W1 z))`, where `z_c = sum_HW(x_c * cosine_c)`.

    The channels are cut into as many runs as there are frequencies; each run takes one of them, a cosine of
    the two-dimensional discrete cosine transform of `dct_h x dct_w`. Maps of another size are brought to it
    by adaptive average pooling, also upwards.

    Args:
        channels: of the input, a multiple of the number of frequencies.
        dct_h, dct_w: the size of the transform in px, at least 7. In a network of this zoo the default is the
            size of the maps at the published input size, from 7 to 56, as in the authors' networks: 56, 28,
            14 and 7 in a ResNet.
        reduction: the hidden layer has `channels // reduction` units.
        freq_sel_method: 'top', 'low' or 'bot' and a number of frequencies from 1, 2, 4, 8, 16 and 32: those
            that did best alone, the lowest, or those that did worst alone.

    Shape: `[N, C, H, W] -> [N, C, H, W]`, any H and W; the gate is `[N, C, 1, 1]`. Half-precision maps are
    computed in float32.

    Known difference: the lowest frequency gives the mean times sqrt(dct_h * dct_w), not the mean. Below 7 px
    the authors' code silently takes the lowest frequency for all channels; here it is an error. Their
    checkpoints have the cosines of every channel; here they are computed, and loading drops those.

    Raises: ValueError when the size is below 7 or too large, for an unknown choice of frequencies, when
    their number does not divide channels, or when reduction leaves no hidden unit.
    """

    needs = "channels in multiples of the number of frequencies (16), and at least `reduction` (16)"
    torch_names = ((r"\.att\.", ".attn."), (r"^(.*\.)?dct_layer\.weight$", ""))
    flow = """
    z = x -> adaptive mean pool [C, 7, 7] -> sum of cosine products [C] -> linear @fc.0 [C/16] -> ReLU
        -> linear @fc.2 [C] -> sigmoid [C, 1, 1]
    y = x, z -> × [C, H, W]
    """

    def __init__(
        self,
        channels: int,
        *,
        dct_h: int = 7,
        dct_w: int = 7,
        reduction: int = 16,
        freq_sel_method: str = "top16",
    ):
        super().__init__(channels)
        for name, side in (("dct_h", dct_h), ("dct_w", dct_w)):
            if not GRID <= side <= MAX_SIDE:
                raise ValueError(f"{name} must be from {GRID} to {MAX_SIDE}, found {side}")
        frequencies = chosen_frequencies(freq_sel_method)
        if channels % len(frequencies):
            raise ValueError(
                f"the number of frequencies must divide channels: "
                f"expected a multiple of {len(frequencies)} with freq_sel_method='{freq_sel_method}', "
                f"found {channels} channels"
            )
        hidden = hidden_width(channels, reduction)
        self.size = [dct_h, dct_w]
        self.freq_sel_method = freq_sel_method
        table = [
            [
                row * column
                for row in cosine(u * (dct_h // GRID), dct_h)
                for column in cosine(v * (dct_w // GRID), dct_w)
            ]
            for u, v in frequencies
        ]
        self.register_buffer("table", paddle.to_tensor(table).unsqueeze(2), persistable=False)  # [K, h*w, 1]
        self.fc = nn.Sequential(
            linear(channels, hidden, bias=False),
            nn.ReLU(),
            linear(hidden, channels, bias=False),
            nn.Sigmoid(),
        )
        keep_float32(self)

    @classmethod
    def stage_kwargs(cls, side: int) -> dict[str, Any]:
        side = min(max(side, GRID), 56)
        return {"dct_h": side, "dct_w": side}

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:  # a sum over the map would overflow
            return in_float32(self.forward, x)
        return scale(x, self.gate(x))

    def gate(self, x: Tensor) -> Tensor:
        if x.dtype in HALF:
            return in_float32(self.gate, x)
        if not self._fits(x):
            x = adaptive_mean(x, *self.size)
        count, pixels, _ = self.table.shape
        runs = x.reshape([-1, count, self.channels // count, pixels])
        return self.fc(paddle.matmul(runs, self.table).flatten(1)).unsqueeze([2, 3])

    def _fits(self, x: Tensor) -> bool:
        return is_static(x) and x.shape[2] == self.size[0] and x.shape[3] == self.size[1]

    def macs(self, height: int, width: int) -> int:
        pixels = self.size[0] * self.size[1]
        pooling = 0 if [height, width] == self.size else self.channels * height * width
        # mean; cosines; product; sigmoid
        return pooling + self.channels * (pixels + height * width + 1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, size={self.size}, freq_sel_method={self.freq_sel_method}"


def chosen_frequencies(method: str) -> list[tuple[int, int]]:
    """The pairs of a name such as 'top16'. Raises ValueError for another name."""
    valid = [f"{kind}{count}" for kind in FREQUENCIES for count in COUNTS]
    if method not in valid:
        raise ValueError(f"freq_sel_method must be one of {', '.join(valid)}, found '{method}'")
    pairs = FREQUENCIES[method[:3]].split()[: int(method[3:])]
    return [(int(u), int(v)) for u, v in pairs]


def cosine(frequency: int, size: int) -> list[float]:
    """One row of the orthonormal discrete cosine transform."""
    norm = math.sqrt((2 if frequency else 1) / size)
    return [norm * math.cos(math.pi * frequency * (i + 0.5) / size) for i in range(size)]
