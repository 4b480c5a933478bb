"""The comparisons of docs/performance.md: what each side does, and the ratio to reach. Needs no Paddle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = {  # module in benchmarks/baselines: name on the page
    "ours": "this project",
    "stock_paddle": "stock Paddle",
    "pytorch": "PyTorch",
    "onnx_runtime": "ONNX Runtime",
}
PACKAGES = {"pytorch": "torch", "onnx_runtime": "onnxruntime"}  # side: the package that it needs
SECTIONS = ("modules", "train", "infer", "data")
SIZES = {"towernet": 256, "resnet50": 224, "mobilenet_v2": 224}  # of the images of inference
SHAPES = ([32, 64, 56, 56], [8, 256, 32, 32], [32, 512, 7, 7])
FORMULA, EAGER = "stock Paddle, formula as written", "PyTorch, eager"


@dataclass(frozen=True)
class Line:
    """A comparison of this project with a baseline.

    Attributes:
        section: a section of the page.
        what: the work, on the page.
        ours, baseline: `side`, `step` and the step's arguments, for `benchmarks/baselines/worker.py`. The
            baseline of the side 'itself' is our own time without the waiting for data.
        label: of the baseline, on the page.
        aim: the ratio baseline / ours to reach.
        same_process: measure both sides in one process, with more rounds: for differences of a few
            percent, by which two equal processes differ too.
    """

    section: str
    what: str
    ours: dict[str, Any]
    baseline: dict[str, Any]
    label: str
    aim: float
    same_process: bool = False


@dataclass(frozen=True)
class Result:
    """A measured line: medians in milliseconds, and the median of baseline / ours over the pairs."""

    section: str
    what: str
    ours_ms: float
    baseline: str
    baseline_ms: float
    ratio: float
    aim: float


def compare(
    section: str,
    step: str,
    what: str,
    baseline: str,
    aim: float,
    label: str = "",
    ours: dict[str, Any] | None = None,
    theirs: dict[str, Any] | None = None,
    same_process: bool = False,
    **arguments: Any,
) -> Line:
    """A line in which both sides take the same step; `ours` and `theirs` are arguments of one side."""
    one = {"side": "ours", "step": step, **arguments, **(ours or {})}
    other = {"side": baseline, "step": step, **arguments, **(theirs or {})}
    return Line(section, what, one, other, label or SIDES[baseline], aim, same_process)


def lines(section: str, data: Path, scratch: Path) -> list[Line]:
    """The comparisons of a section.

    Args:
        section: one of `SECTIONS`.
        data: a folder of class folders with images.
        scratch: a folder for exported models.
    """
    make: dict[str, Callable[[], list[Line]]] = {
        "modules": modules,
        "train": train,
        "infer": functools.partial(infer, scratch),
        "data": functools.partial(loading, data),
    }
    return make[section]()


def modules() -> list[Line]:
    """Attention modules and layers, forward and backward."""
    line = functools.partial(compare, "modules", "module")
    found = []
    for shape in SHAPES:
        title, simam = f"SimAM, {text(shape)}", {"name": "simam", "shape": shape, "mode": "train"}
        elementwise = {"ours": {"mode": "forward"}, "theirs": {"mode": "elementwise"}}
        found += [
            line(f"{title}, fused", "stock_paddle", 25, FORMULA, **simam),
            line(f"{title}, reference", "stock_paddle", 6, FORMULA, ours={"form": "off"}, **simam),
            line(f"{title}, fused", "pytorch", 2.5 if shape[1] == 512 else 3, EAGER, **simam),
            line(f"{title}, fused, forward", "ours", 0.4, "one elementwise pass", **elementwise, **simam),
        ]
    for name, aim in (("sge", 1.5), ("cbam", 1.0), ("se", 1.0)):
        for shape in SHAPES:
            title = f"{name.upper()}, {text(shape)}"
            found.append(line(title, "pytorch", aim, EAGER, name=name, shape=shape, mode="train"))
    for name, title, shape in (
        ("conv3x3", "3×3 convolution", [8, 128, 32, 32]),
        ("depthwise", "depthwise 3×3 convolution", [8, 144, 56, 56]),
        ("max_pool", "2×2 max-pool", [8, 128, 64, 64]),
    ):
        both = {"name": name, "shape": shape, "mode": "train"}
        title = f"{title}, {text(shape)}"
        found.append(line(title, "ours", 1.5, "Paddle's kernel", theirs={"form": "off"}, **both))
    for name, title in (("batch_norm", "batch norm (Paddle's)"), ("relu", "ReLU (Paddle's)")):
        both = {"name": name, "shape": [8, 96, 112, 112], "mode": "train"}
        found.append(line(f"{title}, {text(both['shape'])}", "pytorch", 1, EAGER, **both))
    return found


def text(shape: list[int]) -> str:
    return "×".join(map(str, shape))


def train() -> list[Line]:
    """Whole training steps: forward, backward, update."""

    def line(
        model: str, size: int, batch: int, baseline: str, aim: float, label: str = "", **more: Any
    ) -> Line:
        both = {"model": model, "attn": "simam", "size": size, "batch": batch}
        what = f"{model}-simam, {size} px, batch {batch}"
        return compare("train", "train", what, baseline, aim, label, **more, **both)

    notebook = "the notebook's code, stock Paddle"
    plain = {"theirs": {"attn": None}, "same_process": True}
    return [
        line("towernet", 256, 8, "stock_paddle", 6, notebook),
        line("towernet", 256, 32, "stock_paddle", 6, notebook),
        line("towernet", 256, 8, "pytorch", 1.2),
        line("towernet", 256, 32, "pytorch", 1.2),
        line("resnet50", 256, 8, "pytorch", 1.15),
        line("vgg19", 128, 8, "stock_paddle", 4),
        line("vgg19", 128, 8, "pytorch", 1),
        line("mobilenet_v2", 224, 8, "stock_paddle", 2.5),
        line("mobilenet_v2", 224, 8, "pytorch", 1),
        line("resnet50", 256, 8, "ours", 1 / 1.04, "resnet50 without attention", **plain),
        line("towernet", 256, 8, "ours", 1, "the reference forms", theirs={"form": "off"}),
    ]


def infer(scratch: Path) -> list[Line]:
    """The exported model."""
    found = []
    for model, size in SIZES.items():
        exported = {"folder": str(scratch / model)}
        for batch in (1, 8):
            both = {"model": model, "attn": "simam", "size": size, "batch": batch}
            what = f"{model}-simam, {size} px, batch {batch}"
            line = functools.partial(compare, "infer", "infer", what, ours=exported, **both)
            found += [line("pytorch", 1.3), line("onnx_runtime", 0.85, theirs=exported)]
    return found


def loading(data: Path) -> list[Line]:
    """Loading, and the training loop around the steps."""
    both = {"root": str(data), "size": 128, "batch": 32}
    notebook = "the notebook's loader, stock Paddle"
    load, epoch = "an epoch of loading, 128 px", "an epoch of towernet-simam, 128 px, batch 32"
    loaded = {"side": "ours", "step": "epoch", "how": "loaded", **both}
    loop = {"ours": {"how": "loop"}, "theirs": {"how": "bare"}, "same_process": True}
    return [
        compare("data", "load", load, "stock_paddle", 2, notebook, **both),
        compare("data", "load", f"{load}, no cache", "stock_paddle", 1, notebook, ours={"cache": 0}, **both),
        Line("data", epoch, loaded, {"side": "itself"}, "without waiting for data", 0.98),
        compare("data", "epoch", f"{epoch}, training loop", "ours", 0.97, "a bare loop", **loop, **both),
    ]
