"""Reading and writing weights: strictly, and without running anything that a file says.

`paddle.load` unpickles, and a crafted pickle can run any program. The reader here admits numpy arrays, numbers, texts and
containers, and refuses every other name by name.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import safetensors
import safetensors.numpy
from paddle import nn

from ..errors import UserError
from ..files import atomic_write
from . import safe_pickle, torch_files
from .safe_pickle import Refused
from .torch_files import decode
from .torch_keys import is_torch_style, our_keys

WRITTEN = (".pdparams", ".safetensors")
READ = (*WRITTEN, *torch_files.SUFFIXES)


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did, key by key (all in the file's order)."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # the network has it, the file has not
    unexpected: tuple[str, ...]  # the file has it, the network has not
    mismatched: tuple[str, ...]  # 'key: expected [shape], found [shape]'
    folded: tuple[str, ...]  # biases in front of a batch norm, taken into its running mean


def load_weights(
    net: nn.Layer, path: str | os.PathLike, strict: bool = True, new_classifier: bool = False
) -> LoadReport:
    """Load weights into a network; nothing is changed unless all of it fits.

    PyTorch's checkpoints are read without PyTorch, with the names of torchvision and of the authors' repositories (`torch_keys`).

    Args:
        net: any Paddle network.
        path: a `.pdparams`, `.safetensors`, `.pth`, `.pth.tar` or `.pt`.
        strict: missing, unexpected and mis-shaped keys are an error that lists them; False loads what fits.
        new_classifier: a classifier of another size is left as it is, for a network that is to learn other classes.

    Returns: a report of what was loaded, missing, unexpected, mismatched and folded.

    Raises: UserError when the file cannot be read, holds anything but tensors, or does not fit.
    """
    state = read_weights(path)
    return load_state(net, state, path, strict, new_classifier, has_torch_names(path, state))


def has_torch_names(path: str | os.PathLike, state: dict[str, np.ndarray]) -> bool:
    """Whether a file's names are PyTorch's: by its ending, or, where that leaves it open, by the names."""
    return str(path).endswith(torch_files.SUFFIXES) or is_torch_style(state)


def load_state(
    net: nn.Layer,
    state: dict[str, np.ndarray],
    where: str | os.PathLike,
    strict: bool = True,
    new_classifier: bool = False,
    torch_style: bool = False,
) -> LoadReport:
    """`load_weights` of arrays by name that are in memory already; `where` names them in errors, `torch_style` says whose names they have."""
    state = dict(state)
    own = net.state_dict()
    if torch_style:
        state = translated(net, state)
    folded = _fold_void_biases(net, state)
    missing = [key for key in own if key not in state]
    unexpected = [key for key in state if key not in own]
    wrong = [key for key in state if key in own and list(state[key].shape) != list(own[key].shape)]
    mismatched = [f"{key}: expected {list(own[key].shape)}, found {list(state[key].shape)}" for key in wrong]
    report = LoadReport(
        tuple(key for key in state if key in own and key not in wrong),
        tuple(missing),
        tuple(unexpected),
        tuple(mismatched),
        tuple(folded),
    )
    prefix = getattr(net, "classifier_prefix", None)
    only_the_classifier = bool(wrong) and prefix is not None and all(key.startswith(prefix) for key in wrong)
    if (
        strict
        and (missing or unexpected or wrong)
        and not (new_classifier and only_the_classifier and not missing and not unexpected)
    ):
        raise UserError(_why_not(where, report, own, state, wrong if only_the_classifier else []))
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
        raise UserError(
            f"there are no ImageNet weights for {name}: expected pretrained=False, or a model that Paddle has weights for"
        )
    from paddle.utils import download

    url, md5 = source
    try:
        path = download.get_weights_path_from_url(url, md5)
    except (RuntimeError, OSError) as error:
        place = Path(download.WEIGHTS_HOME) / url.rpartition("/")[2]
        raise UserError(
            f"could not fetch {name}'s ImageNet weights ({error}): download {url} elsewhere and put it at {place}"
        ) from None
    report = load_weights(net, path, strict=False)
    prefix = net.classifier_prefix
    lacking = [key for key in report.missing if "attn." not in key]
    wrong = [line for line in report.mismatched if not line.startswith(prefix)]
    if lacking or wrong or report.unexpected:
        raise UserError(f"{path} does not hold {name}: {_shortened([*lacking, *wrong, *report.unexpected])}")
    return report


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The tensors of a weights file, by the file's own keys. Raises UserError; runs nothing."""
    path = Path(path)
    if path.name.endswith(torch_files.SUFFIXES):
        state = _state_dict(_read(path, torch_files.read_torch))
    elif path.suffix == ".safetensors":
        state = _read(path, _read_safetensors)
    elif path.suffix == ".pdparams":
        state = _read(path, _read_pickle)
    else:
        raise UserError(f"cannot read weights from {path}: expected a file that ends in {', '.join(READ)}")
    if not isinstance(state, dict):
        raise UserError(f"{path} holds no weights: expected tensors by name, found a {type(state).__name__}")
    state.pop("StructuredToParameterName@@", None)  # paddle.save's own list of names
    for key, value in state.items():
        if not isinstance(key, str):
            raise UserError(f"{path} holds no weights: expected tensors by name, found the name {key!r}")
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise UserError(
                f"{path} holds no weights: expected a tensor as '{key}', found a {type(value).__name__}"
            )
    return state


def read_checkpoint(path: str | os.PathLike) -> Any:
    """What `save_checkpoint` wrote: numbers, texts, containers and arrays. Raises UserError when its checksum is wrong; runs nothing."""
    return _read(Path(path), _read_checked)


def save_weights(net: nn.Layer, path: str | os.PathLike) -> None:
    """Write a network's weights as `.pdparams` or `.safetensors`; an older file is replaced only by a whole new one."""
    path = Path(path)
    if path.suffix not in WRITTEN:
        raise UserError(
            f"cannot write weights to {path}: expected a name that ends in {' or '.join(WRITTEN)}"
        )
    state = net.state_dict()
    if path.suffix == ".safetensors":
        arrays = {key: np.ascontiguousarray(value.numpy()) for key, value in state.items()}
        atomic_write(path, lambda aside: safetensors.numpy.save_file(arrays, aside))
    else:
        atomic_write(path, lambda aside: paddle.save(state, str(aside)))


def save_checkpoint(state: Any, path: str | os.PathLike) -> None:
    """Write a tree of tensors, numbers and texts; an older file is replaced only by a whole new one."""
    arrays = paddle.utils.map_structure(
        lambda leaf: leaf.numpy() if isinstance(leaf, paddle.Tensor) else leaf, state
    )
    content = pickle.dumps(arrays, protocol=4)
    header = CHECKED + hashlib.sha256(content).hexdigest().encode() + b"\n"
    atomic_write(Path(path), lambda aside: aside.write_bytes(header + content))


CHECKED = (
    b"paddle_attn checkpoint, SHA-256 "  # begins a checkpoint's first line; those of version 0.1.0 had none
)


def _read_checked(path: Path) -> Any:
    with open(path, "rb") as file:
        header = file.readline(len(CHECKED) + 66)
        if not header.startswith(CHECKED):
            return _read_pickle(path)
        content = file.read()
    if hashlib.sha256(content).hexdigest().encode() != header[len(CHECKED) :].strip():
        raise ValueError("its checksum is wrong")
    return safe_pickle.plain(safe_pickle.load(io.BytesIO(content)))


def _read_pickle(path: Path) -> Any:
    with open(path, "rb") as file:
        return safe_pickle.plain(safe_pickle.load(file))


SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "bfloat16"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"},
}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    return {
        key: decode(bytes(info["data"]), SAFETENSORS[info["dtype"]]).reshape(info["shape"])
        for key, info in safetensors.deserialize(path.read_bytes())
    }


def _state_dict(tree: Any) -> Any:
    """The state dict in what a training script saved."""
    for key in ("state_dict", "model", "net"):
        if isinstance(tree, dict) and isinstance(tree.get(key), dict):
            return tree[key]
    return tree


def translated(net: nn.Layer, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A PyTorch state dict with our names, and its values in Paddle's layouts."""
    linear = {f"{name}.weight" for name, layer in net.named_sublayers() if isinstance(layer, nn.Linear)}
    flat = {
        f"{name}.{part}"
        for name, layer in net.named_sublayers()
        if isinstance(layer, nn.LayerNorm)
        for part in ("weight", "bias")
    }
    translated = {}
    for theirs, ours in our_keys(state, net.state_dict()).items():
        if ours in translated:
            raise UserError(
                f"two of the file's tensors are '{ours}' here, expected one; one of them is '{theirs}'"
            )
        value = state[theirs]
        if ours in linear and value.ndim in (2, 4):
            value = (
                value.reshape(value.shape[:2]).T if value.size == value.shape[0] * value.shape[1] else value
            )
        translated[ours] = value.ravel() if ours in flat else value
    return translated


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None
    except Refused as error:
        raise UserError(f"{path} is refused: it asks for {error}") from None
    except Exception as error:  # a broken pickle can raise anything
        raise UserError(
            f"{path} is damaged or no weights file: expected a whole {path.suffix} file, found {type(error).__name__} in it"
        ) from None


def _fold_void_biases(net: nn.Layer, state: dict[str, np.ndarray]) -> list[str]:
    """Take biases that the network does without into the running means behind them: (x + b) - mean is x - (mean - b)."""
    folded = []
    for bias, mean in getattr(net, "void_biases", {}).items():
        if bias in state and mean in state and state[bias].shape == state[mean].shape:
            state[mean] = state[mean] - state.pop(bias)
            folded.append(bias)
    return folded


def _why_not(
    where: str | os.PathLike, report: LoadReport, own: dict, state: dict, classifier: list[str]
) -> str:
    if classifier and not report.missing and not report.unexpected:
        key = classifier[0]
        found = (state[key].shape or (1,))[-1]
        return f"{where} has a classifier of {found} classes, expected {own[key].shape[-1]} as the network has (model.num_classes)"
    parts = [
        ("missing", report.missing),
        ("unexpected", report.unexpected),
        ("of another shape", report.mismatched),
    ]
    found = "; ".join(f"{len(keys)} {what} ({_shortened(keys)})" for what, keys in parts if keys)
    return f"{where} does not fit the network: expected its {len(own)} keys, found {found}"


def _shortened(keys: list[str] | tuple[str, ...], most: int = 6) -> str:
    more = f", … {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
