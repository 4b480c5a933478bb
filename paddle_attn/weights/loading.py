"""Loading weights into a network: strictly, with a report, and only when everything fits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from paddle import Tensor, nn

from ..errors import UserError, quote
from ..files import shown
from .files import read_weights
from .protocol import Backbone
from .torch_layout import has_torch_names, translated

MAX_LISTED = 6  # keys that an error lists
MAX_SHOWN = 80  # characters of each


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, key by key, in the order of the file."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # in the network, not in the file
    unexpected: tuple[str, ...]  # in the file, not in the network
    mismatched: tuple[str, ...]  # 'key: expected [shape], found [shape]'
    folded: tuple[str, ...]  # biases before a batch norm, folded into its running mean
    not_finite: tuple[str, ...] = ()  # of the loaded: the network now has NaN or Inf there


def load_weights(
    net: nn.Layer, path: str | os.PathLike, strict: bool = True, new_classifier: bool = False
) -> LoadReport:
    """Load weights into a network; change nothing unless everything fits.

    It reads PyTorch's checkpoints without PyTorch, with the parameter names of torchvision and of the
    authors' repositories (`torch_keys`).

    Args:
        net: any Paddle network.
        path: a `.pdparams`, `.safetensors`, `.pth`, `.pth.tar` or `.pt` file.
        strict: raise an error that lists missing, unexpected and mismatched keys; False loads what fits.
        new_classifier: keep the network's classifier if the file's has another size, to learn other classes.

    Returns: the keys that were loaded, missing, unexpected, mismatched and folded, and those of the loaded
        that contain NaN or Inf; a warning names these too.

    Raises: UserError when the file cannot be read, holds anything but tensors, or does not fit.
    """
    state = read_weights(path)
    return load_state(net, state, path, strict, new_classifier, has_torch_names(path, state))


def load_state(
    net: nn.Layer,
    state: Mapping[str, np.ndarray],
    source: str | os.PathLike,
    strict: bool = True,
    new_classifier: bool = False,
    torch_style: bool = False,
) -> LoadReport:
    """`load_weights` from arrays in memory.

    Args:
        source: what errors call the arrays, such as the path of their file.
        torch_style: the arrays have PyTorch's names and layouts.
    """
    own = net.state_dict()
    state = translated(net, state) if torch_style else dict(state)
    folded = _fold_void_biases(net, state)
    wrong = [key for key in state if key in own and list(state[key].shape) != list(own[key].shape)]
    report = LoadReport(
        loaded=tuple(key for key in state if key in own and key not in wrong),
        missing=tuple(key for key in own if key not in state),
        unexpected=tuple(key for key in state if key not in own),
        mismatched=tuple(
            f"{key}: expected {list(own[key].shape)}, found {list(state[key].shape)}" for key in wrong
        ),
        folded=folded,
    )
    only_classifier = _only_classifier_differs(net, report, wrong)
    if strict and only_classifier and not new_classifier:
        found, expected = (state[wrong[0]].shape or (1,))[-1], own[wrong[0]].shape[-1]
        raise UserError(
            f"{source} has a classifier of {found} classes, "
            f"expected {expected} as the network has (model.num_classes)"
        )
    if strict and not only_classifier and (report.missing or report.unexpected or report.mismatched):
        raise UserError(
            f"{source} does not fit the network: expected its {len(own)} keys, found {_problems(report)}"
        )
    for key in report.loaded:
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes Inf, which is reported below
            own[key].set_value(state[key].astype(own[key].numpy().dtype))
    not_finite = non_finite({key: own[key] for key in report.loaded})
    if not_finite:
        count = f"{len(not_finite)} of its {len(report.loaded)} tensors"
        message = f"{shown(source)} contains NaN or Inf in {count}: {shortened(not_finite)}"
        warnings.warn(message, stacklevel=2)
    return replace(report, not_finite=tuple(not_finite))


def non_finite(state: Mapping[str, np.ndarray | Tensor]) -> list[str]:
    """The names of the tensors of a state dict that contain NaN or Inf, in its order."""
    arrays = ((name, np.asarray(value)) for name, value in state.items())
    return [name for name, array in arrays if array.dtype.kind == "f" and not np.isfinite(array).all()]


def shortened(keys: Sequence[str]) -> str:
    """The first keys of a list, each shortened, and the number of the others."""
    first = [key if len(key) <= MAX_SHOWN else quote(key) for key in keys[:MAX_LISTED]]
    more = f", and {len(keys) - MAX_LISTED} more" if len(keys) > MAX_LISTED else ""
    return ", ".join(first) + more


def _fold_void_biases(net: nn.Layer, state: dict[str, np.ndarray]) -> tuple[str, ...]:
    """Fold biases that the network lacks into the next running means: (x + b) - mean is x - (mean - b)."""
    if not isinstance(net, Backbone):
        return ()
    folded = []
    for bias, mean in net.void_biases.items():
        if bias in state and mean in state and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
            folded.append(bias)
    return tuple(folded)


def _only_classifier_differs(net: nn.Layer, report: LoadReport, wrong: list[str]) -> bool:
    return (
        isinstance(net, Backbone)
        and bool(wrong)
        and all(key.startswith(net.classifier_name) for key in wrong)
        and not report.missing
        and not report.unexpected
    )


def _problems(report: LoadReport) -> str:
    problems = {
        "missing": report.missing,
        "unexpected": report.unexpected,
        "of another shape": report.mismatched,
    }
    return "; ".join(f"{len(keys)} {what} ({shortened(keys)})" for what, keys in problems.items() if keys)
