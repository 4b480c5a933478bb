"""Trains a small network without batch norm: what test_processes.py launches, in one process or several.

python tests/integration/launched.py CONFIG [KEY=VALUE …]
"""

from __future__ import annotations

import dataclasses
import sys

from paddle_attn.cli import one_sentence_errors, prepare_paddle

prepare_paddle()

from paddle import nn  # noqa: E402

from paddle_attn import create_attention, load_config  # noqa: E402
from paddle_attn.models import MODELS  # noqa: E402
from paddle_attn.ops.layers import Conv2D  # noqa: E402
from paddle_attn.train import fit  # noqa: E402


def small_network(num_classes: int, placements: object) -> nn.Layer:
    return nn.Sequential(
        *(nn.Conv2D(3, 8, 3, 2), create_attention("simam", 8), nn.ReLU()),
        *(Conv2D(8, 8, 3, 2, 1), create_attention("se", 8, reduction=2), nn.ReLU()),
        *(nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, num_classes)),
    )


if __name__ == "__main__":
    MODELS["small"] = dataclasses.replace(MODELS["mobilenet_v2"], build=small_network)
    with one_sentence_errors():
        fit(load_config(sys.argv[1], ["model.name=small", *sys.argv[2:]]))
