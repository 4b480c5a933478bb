"""The fidelity page: every module and network compared with its authors' code, as computed Markdown.

A difference is shown as the bound that it stays below, so that every machine makes the same page.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import paddle
from paddle import nn

from paddle_attn import ops
from paddle_attn.attention import list_attention
from paddle_attn.errors import UserError
from paddle_attn.models import create_model, list_models, model_spec
from paddle_attn.models.complexity import profile
from paddle_attn.models.placement import REPLACEMENTS

from .compare import (
    Case,
    is_statistic,
    module_cases,
    module_differences,
    network_difference,
    networks,
    notebook_difference,
    notebook_file,
    paddle_difference,
    reference_kwargs,
    stated_differences,
)
from .deviations import SHAPE, deviations
from .initialisation import CHOSEN, initial_differences, networks_with_a_start, unintended
from .trajectories import WIDER, recipe_of, training_differences, trajectories

BOUNDS = (
    1e-5,
    1e-4,
    3e-3,
    1e-2,
)  # far from the measured differences, so that every machine makes the same page
SHARES = (0.01, 0.1, 1)  # of a tolerance
SHOWN = {  # columns of the trainings: keys of `training_differences`
    "first gradients": ("first logits", "first gradients"),
    "losses": ("losses",),
    "eval logits": tuple(f"eval logits after {step}" for step in (1, 5, 20)),
    "weights": ("parameters", "norms"),
    "running statistics": ("running statistics",),
}


def page(golden: Path, progress: Callable[[str], None] = lambda line: None) -> str:
    """The whole page in Markdown; `progress` gets a line before each section.

    Raises: UserError when `golden` is not a reference folder.
    """
    if not (golden / "networks" / "networks.json").exists():
        raise UserError(
            f"there is no reference in {golden}: "
            f"expected attention/*.npz and networks/*.json, as in reference/golden"
        )
    lines = [HEAD]
    with ops.using("off"):  # a machine without a compiler must make the same page
        for number, (title, section) in enumerate(SECTIONS.items(), start=1):
            progress(f"{number} of {len(SECTIONS)}: {title}")
            lines += [f"## {title}", "", *section(golden), ""]
    return "\n".join(lines)


HEAD = """\
# Fidelity

`python tools/fidelity.py` makes this page and computes every figure. The reference is what the authors' own
PyTorch code computes in float32: tensors for the modules, logits for whole networks with prescribed weights
(`reference/golden`). A difference is shown as the bound that it stays below. The tests allow
1e-5 · (1 + |y|) for outputs and 1e-4 · (1 + |g|) for gradients, ten times as much in train mode for modules
with batch norm, and 1e-3 of the largest logit. Where the table says "largest value", they allow 1e-5 of it
for outputs, input gradients and running statistics after a training step, and 1e-4 for parameter gradients,
in both modes. This page compares the reference forms of the operators; the tests compare the fused forms with
the same tensors.
"""


def module_section(golden: Path) -> list[str]:
    cases = module_cases()
    lines = [
        "| module | case | input | mode | relative to | output | input gradient | parameter gradients "
        "| running statistics |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in [name for name in list_attention() if name not in REPLACEMENTS]:
        rows = [row for case in cases if case.attention == name for row in _module_rows(golden, case)]
        lines += rows or [f"| `{name}` | no author's code | | | | | | | |"]
    for name in REPLACEMENTS:
        lines += ["", f"`{name}` replaces a convolution and is compared in its network, below."]
    for case in cases:
        if case.tolerances:
            lines += ["", f"`{case.name}` has tolerances of its own: {case.reason}.", ""]
        for what, allowed in case.tolerances.items():
            mode, key = what.split("/")
            lines.append(
                f"- `{key}` in {mode} mode: the tests allow {allowed:g}. In float64 the same module differs "
                f"from the authors' float32 by {_float64_difference(golden, case, mode, key):.1g}"
                f"{' of the largest value' if case.of_largest else ' · (1 + |g|)'}."
            )
    return lines


def network_section(golden: Path) -> list[str]:
    compared, published = networks(golden), published_accuracies()
    lines = [
        "| network | attention | largest difference | parameters | GMACs | published top-1 / top-5 |",
        "|---|---|---|---|---|---|",
    ]
    for model in list_models():
        if model in compared:
            found = {attn: bound(network_difference(golden, model, attn)) for attn in compared[model]}
        else:
            found = _other_comparison(golden, model, list(compared))
        untested = [attn for name, attn in published if name == model and attn not in found]
        for attn, difference in (found | dict.fromkeys(untested, "only its parts are compared")).items():
            net = create_model(model, attn, reference_kwargs(model, attn))
            cost = profile(net, model_spec(model).input_size)
            lines.append(
                f"| `{model}` | {attn} | {difference} | {cost.params:,} | {cost.macs / 1e9:.3f} "
                f"| {published.get((model, attn), '')} |"
            )
    return [
        *lines,
        "",
        "Parameters and GMACs are for the published number of classes and input size. The published",
        "accuracies are those in their authors' GitHub repositories; nothing was trained on ImageNet here.",
    ]


TRAINING = """\
The authors' networks made twenty steps of SGD with momentum from prescribed weights, on random images and
labels. Our networks, optimiser, loss and training loop make the same steps. The reference is in double
precision, and so are these figures: the largest difference, in units of the tolerance that the rounding of
PyTorch's float32 needs. The tests train in float32, with the reference and with the fused forms of the
operators: everything must stay below 1. A trainer that is wrong in one point must not: a learning rate 1 %
higher, no weight decay of vectors, another ε or momentum of the batch norms, another λ or divisor of
SimAM."""
RUNNING_VARIANCE = """\
Paddle's batch norm moves the running variance towards the batch's sum of squares divided by n, PyTorch's
towards that divided by n - 1. Only eval mode sees it. The reference has both; these are for Paddle's."""


def training_section(golden: Path) -> list[str]:
    paddle.set_default_dtype("float64")
    try:
        found = {name: training_differences(golden, name) for name in trajectories(golden)}
    finally:
        paddle.set_default_dtype("float32")
    lines = [
        TRAINING,
        "",
        f"| network | learning rate | {' | '.join(SHOWN)} |",
        "|---|---|" + "---|" * len(SHOWN),
    ]
    for name, shares in found.items():
        worst = [bound(max(shares[key] for key in keys), SHARES) for keys in SHOWN.values()]
        lines.append(f"| {name} | {recipe_of(golden, name).lr:g} | {' | '.join(worst)} |")
    return [
        *lines,
        "",
        *(f"`{name}`: the tests allow {factor} in float32: {why}." for name, (factor, why) in WIDER.items()),
        "",
        RUNNING_VARIANCE,
    ]


def start_section(golden: Path) -> list[str]:
    lines = [
        "How every parameter starts, compared with the authors' networks: a constant is the same, normal and",
        "uniform values have the same mean and standard deviation, as far as their number shows it.",
        "",
        "| network | tensors | that start otherwise |",
        "|---|---|---|",
    ]
    for name, tensors in networks_with_a_start(golden).items():
        differences = initial_differences(golden, name)
        other = [f"`{key}`: {found}" for key, found in unintended(differences).items()]
        chosen = [f"{count} (chosen)"] if (count := len(differences) - len(other)) else []
        lines.append(f"| {name} | {tensors} | {', '.join(chosen + other) or 0} |")
    return [*lines, "", *(f"Chosen: {chosen.reason}." for chosen in CHOSEN), "", OTHER_STARTS]


OTHER_STARTS = """\
Networks for ImageNet start their convolutions normal with √(2 / fan out); `mobilenet_v2` starts every linear
layer, an attention's too, normal with 0.01 and with the bias 0, and has no dropout before its classifier.
`cifar_wideresnet*` start like ResNet, with the bias 0. The other networks for CIFAR start as PyTorch does:
weights and biases uniform in ±1/√(fan in). So does an attention alone or in another network. `towernet` and
`vgg19` are Paddle's and start as Paddle does."""


def deviation_section(golden: Path) -> list[str]:
    return [
        "| deviation | where | largest change of the output |",
        "|---|---|---|",
        *(f"| {found.what} | {found.where} | {change:.1g} |" for found, change in deviations(golden)),
        "",
        f"On the reference's inputs {SHAPE}, whose values are standard normal, with the reference's weights.",
    ]


SECTIONS: dict[str, Callable[[Path], list[str]]] = {
    "Modules": module_section,
    "Networks": network_section,
    "Training": training_section,
    "Start of training": start_section,
    "What copies do otherwise": deviation_section,
}


def published_accuracies() -> dict[tuple[str, str], str]:
    """Top-1 / top-5 on ImageNet in % and their source, as text, by model and attention."""
    with open(Path(__file__).parent / "published.csv", newline="", encoding="utf-8") as file:
        return {
            (row["model"], row["attention"]): " / ".join(filter(None, (row["top1"], row["top5"])))
            + f", {row['source']}"
            for row in csv.DictReader(file)
        }


def _module_rows(golden: Path, case: Case) -> list[str]:
    rows = []
    for shape in case.maps:
        if not (golden / case.file(shape)).exists():  # the project has a part of the tensors
            continue
        for mode in ("eval", "train"):
            found = stated_differences(golden / case.file(shape), case, mode)
            statistics = [found.pop(what) for what in list(found) if is_statistic(what)]
            output, gradient, *others = found.values()
            rows.append(
                f"| `{case.attention}` | {case.name} | {shape} | {mode} "
                f"| {'largest value' if case.of_largest else '1 + abs(y)'} "
                f"| {bound(output)} | {bound(gradient)} | {bound(max(others, default=0.0))} "
                f"| {bound(max(statistics)) if statistics else ''} |"
            )
    return rows


def _float64_difference(golden: Path, case: Case, mode: str, key: str) -> float:
    """How far the authors' float32 gradients are from the same formula in double precision."""
    files = [golden / case.file(shape) for shape in case.maps]
    paddle.set_default_dtype("float64")
    try:
        return max(module_differences(file, case, mode, "float64")[key] for file in files if file.exists())
    finally:
        paddle.set_default_dtype("float32")


def _other_comparison(golden: Path, model: str, compared: list[str]) -> dict[str, str]:
    """What replaces authors' logits for a model that the reference lacks, as text: `{attention: text}`."""
    notebook = notebook_file(golden, model)
    if notebook:
        attn = notebook.stem.split("-")[1]
        return {attn: f"{bound(notebook_difference(notebook))}, compared with the notebook's own network"}
    if hasattr(paddle.vision.models, model):
        return {
            "none": f"{bound(paddle_difference(model))}, "
            f"compared with paddle.vision.models.{model} with the same weights"
        }
    same = next((other for other in compared if _layer_types(other) == _layer_types(model)), None)
    return {"none": f"the same code as {same}, another depth" if same else "no reference"}


def _layer_types(model: str) -> set[type[nn.Layer]]:
    return {type(layer) for layer in create_model(model).sublayers(include_self=True)}


def bound(value: float, bounds: tuple[float, ...] = BOUNDS) -> str:
    """A difference as the smallest of `bounds` that it stays below, as text."""
    return next((f"< {bound:g}" for bound in bounds if value < bound), f"{value:.0e}")
