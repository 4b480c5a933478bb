"""Trains a small network without batch norm from a config: what tests/test_processes.py launches, in one process or more.

python tests/integration/launched.py CONFIG [KEY=VALUE …]
"""

from __future__ import annotations

import importlib
import sys

from paddle_attn.cli import one_sentence_errors, prepare_paddle

prepare_paddle()

from paddle import nn  # noqa: E402

from paddle_attn import create_attention  # noqa: E402
from paddle_attn.config import load_config  # noqa: E402


def small_network(config: object, num_classes: int) -> nn.Layer:
    convolutions = [
        nn.Conv2D(3, 8, 3, 2),
        create_attention("simam", 8),
        nn.ReLU(),
        nn.Conv2D(8, 8, 3, 2),
        create_attention("se", 8, reduction=2),
    ]
    return nn.Sequential(
        *convolutions, nn.ReLU(), nn.AdaptiveAvgPool2D(1), nn.Flatten(), nn.Linear(8, num_classes)
    )


if __name__ == "__main__":
    room = importlib.import_module("paddle_attn.train.fit")
    room.make_network = small_network
    with one_sentence_errors():
        room.fit(load_config(sys.argv[1], sys.argv[2:]))
