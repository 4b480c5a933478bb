"""Compares how our networks start with how their authors' start.

`golden/trajectories/init.json` states the distribution of each parameter: a constant, or normal or uniform
around 0, with its scale. The values themselves depend on PyTorch's generator.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from paddle_attn.models import create_model
from paddle_attn.weights.torch_keys import paddle_keys

from .compare import network_of, reference_kwargs

SHAPED = 200  # values; of fewer, a normal and a uniform distribution look alike


class Chosen(NamedTuple):
    """A difference that is intended."""

    parameters: str  # a regular expression for the authors' names
    found: str
    reason: str


CHOSEN = (
    Chosen(
        r"SpatialGate\.spatial\.bn\.weight$",
        "constant 0",
        "the batch norm of CBAM's spatial gate starts with the weight 0, as in the networks of CBAM's own "
        "authors, so that the gate starts at 0.5; the SimAM repository, whose networks these are, has 1",
    ),
)


def networks_with_a_start(golden: Path) -> dict[str, int]:
    """The networks, such as 'cifar/resnet20/cbam', with their numbers of tensors."""
    return {name: len(parameters) for name, parameters in _read(golden).items()}


def initial_differences(golden: Path, name: str, seed: int = 0) -> dict[str, str]:
    """The parameters of our network that start otherwise than the authors': `{their name: what was found}`.

    Args:
        golden: the folder of the reference.
        name: one of `networks_with_a_start(golden)`.
        seed: of Paddle's generator.
    """
    paddle.seed(seed)
    model, attn = network_of(name)
    net = create_model(model, attn, reference_kwargs(model, attn), num_classes=10)
    theirs = _read(golden)[name]
    ours, parameters = paddle_keys(theirs, net), dict(net.named_parameters())
    assert {ours[key] for key in theirs} == {key for key, value in parameters.items() if value.trainable}
    values = {key: parameters[ours[key]].numpy() for key in theirs}
    return {
        key: found_instead(values[key])
        for key, stated in theirs.items()
        if not has_distribution(values[key], stated["kind"])
    }


def unintended(differences: dict[str, str]) -> dict[str, str]:
    """Those that `CHOSEN` does not list."""
    return {
        key: found
        for key, found in differences.items()
        if not any(re.search(chosen.parameters, key) and found == chosen.found for chosen in CHOSEN)
    }


def has_distribution(value: np.ndarray, kind: dict[str, float]) -> bool:
    """Whether values are drawn from `{'constant': c}`, `{'normal': std}` or `{'uniform': largest}`.

    The mean may differ by 5 and the standard deviation by 4 of its own deviations: a network has hundreds of
    tensors.
    """
    ((name, scale),) = kind.items()
    if name == "constant":
        return bool((value == np.float32(scale)).all())
    std = scale if name == "normal" else scale / np.sqrt(3)
    beyond = np.abs(value).max() > np.float32(np.sqrt(3) * std * (1 + 1e-6))  # a uniform's largest value
    shape = not beyond if name == "uniform" else beyond or value.size < SHAPED
    deviation = np.sqrt(np.mean(np.square(value, dtype="float64")))
    return bool(
        shape
        and abs(value.mean(dtype="float64")) <= 5 * std / np.sqrt(value.size)
        and abs(deviation / std - 1) <= 4 / np.sqrt(2 * value.size)
    )


def found_instead(value: np.ndarray) -> str:
    if (value == value.flat[0]).all():
        return f"constant {value.flat[0]:g}"
    return f"mean {value.mean():.2g}, standard deviation {value.std():.3g}, largest {np.abs(value).max():.3g}"


def _read(golden: Path) -> dict:
    return json.loads((golden / "trajectories" / "init.json").read_text(encoding="utf-8"))["networks"]
