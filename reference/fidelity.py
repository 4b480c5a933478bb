"""The fidelity page: every module and network against its authors' code, as a Markdown page that is computed, never typed.

The reference is a folder of tensors and logits that the authors' PyTorch code computed (`reference/golden`). A difference is
shown as the step that it stays below, so that the page is the same on every machine.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from paddle_attn import ops
from paddle_attn.attention import CBAM, create_attention, list_attention
from paddle_attn.errors import UserError
from paddle_attn.models import create_model, list_models, model_spec
from paddle_attn.models.complexity import profile
from paddle_attn.weights import load_state, translated

SHAPE = "2x32x7x7"
# attention: {file: its arguments}; SK is held against the whole network that it is in
MODULES: dict[str, dict[str, dict]] = {
    "bam": {"bam": {}},
    "cbam": {"cbam": {}, "cbam_no_spatial": {"spatial": False}},
    "eca": {"eca_k3": {"k_size": 3}, "eca_k5": {"k_size": 5}},
    "gc": {"gc": {}, "gc_mul_avg": {"pooling": "avg", "fusion": "mul"}},
    "se": {"se": {}},
    "sge": {"sge": {"groups": 8}},
    "simam": {"simam": {}, "simam_lambda0.1": {"e_lambda": 0.1}},
    "srm": {"srm": {}},
}
# model: the attentions with which the reference has it
NETWORKS: dict[str, tuple[str, ...]] = {
    "cifar_mobilenetv2": ("none", "simam", "se", "cbam"),
    "cifar_preresnet164": ("none",),
    "cifar_preresnet20": ("none", "simam", "se", "cbam"),
    "cifar_preresnet56": ("none", "simam", "se", "cbam"),
    "cifar_resnet164": ("none",),
    "cifar_resnet20": ("none", "simam", "se", "cbam"),
    "cifar_wideresnet28x10": ("none", "simam"),
    "mobilenet_v2": ("none", "simam", "se", "cbam"),
    "resnet18": ("none", "simam", "se", "cbam", "sge", "bam", "eca"),
    "resnet34": ("none", "simam", "se", "cbam"),
    "resnet50": ("none", "simam", "se", "cbam", "sge", "bam", "sk", "eca", "srm"),
    "resnext50_32x4d": ("none", "simam", "se", "cbam"),
}
# the others, and what stands for them
ELSEWHERE: dict[str, str] = {
    "cifar_preresnet110": "the code of cifar_preresnet56, deeper",
    "cifar_preresnet32": "the code of cifar_preresnet20, deeper",
    "cifar_resnet110": "the code of cifar_resnet20, deeper",
    "cifar_resnet32": "the code of cifar_resnet20, deeper",
    "cifar_resnet56": "the code of cifar_resnet20, deeper",
    "cifar_wideresnet40x10": "the code of cifar_wideresnet28x10, deeper",
    "resnet101": "paddle.vision.models.resnet101 with the same weights",
    "resnet152": "paddle.vision.models.resnet152 with the same weights",
    "towernet": "the notebook's own network",
    "vgg19": "paddle.vision.models.vgg19 with the same weights",
}
# top-1 / top-5 on ImageNet in %, as published
PUBLISHED: dict[tuple[str, str], str] = {
    ("resnet18", "simam"): "71.31 / 89.88, SimAM repository",
    ("resnet34", "simam"): "74.49 / 92.02, SimAM repository",
    ("resnet50", "simam"): "77.45 / 93.66, SimAM repository",
    ("resnext50_32x4d", "simam"): "78.00 / 93.93, SimAM repository",
    ("mobilenet_v2", "simam"): "72.36 / 90.74, SimAM repository",
    ("resnet50", "none"): "76.384, PytorchInsight",
    ("resnet50", "se"): "77.184, PytorchInsight",
    ("resnet50", "sk"): "77.538, PytorchInsight",
    ("resnet50", "sge"): "77.584 / 93.664, PytorchInsight",
    ("resnet50", "cbam"): "77.622 / 93.948, attention-module",
    ("resnet50", "bam"): "76.860 / 93.416, attention-module",
    ("resnet18", "eca"): "70.92, ECANet",
    ("resnet50", "eca"): "77.42, ECANet",
    ("resnet34", "eca"): "74.21, ECANet",
    ("mobilenet_v2", "eca"): "72.56, ECANet",
    ("resnet101", "none"): "78.200, PytorchInsight",
    ("resnet101", "simam"): "78.65 / 94.11, SimAM repository",
    ("resnet101", "se"): "78.468, PytorchInsight",
    ("resnet101", "sk"): "78.792, PytorchInsight",
    ("resnet101", "bam"): "78.218, PytorchInsight",
    ("resnet101", "cbam"): "78.354, PytorchInsight",
    ("resnet101", "sge"): "78.798 / 94.368, PytorchInsight",
    ("resnet101", "eca"): "78.65, ECANet",
}


def prescribed(key: str, shape: list[int], paddles: bool = False) -> np.ndarray:
    """The weights that the reference prescribes for a key of the authors' state dict (of Paddle's, for the notebook's)."""
    rng = np.random.default_rng(zlib.crc32(key.encode()))
    if key.endswith(("running_mean", "._mean")):
        value = 0.1 * rng.standard_normal(shape)
    elif key.endswith(("running_var", "._variance")):
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) > 1:
        fan_in = shape[0] if paddles and len(shape) == 2 else np.prod(shape[1:])
        value = np.sqrt(2 / fan_in) * rng.standard_normal(shape)
    elif key.endswith("weight"):
        value = rng.uniform(0.2, 0.6, shape)
    else:
        value = 0.05 * rng.standard_normal(shape)
    return value.astype("float32")


def reference_kwargs(model: str, attn: str) -> dict:
    """The attention's arguments with which the reference network was made."""
    if attn == "eca":
        return {"k_size": [3, 3, 3, 3] if model == "resnet18" else [3, 3, 3, 5]}
    return (
        {"reduction": 4}
        if attn in ("se", "cbam") and model in ("cifar_resnet20", "cifar_preresnet20", "cifar_preresnet56")
        else {}
    )


def module_differences(
    file: Path, name: str, kwargs: dict, mode: str, dtype: str = "float32"
) -> dict[str, float]:
    """The largest |Δ| / (1 + |y|) against a reference file: of 'output', 'input gradient', and each parameter's gradient by its name."""
    tensors = np.load(file)
    attn = _loaded(tensors, name, kwargs)
    attn.train() if mode == "train" else attn.eval()
    x = paddle.to_tensor(tensors["x"].astype(dtype), stop_gradient=False)
    y = attn(x)
    (y * paddle.to_tensor(tensors["g"].astype(dtype))).sum().backward()
    gradients = translated(
        attn,
        {
            f"module.{key.removeprefix(f'{mode}/grad/')}": tensors[key]
            for key in tensors
            if key.startswith(f"{mode}/grad/")
        },
    )
    parameters = dict(attn.named_parameters())
    found = {
        "output": _difference(y.numpy(), tensors[f"{mode}/y"]),
        "input gradient": _difference(x.grad.numpy(), tensors[f"{mode}/gx"]),
    }
    return found | {key: _difference(parameters[key].grad.numpy(), value) for key, value in gradients.items()}


def network_difference(golden: Path, model: str, attn: str) -> float:
    """The largest |Δ logit| over the largest |logit| against the authors' network with the prescribed weights."""
    entry = (
        f"cifar/{model.removeprefix('cifar_')}/{attn}"
        if model.startswith("cifar_")
        else f"imagenet/{model}/{attn}"
    )
    expected = json.loads((golden / "networks" / "networks.json").read_text())[entry]
    keys = json.loads((golden / "networks" / f"{entry.replace('/', '-')}.keys.json").read_text())
    logits = np.array(expected["logits"])
    net = create_model(model, attn, reference_kwargs(model, attn), num_classes=logits.shape[1])
    load_state(net, {key: prescribed(key, shape) for key, shape in keys.items()}, entry, torch_style=True)
    x = np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")
    return float(np.abs(_answer(net, x) - logits).max() / np.abs(logits).max())


def other_difference(golden: Path, model: str) -> float | None:
    """The same for a network that the authors' logits do not cover: against the notebook or Paddle's own; None where nothing is."""
    if model == "towernet":
        file = golden / "networks" / "towernet-simam-notebook"
        expected = json.loads(file.with_suffix(".json").read_text())
        keys = json.loads(file.with_suffix(".keys.json").read_text())
        net = create_model("towernet", "simam")
        load_state(
            net,
            {key: prescribed(key, shape, paddles=True) for key, shape in keys.items()},
            "the notebook's checkpoint",
        )
        x = np.random.default_rng(expected["input_seed"]).standard_normal(expected["input"]).astype("float32")
        logits = np.array(expected["logits"])
    elif hasattr(paddle.vision.models, model):
        theirs = getattr(paddle.vision.models, model)(num_classes=10)
        net = create_model(model, num_classes=10)
        net.set_state_dict(theirs.state_dict())
        x = np.random.default_rng(0).standard_normal([1, 3, 64, 64]).astype("float32")
        logits = _answer(theirs, x)
    else:
        return None
    return float(np.abs(_answer(net, x) - logits).max() / np.abs(logits).max())


def deviations(golden: Path) -> list[tuple[str, str, float]]:
    """What widely used copies do otherwise, in whose file, and by how much it changes the output on a reference tensor."""
    cbam, sge, simam = (
        np.load(golden / "attention" / f"{name}-{SHAPE}.npz") for name in ("cbam", "sge", "simam_lambda0.1")
    )
    bam = np.load(golden / "attention" / f"bam-{SHAPE}.npz")

    def changed(
        tensors: np.lib.npyio.NpzFile,
        name: str,
        kwargs: dict,
        change: Callable[[nn.Layer, paddle.Tensor], paddle.Tensor],
    ) -> float:
        attn = _loaded(tensors, name, kwargs)
        attn.eval()
        with paddle.no_grad():
            return float(
                np.abs(change(attn, paddle.to_tensor(tensors["x"])).numpy() - tensors["eval/y"]).max()
            )

    return [
        ("CBAM pools [mean, max] along the channels, the authors [max, mean]: their weights meet the wrong map",
         "timm/layers/cbam.py", changed(cbam, "cbam", {}, _cbam_mean_first)),
        ("CBAM's shared perceptron has no biases", "timm/layers/cbam.py (mlp_bias=False)", changed(cbam, "cbam", {}, _cbam_without_biases)),
        ("CBAM's spatial gate has no batch norm, and the input is added to the output",
         "External-Attention-pytorch/model/attention/CBAM.py", changed(cbam, "cbam", {}, _cbam_residual)),
        ("BAM adds its two branches, as the paper says; the authors' code multiplies them",
         "External-Attention-pytorch/model/attention/BAM.py", changed(bam, "bam", {}, _bam_added)),
        ("SGE's bias starts at 0, where the authors mean 1 (at the start of training)", "a widely copied SGE", _sge_start(sge)),
        ("SimAM by instance norm with eps = λ, not λ(M-1)/M (λ = 0.1, 7x7)", "a tempting shortcut",
         changed(simam, "simam", {"e_lambda": 0.1}, _simam_wrong_eps)),
    ]  # fmt: skip


def page(golden: Path) -> str:
    """The whole page in Markdown. Raises UserError when the reference is not there."""
    if not (golden / "networks" / "networks.json").exists():
        raise UserError(
            f"there is no reference in {golden}: expected attention/*.npz and networks/*.json, as in reference/golden"
        )
    with ops.using("off"):  # a machine without a compiler must make the same page
        return (
            "\n".join([*_head(), *_module_table(golden), *_network_table(golden), *_deviation_table(golden)])
            + "\n"
        )


def _head() -> list[str]:
    return [
        "# Fidelity",
        "",
        "Made by `python tools/fidelity.py`, which computes every figure below. The reference is what the authors' own PyTorch code",
        "answers in float32: tensors for the modules, logits for whole networks with prescribed weights (`reference/golden`). A difference is",
        "shown as the step that it stays below. The tests ask for 1e-5 · (1 + |y|) of outputs and 1e-4 · (1 + |g|) of gradients, ten times that in",
        "train mode for modules with batch norm, and 1e-3 of the largest logit. The page is of the portable forms; the tests hold the compiled",
        "operators against the same tensors.",
        "",
    ]


def _module_table(golden: Path) -> list[str]:
    lines = [
        f"## Modules, on maps {SHAPE}",
        "",
        "| module | case | mode | output | input gradient | parameter gradients |",
        "|---|---|---|---|---|---|",
    ]
    for name in list_attention():
        for file, kwargs in MODULES[name].items():
            for mode in ("eval", "train"):
                found = module_differences(golden / "attention" / f"{file}-{SHAPE}.npz", name, kwargs, mode)
                output, gradient, *others = found.values()
                lines.append(
                    f"| `{name}` | {file} | {mode} | {_rounded(output)} | {_rounded(gradient)} | {_rounded(max(others, default=0.0))} |"
                )
    return [
        *lines,
        "",
        "`sk` replaces a convolution and is compared in its network, below. SRM's norm over two samples amplifies rounding: in float64 the",
        f"same module is {_srm_in_float64(golden):.1g} * (1 + |g|) off the authors' float32 gradient of `cfc`: there the tests allow twice as",
        "much as elsewhere.",
        "",
    ]


def _network_table(golden: Path) -> list[str]:
    lines = [
        "## Networks",
        "",
        "| network | attention | largest difference | parameters | GMACs | published top-1 / top-5 |",
        "|---|---|---|---|---|---|",
    ]
    for model in list_models():
        compared = NETWORKS.get(model, ("simam",) if model == "towernet" else ("none",))
        for attn in [
            *compared,
            *(other for name, other in PUBLISHED if name == model and other not in compared),
        ]:
            if attn not in compared:
                difference = "module and placement as above"
            elif model in NETWORKS:
                difference = _rounded(network_difference(golden, model, attn))
            else:
                measured = other_difference(golden, model)
                difference = (
                    ELSEWHERE[model]
                    if measured is None
                    else f"{_rounded(measured)}, against {ELSEWHERE[model]}"
                )
            net = create_model(
                model, attn, reference_kwargs(model, attn) if attn in compared and model in NETWORKS else {}
            )
            cost = profile(net, model_spec(model).input_size)
            lines.append(
                f"| `{model}` | {attn} | {difference} | {cost.params:,} | {cost.macs / 1e9:.3f} | {PUBLISHED.get((model, attn), '')} |"
            )
    return [
        *lines,
        "",
        "Parameters and GMACs are for the published number of classes (1000; CIFAR 10; TowerNet 16) and input. The published accuracies are",
        "their authors' figures, from github.com/ZjjConan/SimAM, implus/PytorchInsight, Jongchan/attention-module and BangguWu/ECANet; nothing",
        "was trained on ImageNet here.",
        "",
    ]


def _deviation_table(golden: Path) -> list[str]:
    lines = [
        "## What copies do otherwise",
        "",
        "| deviation | where | largest change of the output |",
        "|---|---|---|",
    ]
    lines += [f"| {what} | {where} | {effect:.1g} |" for what, where, effect in deviations(golden)]
    return [
        *lines,
        "",
        f"On the reference's maps {SHAPE}, whose values are standard normal, with the reference's weights.",
    ]


def _srm_in_float64(golden: Path) -> float:
    """How far the authors' float32 gradient of SRM's weights is from the same formula in double precision."""
    paddle.set_default_dtype("float64")
    try:
        return module_differences(golden / "attention" / f"srm-{SHAPE}.npz", "srm", {}, "train", "float64")[
            "cfc"
        ]
    finally:
        paddle.set_default_dtype("float32")


def _loaded(tensors: np.lib.npyio.NpzFile, name: str, kwargs: dict) -> nn.Layer:
    attn = create_attention(name, channels=tensors["x"].shape[1], **kwargs)
    load_state(
        attn,
        {f"module.{key.removeprefix('param/')}": tensors[key] for key in tensors if key.startswith("param/")},
        name,
        torch_style=True,
    )
    return attn


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float((np.abs(found - expected) / (1 + np.abs(expected))).max()) if expected.size else 0.0


def _answer(net: nn.Layer, x: np.ndarray) -> np.ndarray:
    net.eval()
    with paddle.no_grad():
        return net(paddle.to_tensor(x)).numpy()


STEPS = (1e-5, 1e-4, 3e-3)  # well away from what is measured, so that another machine makes the same page


def _rounded(value: float) -> str:
    return next((f"< {step:g}" for step in STEPS if value < step), f"{value:.0e}")


def _spatial(cbam: CBAM, x: paddle.Tensor, pooled: list[paddle.Tensor]) -> paddle.Tensor:
    gate = cbam.spatial_gate
    return x * F.sigmoid(gate.bn(gate.conv(paddle.concat(pooled, axis=1))))


def _cbam_mean_first(cbam: CBAM, x: paddle.Tensor) -> paddle.Tensor:
    x = x * cbam.channel_gate(x)
    return _spatial(cbam, x, [x.mean(1, keepdim=True), x.max(1, keepdim=True)])


def _cbam_without_biases(cbam: CBAM, x: paddle.Tensor) -> paddle.Tensor:
    for layer in (cbam.channel_gate.mlp[0], cbam.channel_gate.mlp[2]):
        layer.bias.set_value(np.zeros(layer.bias.shape, "float32"))
    return cbam(x)


def _cbam_residual(cbam: CBAM, x: paddle.Tensor) -> paddle.Tensor:
    y = x * cbam.channel_gate(x)
    pooled = paddle.concat([y.max(1, keepdim=True), y.mean(1, keepdim=True)], axis=1)
    return y * F.sigmoid(cbam.spatial_gate.conv(pooled)) + x


def _bam_added(bam: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    channel = bam.channel_gate(x.mean([2, 3])).unsqueeze([2, 3])
    return x * (1 + F.sigmoid(channel + bam.spatial_gate(x)))


def _sge_start(tensors: np.lib.npyio.NpzFile) -> float:
    x = paddle.to_tensor(tensors["x"])
    fresh, copied = (create_attention("sge", 32, groups=8) for _ in range(2))
    copied.bias.set_value(np.zeros(copied.bias.shape, "float32"))
    return float((fresh(x) - copied(x)).abs().max())


def _simam_wrong_eps(simam: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    size = x.shape[2] * x.shape[3]
    z = F.instance_norm(x, eps=simam.e_lambda)
    return x * F.sigmoid(z * z * ((size - 1) / (4 * size)) + 0.5)
