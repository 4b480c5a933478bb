"""Reading and writing weights: strictly, and without running anything that a file says.

`paddle.load` unpickles, and a crafted pickle can run any program. The reader here admits numpy arrays, numbers, texts and
containers, and refuses every other name by name.
"""

from __future__ import annotations

import collections
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import paddle
import safetensors.numpy
from paddle import nn

from .errors import UserError
from .files import write_whole

SUFFIXES = (".pdparams", ".safetensors")


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, key by key (all in the file's order)."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the network has it, the file has not
    unexpected: tuple[str, ...]  # the file has it, the network has not
    mismatched: tuple[str, ...]  # 'key: expected [shape], found [shape]'
    folded: tuple[str, ...]  # biases in front of a batch norm, taken into its running mean


def load_weights(net: nn.Layer, path: str | os.PathLike, strict: bool = True, new_classifier: bool = False) -> LoadReport:
    """Load a `.pdparams` or `.safetensors` file into a network; nothing is changed unless all of it fits.

    Args:
        net: any Paddle network.
        path: the file.
        strict: missing, unexpected and mis-shaped keys are an error that lists them; False loads what fits.
        new_classifier: a classifier of another size is left as it is, for a network that is to learn other classes.

    Returns: a report of what was loaded, missing, unexpected, mismatched and folded.

    Raises: UserError when the file cannot be read, holds anything but tensors, or does not fit.
    """
    state = read_weights(path)
    own = net.state_dict()
    folded = _fold_void_biases(net, state)
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and list(state[key].shape) != list(own[key].shape)]
    mismatched = [f"{key}: expected {list(own[key].shape)}, found {list(state[key].shape)}" for key in wrong]
    report = LoadReport(
        tuple(key for key in state if key in own and key not in wrong), tuple(missing), tuple(unexpected), tuple(mismatched), tuple(folded)
    )
    prefix = getattr(net, "classifier_prefix", None)
    only_the_classifier = bool(wrong) and prefix is not None and all(key.startswith(prefix) for key in wrong)
    if strict and (missing or unexpected or wrong) and not (new_classifier and only_the_classifier and not missing and not unexpected):
        raise UserError(_why_not(path, report, own, state, wrong if only_the_classifier else []))
    for key in report.loaded:
        own[key].set_value(state[key].astype(own[key].numpy().dtype))
    return report


def load_pretrained(net: nn.Layer, name: str, source: tuple[str, str] | None) -> LoadReport:
    """Load Paddle's own ImageNet weights through Paddle's own cache.

    The backbone must be loaded whole; an attention has no weights there and keeps its own start, as does a classifier that is
    not ImageNet's.

    Args:
        net: a network of this zoo.
        name: its name, for the errors.
        source: the address and md5 of the file, or None where Paddle has none.

    Raises: UserError when there are no such weights, or when they cannot be fetched; it says where to put the file by hand.
    """
    if source is None:
        raise UserError(f"there are no ImageNet weights for {name}: expected pretrained=False, or a model that Paddle has weights for")
    from paddle.utils import download

    url, md5 = source
    try:
        path = download.get_weights_path_from_url(url, md5)
    except (RuntimeError, OSError) as error:
        place = Path(download.WEIGHTS_HOME) / url.rpartition("/")[2]
        raise UserError(f"could not fetch {name}'s ImageNet weights ({error}): download {url} elsewhere and put it at {place}") from None
    report = load_weights(net, path, strict=False)
    prefix = net.classifier_prefix
    lacking = [key for key in report.missing if "attn." not in key]
    wrong = [line for line in report.mismatched if not line.startswith(prefix)]
    if lacking or wrong or report.unexpected:
        raise UserError(f"{path} does not hold {name}: {_shortened([*lacking, *wrong, *report.unexpected])}")
    return report


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a `.pdparams` or `.safetensors` file, by key. Raises UserError; runs nothing."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot read weights from {path}: expected a file that ends in {' or '.join(SUFFIXES)}")
    state = _read(path, safetensors.numpy.load_file if path.suffix == ".safetensors" else read_pickle)
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights: expected tensors by name, found a {type(state).__name__}")
    state.pop("StructuredToParameterName@@", None)  # paddle.save's own list of names
    for key, value in state.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise UserError(f"{path} holds no weights: expected a tensor as '{key}', found a {type(value).__name__}")
    return state


def read_checkpoint(path: str | os.PathLike) -> Any:
    """What `save_checkpoint` wrote: numbers, texts, containers and arrays. Raises UserError; runs nothing."""
    return _read(Path(path), read_pickle)


def save_weights(net: nn.Layer, path: str | os.PathLike) -> None:
    """Write a network's weights as `.pdparams` or `.safetensors`; an older file is replaced only by a whole new one."""
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"cannot write weights to {path}: expected a name that ends in {' or '.join(SUFFIXES)}")
    state = net.state_dict()
    if path.suffix == ".safetensors":
        arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in state.items()}
        write_whole(path, lambda aside: safetensors.numpy.save_file(arrays, aside))
    else:
        write_whole(path, lambda aside: paddle.save(state, str(aside)))


def save_checkpoint(state: Any, path: str | os.PathLike) -> None:
    """Write a tree of tensors, numbers and texts; an older file is replaced only by a whole new one."""
    arrays = paddle.utils.map_structure(lambda leaf: leaf.numpy() if isinstance(leaf, paddle.Tensor) else leaf, state)
    write_whole(Path(path), lambda aside: aside.write_bytes(pickle.dumps(arrays, protocol=4)))


def read_pickle(path: Path) -> Any:
    """Unpickle a file in which only numpy arrays, numbers, texts and containers stand."""
    with open(path, "rb") as file:
        return _TensorUnpickler(file).load()


# what a pickle may name; all of it builds arrays and dictionaries. numpy 2 renamed numpy.core to numpy._core
_reconstruct, _scalar = np.zeros(1).__reduce__()[0], np.float32(0).__reduce__()[0]
_ADMITTED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("collections", "OrderedDict"): collections.OrderedDict,
}


class _Refused(Exception):
    pass


class _TensorUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes]):
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ADMITTED:
            raise _Refused(f"it asks for {module}.{name}, which no weights file needs; nothing of it was run")
        return _ADMITTED[module, name]


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except _Refused as error:
        raise UserError(f"{path} is refused: {error}") from None
    except Exception as error:  # a broken pickle can raise anything
        raise UserError(f"{path} is damaged or no weights file: expected a whole {path.suffix} file, found {type(error).__name__} in it") from None


def _fold_void_biases(net: nn.Layer, state: dict[str, np.ndarray]) -> list[str]:
    """Take biases that the network does without into the running means behind them: (x + b) - mean is x - (mean - b)."""
    folded = []
    for bias, mean in getattr(net, "void_biases", {}).items():
        if bias in state and mean in state and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
            folded.append(bias)
    return folded


def _why_not(path: str | os.PathLike, report: LoadReport, own: dict, state: dict, classifier: list[str]) -> str:
    if classifier and not report.missing and not report.unexpected:
        key = classifier[0]
        return f"{path} has a classifier of {state[key].shape[-1]} classes, expected {own[key].shape[-1]} as the network has (model.num_classes)"
    parts = [("missing", report.missing), ("unexpected", report.unexpected), ("of another shape", report.mismatched)]
    found = "; ".join(f"{len(keys)} {what} ({_shortened(keys)})" for what, keys in parts if keys)
    return f"{path} does not fit the network: expected its {len(own)} keys, found {found}"


def _shortened(keys: list[str] | tuple[str, ...], most: int = 6) -> str:
    more = f", … {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
