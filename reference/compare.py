"""Compares modules and networks with what their authors' PyTorch code computed.

The reference is a folder, `reference/golden` or a larger one with the same layout: tensors for the modules
and logits for whole networks. JSON files beside them state the arguments (`reference/README.md`).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from paddle_attn.attention import create_attention
from paddle_attn.models import create_model
from paddle_attn.weights import load_state, translated

COMMITTED = Path(__file__).parent / "golden"  # it has the JSON files; a larger reference may lack them


@dataclass(frozen=True)
class Case:
    """One module of the reference with its constructor arguments: an entry of `attention/modules.json`."""

    name: str
    attention: str  # a name of list_attention()
    kwargs: dict[str, Any]
    maps: tuple[str, ...]  # the shapes of the input, such as '2x32x7x7': one file of tensors each
    folder: str = "attention"  # of these files, in the reference
    files: str = ""  # how their names begin, if not with the name of the case
    tolerances: dict[str, float] = field(
        default_factory=dict
    )  # {'train/cfc': 2e-3}: other than the usual ones
    reason: str = ""  # why the case has tolerances of its own
    zero: tuple[
        str, ...
    ] = ()  # gradients that are 0 in theory, such as 'train/conv1.bias': compared absolutely
    of_largest: bool = False  # differences are relative to the largest value, not to 1 + |y|

    def file(self, shape: str) -> str:
        """The path of the tensors for one shape, relative to the reference."""
        return f"{self.folder}/{self.files or self.name}-{shape}.npz"

    def create(self, channels: int) -> nn.Layer:
        return create_attention(self.attention, channels, **self.kwargs)


def module_cases() -> list[Case]:
    """All modules of the reference."""
    files = [COMMITTED / "attention" / "modules.json", *sorted((COMMITTED / "attention2").glob("*.json"))]
    return [case for file in files for case in _read_cases(file)]


def _read_cases(file: Path) -> list[Case]:
    usual = {"folder": file.parent.name, "of_largest": file.parent.name != "attention"}
    entries = json.loads(file.read_text(encoding="utf-8"))
    return [
        Case(name, **usual | entry | {key: tuple(entry.get(key, ())) for key in ("maps", "zero")})
        for name, entry in entries.items()
    ]


def load_tensors(case: Case, tensors: np.lib.npyio.NpzFile) -> nn.Layer:
    """The case's module with the authors' parameters."""
    attn = case.create(tensors["x"].shape[1])
    load_state(attn, _with_prefix(tensors, "param/"), case.name, torch_style=True)
    return attn


def module_differences(file: Path, case: Case, mode: str, dtype: str = "float32") -> dict[str, float]:
    """The largest |Δ| / (1 + |y|) against one file of tensors, or max |Δ| / max |y| (`Case.of_largest`).

    Args:
        mode: 'eval' or 'train'.
        dtype: 'float64' also needs Paddle's default type to be float64.

    Returns: the difference of 'output', of 'input gradient', of each parameter's gradient by its name, and of
    each running statistic after the training step by its name, if the file has them.
    """
    tensors = np.load(file)
    attn = load_tensors(case, tensors)
    attn.train() if mode == "train" else attn.eval()
    before = {key: value.numpy() for key, value in attn.state_dict().items() if is_statistic(key)}
    counts = _count_samples(attn)
    x = paddle.to_tensor(tensors["x"].astype(dtype), stop_gradient=False)
    y = attn(x)
    (y * paddle.to_tensor(tensors["g"].astype(dtype))).sum().backward()
    gradients = translated(attn, _with_prefix(tensors, f"{mode}/grad/"))
    parameters, state = dict(attn.named_parameters()), attn.state_dict()
    statistics = _in_paddles_form(translated(attn, _with_prefix(tensors, f"{mode}/after/")), before, counts)
    measure = _of_largest if case.of_largest else _difference
    found = {
        "output": measure(y.numpy(), tensors[f"{mode}/y"]),
        "input gradient": measure(x.grad.numpy(), tensors[f"{mode}/gx"]),
    }
    for key, value in gradients.items():
        gradient = parameters[key].grad.numpy()
        in_theory_zero = f"{mode}/{key}" in case.zero
        found[key] = float(np.abs(gradient - value).max()) if in_theory_zero else measure(gradient, value)
    return found | {key: measure(state[key].numpy(), value) for key, value in statistics.items()}


def is_statistic(what: str) -> bool:
    """Whether a key of `module_differences` is a running statistic of a batch norm."""
    return what.endswith(("._mean", "._variance"))


def _count_samples(attn: nn.Layer) -> dict[str, tuple[nn.Layer, list[int]]]:
    """Each batch norm by its name, and a list that receives its number of samples for each channel."""
    counts = {}
    for name, layer in attn.named_sublayers():
        if isinstance(layer, (nn.BatchNorm1D, nn.BatchNorm2D)):
            counts[name] = layer, (samples := [])
            layer.register_forward_pre_hook(
                lambda layer, inputs, samples=samples: samples.append(inputs[0].size // inputs[0].shape[1])
            )
    return counts


def _in_paddles_form(
    statistics: dict[str, np.ndarray],
    before: dict[str, np.ndarray],
    counts: dict[str, tuple[nn.Layer, list[int]]],
) -> dict[str, np.ndarray]:
    """PyTorch's running statistics after a step as Paddle has them: it divides by n, PyTorch by n - 1."""
    converted = dict(statistics)
    for name, (layer, samples) in counts.items():
        key = f"{name}._variance"
        if key in statistics:
            kept = before[key] * layer._momentum
            converted[key] = kept + (statistics[key] - kept) * (samples[0] - 1) / samples[0]
    return converted


def tolerance(case: Case, mode: str, what: str, batch_norm: bool) -> float:
    """The largest difference that the tests allow.

    Args:
        what: a key of `module_differences`.
        batch_norm: the module has one; in train mode its statistics over two samples amplify rounding.
    """
    if case.of_largest:
        usual = 1e-5 if what in ("output", "input gradient") or is_statistic(what) else 1e-4
    else:
        usual = (1e-5 if what == "output" else 1e-4) * (10 if mode == "train" and batch_norm else 1)
    return case.tolerances.get(f"{mode}/{what}", usual)


def stated_differences(file: Path, case: Case, mode: str) -> dict[str, float]:
    """`module_differences` for a page that is the same on every processor.

    A difference with a tolerance of its own, because it varies between processors, is the tolerance here.
    """
    found = module_differences(file, case, mode)
    return {what: max(value, case.tolerances.get(f"{mode}/{what}", 0)) for what, value in found.items()}


def entry(model: str, attn: str) -> str:
    """The name of a network in `networks/networks.json`."""
    family, name = (
        ("cifar", model.removeprefix("cifar_")) if model.startswith("cifar_") else ("imagenet", model)
    )
    return f"{family}/{name}/{attn}"


def network_of(name: str) -> tuple[str, str]:
    """The model and the attention ('none' is one) of a name in `networks/networks.json`."""
    family, model, attn = name.split("/")
    return f"cifar_{model}" if family == "cifar" else model, attn


def networks(golden: Path) -> dict[str, list[str]]:
    """The networks whose logits the reference has: the attentions for each model ('none' is one of them)."""
    found: dict[str, list[str]] = {}
    for key in _read_networks(golden):
        model, attn = network_of(key)
        found.setdefault(model, []).append(attn)
    return found


def reference_kwargs(model: str, attn: str) -> dict[str, Any]:
    """The attention's arguments in the reference network, where they are not the defaults."""
    arguments = json.loads((COMMITTED / "networks" / "arguments.json").read_text(encoding="utf-8"))
    return arguments.get(entry(model, attn), {})


def network_difference(golden: Path, model: str, attn: str) -> float:
    """max |Δ logit| / max |logit| against the authors' network, both with the prescribed weights."""
    name = entry(model, attn)
    expected = _read_networks(golden)[name]
    net = reference_network(golden, name)
    return _logit_difference(_answer(net, _input(expected)), np.array(expected["logits"]))


def reference_network(golden: Path, name: str) -> nn.Layer:
    """Our network for a name in `networks/networks.json`, with the prescribed weights."""
    model, attn = network_of(name)
    classes = len(_read_networks(golden)[name]["logits"][0])
    net = create_model(model, attn, reference_kwargs(model, attn), num_classes=classes)
    load_state(net, prescribed_state(golden, name), name, torch_style=True)
    return net


def prescribed_state(golden: Path, name: str) -> dict[str, np.ndarray]:
    """The weights that the reference prescribes for a network, by the authors' names."""
    file = golden / "networks" / f"{name.replace('/', '-')}.keys.json"
    return {key: prescribed(key, shape) for key, shape in json.loads(file.read_text()).items()}


def notebook_file(golden: Path, model: str) -> Path | None:
    """The logits of the notebook that a model comes from, `networks/<model>-<attention>-notebook.json`."""
    return next((golden / "networks").glob(f"{model}-*-notebook.json"), None)


def notebook_difference(file: Path) -> float:
    """`network_difference` for a notebook's network, with the attention that the file's name states."""
    model, attn, _ = file.stem.split("-")
    expected = json.loads(file.read_text())
    keys = json.loads(file.with_suffix(".keys.json").read_text())
    net = create_model(model, attn)
    state = {key: prescribed(key, shape, paddle_layout=True) for key, shape in keys.items()}
    load_state(net, state, file)
    return _logit_difference(_answer(net, _input(expected)), np.array(expected["logits"]))


def paddle_difference(model: str) -> float:
    """`network_difference` for the network of that name in `paddle.vision.models`, with random weights."""
    theirs = getattr(paddle.vision.models, model)(num_classes=10)
    net = create_model(model, num_classes=10)
    net.set_state_dict(theirs.state_dict())
    x = np.random.default_rng(0).standard_normal([1, 3, 64, 64]).astype("float32")
    return _logit_difference(_answer(net, x), _answer(theirs, x))


def prescribed(key: str, shape: list[int], paddle_layout: bool = False) -> np.ndarray:
    """The weights that the reference prescribes for a key of the authors' state dict.

    Args:
        paddle_layout: the key is Paddle's, and a matrix is [in, out] as in a Paddle linear layer.
    """
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith(("running_mean", "._mean")):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith(("running_var", "._variance")):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
        fan_in = shape[0] if paddle_layout and len(shape) == 2 else np.prod(shape[1:])
        value = np.sqrt(2 / fan_in) * rng.standard_normal(shape)
    elif key.endswith("weight"):
        value = rng.uniform(0.2, 0.6, shape)
    else:
        value = 0.05 * rng.standard_normal(shape)
    return value.astype("float32")


def _read_networks(golden: Path) -> dict[str, dict]:
    return json.loads((golden / "networks" / "networks.json").read_text())


def _with_prefix(tensors: np.lib.npyio.NpzFile, prefix: str) -> dict[str, np.ndarray]:
    return {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max()) if expected.size else 0.0


def _of_largest(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _logit_difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _input(expected: dict) -> np.ndarray:
    return np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")


def _answer(net: nn.Layer, x: np.ndarray) -> np.ndarray:
    net.eval()
    with paddle.no_grad():
        return net(paddle.to_tensor(x)).numpy()
