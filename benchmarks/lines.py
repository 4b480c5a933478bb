"""The comparisons of docs/performance.md: what each side does, and the ratio to reach. Needs no Paddle."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paddle_attn.runtime import this_machine

SIDES = {  # module in benchmarks/baselines: name on the page
    "ours": "this project",
    "stock_paddle": "stock Paddle",
    "pytorch": "PyTorch",
    "onnx_runtime": "ONNX Runtime",
}
PACKAGES = {"pytorch": "torch", "onnx_runtime": "onnxruntime"}  # side: the package that it needs
SECTIONS = ("modules", "attention", "train", "infer", "engines", "data")
SIZES = {"towernet": 256, "resnet50": 224, "mobilenet_v2": 224}  # of the images of inference
TRAINED = {  # in training: size and number of the images
    "towernet": (256, 8),
    "mobilenet_v2": (224, 8),
    "resnet50": (224, 8),
    "resnet18": (224, 8),
    "vgg19": (128, 8),
    "cifar_resnet20": (32, 128),
    "cifar_resnet56": (32, 128),
}
BFLOAT16 = ("towernet", "resnet50", "cifar_resnet20")  # trained in bfloat16 too
HAS_BFLOAT16 = "avx512_bf16" in this_machine().flags
OTHER = "other operators"
SHARES = (  # kinds of operators, in the tables of a training step's time
    "first convolution",
    "1×1 convolution",
    "3×3 convolution",
    "depthwise convolution",
    "other convolution",
    "batch norm",
    "ReLU",
    "addition",
    "attention",
    "pool",
    "linear",
    "loss",
    "optimiser",
    OTHER,
)
SHAPES = ([32, 64, 56, 56], [8, 256, 32, 32], [32, 512, 7, 7])
# the modules without a fused form that PyTorch has too
NEWER = (
    *("coordatt", "ema", "fca", "gct", "lsk", "lska", "mlca"),
    *("nam", "nonlocal", "psa", "scse", "shuffle", "triplet"),
)
IN_PYTORCH = ("cbam", "se", "sge", "simam", *NEWER)
FORMULA = "stock Paddle, formula as written"
PYTORCH: dict[str, dict[str, Any]] = {  # its configurations: arguments of the baseline
    "PyTorch, eager": {},
    "PyTorch, channels_last": {"channels_last": True},
    "PyTorch, compile": {"compiled": True},
    "PyTorch, channels_last + compile": {"channels_last": True, "compiled": True},
}


@dataclass(frozen=True)
class Line:
    """A comparison of this project with a baseline, or with the fastest of several.

    Attributes:
        section: a section of the page.
        what: the work, on the page.
        ours: `side`, `step` and the step's arguments, for `benchmarks/baselines/worker.py`.
        baselines: the same for each baseline, by its name on the page. The baseline of the side 'itself' is
            our own time without the waiting for data.
        aim: the ratio baseline / ours to reach.
        same_process: measure both sides in one process, with more rounds: for differences of a few
            percent, by which two equal processes differ too.
    """

    section: str
    what: str
    ours: dict[str, Any]
    baselines: dict[str, dict[str, Any]]
    aim: float
    same_process: bool = False

    @property
    def sides(self) -> set[str]:
        """Of the baselines."""
        return {order["side"] for order in self.baselines.values()}

    @property
    def in_bfloat16(self) -> bool:
        """Whether a processor needs AVX512-BF16 for our side."""
        return self.ours.get("bfloat16", False) or self.ours.get("precision") == "bf16"


@dataclass(frozen=True)
class Result:
    """A measured line: medians in milliseconds, and the median of baseline / ours over the rounds.

    The peak memory of a training step is in megabytes, 0 where it is not measured.
    """

    section: str
    what: str
    ours_ms: float
    baseline: str
    baseline_ms: float
    ratio: float
    aim: float
    ours_mb: float = 0.0
    baseline_mb: float = 0.0
    machine: str = ""  # the processor, the cores and the versions

    @property
    def key(self) -> tuple[str, str, str]:
        """Section, work and baseline: there is one result with these."""
        return self.section, self.what, self.baseline


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
    return Line(section, what, one, {label or SIDES[baseline]: other}, aim, same_process)


def best_pytorch(
    section: str, step: str, what: str, aim: float, huge_pages: bool = False, **arguments: Any
) -> Line:
    """A line whose baseline is the fastest configuration of PyTorch, each with the allocator tuned.

    With `huge_pages`, PyTorch's memory has huge pages like ours, which its tuning guide does not mention.
    """
    one = {"side": "ours", "step": step, **arguments}
    other = {"side": "pytorch", "step": step, "tuned": True, **arguments}
    other |= {"huge_pages": True} if huge_pages else {}
    more = " + huge pages" if huge_pages else ""
    return Line(section, what, one, {label + more: other | extra for label, extra in PYTORCH.items()}, aim)


def lines(section: str, data: Path, scratch: Path) -> list[Line]:
    """The comparisons of a section.

    Args:
        section: one of `SECTIONS`.
        data: a folder of class folders with images.
        scratch: a folder for exported models.
    """
    make: dict[str, Callable[[], list[Line]]] = {
        "modules": modules,
        "attention": attention,
        "train": train,
        "infer": functools.partial(infer, scratch),
        "engines": functools.partial(engines, scratch),
        "data": functools.partial(loading, data),
    }
    return make[section]()


def modules() -> list[Line]:
    """Attention modules and layers, forward and backward."""
    line = functools.partial(compare, "modules", "module")
    pytorch = functools.partial(best_pytorch, "modules", "module")
    found = []
    for shape in SHAPES:
        title, simam = f"SimAM, {text(shape)}", {"name": "simam", "shape": shape, "mode": "train"}
        elementwise = {"ours": {"mode": "forward"}, "theirs": {"mode": "elementwise"}}
        found += [
            line(f"{title}, fused", "stock_paddle", 25, FORMULA, **simam),
            line(f"{title}, reference", "stock_paddle", 6, FORMULA, ours={"form": "off"}, **simam),
            pytorch(f"{title}, fused", 1.3, **simam),
            line(f"{title}, fused, forward", "ours", 0.4, "one elementwise pass", **elementwise, **simam),
        ]
    for name, aim in (("sge", 1.3), ("cbam", 1.1), ("se", 1.0)):
        for shape in SHAPES:
            title = f"{name.upper()}, {text(shape)}"
            found.append(pytorch(title, aim, name=name, shape=shape, mode="train"))
    for name, title, shape in (
        ("conv3x3", "3×3 convolution", [8, 128, 32, 32]),
        ("depthwise", "depthwise 3×3 convolution", [8, 144, 56, 56]),
        ("max_pool", "2×2 max-pool", [8, 128, 64, 64]),
    ):
        both = {"name": name, "shape": shape, "mode": "train"}
        title = f"{title}, {text(shape)}"
        found.append(line(title, "ours", 1.5, "Paddle's kernel", theirs={"form": "off"}, **both))
    for name, title in (("batch_norm", "batch norm"), ("relu", "ReLU")):
        both = {"name": name, "shape": [8, 96, 112, 112], "mode": "train"}
        found.append(pytorch(f"{title}, {text(both['shape'])}", 1, **both))
    return found


def attention() -> list[Line]:
    """The modules without a fused form, on the middle one of `SHAPES`: below 1 / 1.5 one would pay."""
    shape = SHAPES[1]
    return [
        best_pytorch(
            "attention", "module", f"{name}, {text(shape)}", 1 / 1.5, name=name, shape=shape, mode="train"
        )
        for name in NEWER
    ]


def text(shape: list[int]) -> str:
    return "×".join(map(str, shape))


def train() -> list[Line]:
    """Whole training steps: forward, backward, update."""

    def work(model: str, size: int = 0, batch: int = 0) -> tuple[str, dict[str, Any]]:
        usual_size, usual_batch = TRAINED[model]
        size, batch = size or usual_size, batch or usual_batch
        both = {"model": model, "attn": "simam", "size": size, "batch": batch}
        return f"{model}-simam, {size} px, batch {batch}", both

    def pytorch(aim: float, model: str, size: int = 0, batch: int = 0, huge_pages: bool = False) -> Line:
        what, both = work(model, size, batch)
        return best_pytorch("train", "train", what, aim, huge_pages, **both)

    def bfloat16(model: str) -> list[Line]:
        what, both = work(model)
        what, both = f"{what}, bfloat16", both | {"bfloat16": True}
        float32 = {"bfloat16": False}
        return [
            best_pytorch("train", "train", what, 0.9, **both),
            compare("train", "train", what, "ours", 1.5, "float32", None, float32, **both),
        ]

    def paddle(aim: float, label: str, model: str, size: int = 0, batch: int = 0) -> Line:
        what, both = work(model, size, batch)
        return compare("train", "train", what, "stock_paddle", aim, label, **both)

    def ours(aim: float, label: str, model: str, theirs: dict[str, Any], same_process: bool = False) -> Line:
        what, both = work(model)
        return compare("train", "train", what, "ours", aim, label, None, theirs, same_process, **both)

    notebook = "the notebook's code, stock Paddle"
    return [
        pytorch(1.35, "towernet"),
        pytorch(1.35, "towernet", 128, 32),
        pytorch(1.25, "mobilenet_v2"),
        pytorch(1.1, "resnet50"),
        pytorch(1.1, "resnet18"),
        pytorch(1.4, "vgg19"),
        pytorch(1.15, "cifar_resnet20"),
        pytorch(1.15, "cifar_resnet56"),
        *(pytorch(1, model, huge_pages=True) for model in ("towernet", "resnet50", "cifar_resnet20")),
        paddle(6, notebook, "towernet"),
        paddle(6, notebook, "towernet", 256, 32),
        paddle(2.5, "stock Paddle", "mobilenet_v2"),
        paddle(4, "stock Paddle", "vgg19"),
        ours(1 / 1.04, "resnet50 without attention", "resnet50", {"attn": None}, same_process=True),
        ours(1, "the reference forms", "towernet", {"form": "off"}),
    ] + [line for model in BFLOAT16 for line in bfloat16(model)]


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


def engines(scratch: Path) -> list[Line]:
    """The export to ONNX in the fastest engine that is installed, against ONNX Runtime alone in fp32."""
    aims = {  # (model, batch, precision)
        **{(model, batch, "fp32"): 0.97 for model in SIZES for batch in (1, 8)},
        ("resnet50", 8, "bf16"): 1.6,
        ("towernet", 8, "int8"): 2.5,
        ("resnet50", 8, "int8"): 2.5,
        ("mobilenet_v2", 8, "int8"): 1.7,
    }
    return [
        compare(
            "engines",
            "engine",
            f"{model}-simam, {SIZES[model]} px, batch {batch}, {precision}",
            "onnx_runtime",
            aim,
            label="ONNX Runtime, fp32",
            ours={"precision": precision, "model": model, "attn": "simam"},
            folder=str(scratch / f"{model}_onnx"),
            size=SIZES[model],
            batch=batch,
        )
        for (model, batch, precision), aim in aims.items()
    ]


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
        Line("data", epoch, loaded, {"without waiting for data": {"side": "itself"}}, 0.98),
        compare("data", "epoch", f"{epoch}, training loop", "ours", 0.97, "a bare loop", **loop, **both),
    ]
