"""Speed, as ratios: this project and a named baseline in turn, medians of the pairs; each in a process of its own, but for small differences.

The other sides are in `benchmarks/baselines`: the notebook's code and the formulas as written in stock Paddle, the same networks in PyTorch, ONNX
Runtime on the exported model. The table is kept as CSV; the page and the chart are made from it. This file does not import Paddle.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from paddle_attn import runtime
from paddle_attn.data.images import list_images
from paddle_attn.errors import UserError
from paddle_attn.files import atomic_write, write_text

TURN = 0.5  # seconds that a turn lasts at least
REST = 0.3  # seconds between turns: OpenMP's threads of the side that was on spin for 0.2
PACKAGES = {"torch": "torch", "onnx": "onnxruntime"}  # side: the package that it needs
SIDES = {"stock": "stock Paddle", "torch": "PyTorch", "onnx": "ONNX Runtime", "ours": "ours"}
NETWORKS = {"towernet": 256, "resnet50": 224, "mobilenet_v2": 224}  # of inference: image size
MAPS = ([32, 64, 56, 56], [8, 256, 32, 32], [32, 512, 7, 7])


@dataclass(frozen=True)
class Line:
    """A comparison: what each side is told (`benchmarks/baselines/worker.py`), and the ratio that is aimed at."""

    section: str
    what: str
    ours: dict[str, Any]
    baseline: dict[str, Any]
    named: str
    at_least: float
    together: bool = False  # both in one process, and more rounds: for a difference of a few percent, by which two processes differ anyway


@dataclass(frozen=True)
class Result:
    """What a line gave: medians in milliseconds, and the median over the pairs of baseline / ours."""

    section: str
    what: str
    ours_ms: float
    baseline: str
    baseline_ms: float
    ratio: float
    at_least: float


def lines(section: str, data: Path, scratch: Path) -> list[Line]:
    """The comparisons of a section. `data` holds class folders of images, `scratch` is for exported models."""
    return {
        "modules": _modules,
        "train": _train,
        "infer": lambda: _infer(scratch),
        "data": lambda: _data(data),
    }[section]()


SECTIONS = ("modules", "train", "infer", "data")
SEEDS = (0, 1, 2)
# of the study over seeds: a run that learns within minutes
STUDY = (
    "data.size=128",
    "optim.name=adam",
    "optim.lr=2e-3",
    "optim.weight_decay=0.0",
    "optim.schedule_unit=step",
    "optim.warmup_epochs=1",
)


def _line(
    section: str,
    what: str,
    step: str,
    other: str,
    at_least: float,
    named: str = "",
    ours: dict | None = None,
    theirs: dict | None = None,
    **both,
):
    mine = {"side": "ours", "step": step, **both, **(ours or {})}
    return Line(
        section,
        what,
        mine,
        {"side": other, "step": step, **both, **(theirs or {})},
        named or SIDES[other],
        at_least,
    )


def _modules() -> list[Line]:
    found = []
    for shape in MAPS:
        told = {"name": "simam", "shape": shape, "mode": "train"}
        title = f"SimAM, {'×'.join(map(str, shape))}"
        formula = "stock Paddle, formula as written"
        found += [
            _line("modules", f"{title}, fused", "module", "stock", 25, formula, **told),
            _line(
                "modules", f"{title}, portable", "module", "stock", 6, formula, ours={"form": "off"}, **told
            ),
            _line(
                "modules",
                f"{title}, fused",
                "module",
                "torch",
                2.5 if shape[1] == 512 else 3,
                "PyTorch, eager",
                **told,
            ),
            _line(
                "modules",
                f"{title}, fused, forward",
                "module",
                "ours",
                0.4,
                "one elementwise pass",
                ours={"mode": "forward"},
                theirs={"mode": "elementwise"},
                name="simam",
                shape=shape,
            ),
        ]
    for name, at_least in (("sge", 1.5), ("cbam", 1.0), ("se", 1.0)):
        for shape in MAPS:
            title = f"{name.upper()}, {'×'.join(map(str, shape))}"
            found.append(
                _line(
                    "modules",
                    title,
                    "module",
                    "torch",
                    at_least,
                    "PyTorch, eager",
                    name=name,
                    shape=shape,
                    mode="train",
                )
            )
    for name, title, shape in (
        ("conv3x3", "3×3 convolution", [8, 128, 32, 32]),
        ("depthwise", "depthwise 3×3 convolution", [8, 144, 56, 56]),
        ("max_pool", "2×2 max-pool", [8, 128, 64, 64]),
    ):
        told = {"name": name, "shape": shape, "mode": "train"}
        title = f"{title}, {'×'.join(map(str, shape))}"
        found.append(
            _line("modules", title, "module", "ours", 1.5, "Paddle's kernel", theirs={"form": "off"}, **told)
        )
    for name, title in (("batch_norm", "batch norm (Paddle's)"), ("relu", "ReLU (Paddle's)")):
        title = f"{title}, 8×96×112×112"
        found.append(
            _line(
                "modules",
                title,
                "module",
                "torch",
                1,
                "PyTorch, eager",
                name=name,
                shape=[8, 96, 112, 112],
                mode="train",
            )
        )
    return found


def _train() -> list[Line]:
    def line(model: str, size: int, batch: int, other: str, at_least: float, **more: Any) -> Line:
        return _line(
            "train",
            f"{model}-simam, {size} px, batch {batch}",
            "train",
            other,
            at_least,
            model=model,
            attn="simam",
            size=size,
            batch=batch,
            **more,
        )

    notebook = {"named": "the notebook's code, stock Paddle"}
    return [
        line("towernet", 256, 8, "stock", 6, **notebook),
        line("towernet", 256, 32, "stock", 6, **notebook),
        line("towernet", 256, 8, "torch", 1.2),
        line("towernet", 256, 32, "torch", 1.2),
        line("resnet50", 256, 8, "torch", 1.15),
        line("vgg19", 128, 8, "stock", 4),
        line("vgg19", 128, 8, "torch", 1),
        line("mobilenet_v2", 224, 8, "stock", 2.5),
        line("mobilenet_v2", 224, 8, "torch", 1),
        replace(
            line(
                "resnet50",
                256,
                8,
                "ours",
                1 / 1.04,
                named="resnet50 without attention",
                theirs={"attn": None},
            ),
            together=True,
        ),
        line("towernet", 256, 8, "ours", 1, named="the portable forms", theirs={"form": "off"}),
    ]


def _infer(scratch: Path) -> list[Line]:
    found = []
    for model, size in NETWORKS.items():
        for batch in (1, 8):
            for other, at_least in (("torch", 1.3), ("onnx", 0.85)):
                exported = {"folder": str(scratch / model)}
                more = {"theirs": exported} if other == "onnx" else {}
                told = {"model": model, "attn": "simam", "size": size, "batch": batch}
                found.append(
                    _line(
                        "infer",
                        f"{model}-simam, {size} px, batch {batch}",
                        "infer",
                        other,
                        at_least,
                        ours=exported,
                        **more,
                        **told,
                    )
                )
    return found


def _data(data: Path) -> list[Line]:
    told = {"root": str(data), "size": 128, "batch": 32}
    epoch = {"model": "towernet", "attn": "simam"}
    what = f"an epoch of {epoch['model']}-{epoch['attn']}, 128 px, batch 32"
    return [
        _line(
            "data",
            "an epoch of loading, 128 px",
            "load",
            "stock",
            2,
            "the notebook's way, stock Paddle",
            **told,
        ),
        _line(
            "data",
            "an epoch of loading, 128 px, without the cache",
            "load",
            "stock",
            1,
            "the notebook's way, stock Paddle",
            ours={"cache": 0},
            **told,
        ),
        Line(
            "data",
            what,
            {"side": "ours", "step": "epoch", "how": "loaded", **told},
            {"side": "itself"},
            "less its waiting for data",
            0.98,
        ),
        replace(
            _line(
                "data",
                f"{what}, by paddle.Model.fit",
                "epoch",
                "ours",
                0.97,
                "a bare loop",
                ours={"how": "fit"},
                theirs={"how": "fixed"},
                **told,
            ),
            together=True,
        ),
    ]


class Worker:
    """A process that takes steps when it is told to, of one side or of several."""

    def __init__(self, orders: Sequence[dict[str, Any]], root: Path):
        command = [sys.executable, "-m", "benchmarks.baselines.worker", json.dumps(orders)]
        self.process = subprocess.Popen(
            command,
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        if self._answer() != "ready":
            raise RuntimeError(f"the benchmark's process did not start: {orders}")
        self.counts = [1] * len(orders)
        self.counts = [max(1, round(TURN / max(self.turn(which)[0], 1e-6))) for which in range(len(orders))]

    def turn(self, which: int = 0) -> tuple[float, float]:
        """Seconds a step, over one turn of a side, and how many of them it waited for data."""
        count = self.counts[which]
        self.process.stdin.write(f"go {which} {count}\n")
        self.process.stdin.flush()
        seconds, waited = (float(number) / count for number in self._answer().split())
        return seconds, waited

    def _answer(self) -> str:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"the benchmark's process ended: {self.process.communicate()[1].strip()[-2000:]}"
            )
        return line.strip()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def measure(line: Line, rounds: int, root: Path) -> Result:
    """Both sides in turn, `rounds` times, or three times as often in one process. `root` is the project's folder."""
    pairs = []
    with contextlib.ExitStack() as stack:
        if line.baseline["side"] == "itself":
            turns = [stack.enter_context(Worker([line.ours], root)).turn]
        elif line.together:
            both = stack.enter_context(Worker([line.ours, line.baseline], root))
            turns = [lambda: both.turn(0), lambda: both.turn(1)]
        else:
            turns = [stack.enter_context(Worker([order], root)).turn for order in (line.ours, line.baseline)]
        for number in range(3 * rounds if line.together else rounds):
            took = {}
            for side in (range(len(turns)), reversed(range(len(turns))))[
                number % 2
            ]:  # each is first as often as the other
                time.sleep(REST)
                took[side] = turns[side]()
            mine, waited = took[0]
            pairs.append((mine, took[1][0] if len(turns) > 1 else mine - waited))
    milliseconds = [1000 * statistics.median(column) for column in zip(*pairs, strict=True)]
    ratio = statistics.median(theirs / mine for mine, theirs in pairs)
    return Result(line.section, line.what, milliseconds[0], line.named, milliseconds[1], ratio, line.at_least)


def run(
    sections: Sequence[str],
    rounds: int,
    data: Path,
    scratch: Path,
    root: Path,
    out: Path,
    say: Callable[[str], None],
    going_on: bool = False,
) -> list[Result]:
    """Measure sections, and write `out/performance.csv`, its page and its chart after each line, so that nothing is lost.

    Lines whose baseline is not installed are left out, and said. Other sections' lines are kept as they are.

    `going_on` keeps the lines that are there and measures the others. With no rounds nothing is measured, and the page is written
    anew from what is there.

    Raises: UserError for an unknown section.
    """
    if not (root / "benchmarks" / "baselines").is_dir():
        raise UserError(
            f"there are no baselines in {root / 'tests' / 'baselines'}: run this in the project's own folder"
        )
    if not rounds:
        write(results := read(out / "performance.csv"), out)
        return results
    results = read(out / "performance.csv")
    if not going_on:
        results = [result for result in results if result.section not in sections]
    there = {(result.section, result.what, result.baseline) for result in results}
    for section in sections:
        for line in lines(section, data, scratch):
            if (line.section, line.what, line.named) in there:
                continue
            package = PACKAGES.get(line.baseline["side"])
            if package and importlib.util.find_spec(package) is None:
                say(f"{line.what}: left out, {package} is not installed: pip install -e .[bench]")
                continue
            result = measure(line, rounds, root)
            results.append(result)
            say(str_of(result))
            write(results, out)
        if section == "infer" and (scratch / "mobilenet_v2").exists():
            write_text(
                out / "performance_ops.csv", _by_op(scratch / "mobilenet_v2", NETWORKS["mobilenet_v2"], root)
            )
            write(results, out)
    return results


def run_seeds(
    data: Path, epochs: int, scratch: Path, root: Path, out: Path, say: Callable[[str], None]
) -> None:
    """Train TowerNet-SimAM with each seed, with the compiled operators and without; writes `performance_seeds.csv` and the page.

    Args:
        data: a folder with train/ and eval/.
        epochs: of each run.
    """
    text, images = "seed,epochs,images,with_operators,without\n", len(list_images(data / "eval"))
    for seed in SEEDS:
        top1, losses = [], []
        for form in ("on", "off"):
            output = scratch / f"seed-{seed}-{form}"
            settings = [
                f"data.root={data.resolve()}",
                f"train.epochs={epochs}",
                f"train.seed={seed}",
                f"train.ops={form}",
                f"train.output={output}",
            ]
            command = [
                sys.executable,
                "tools/train.py",
                "-c",
                "configs/towernet_simam.yaml",
                "-o",
                *STUDY,
                *settings,
                "train.device=cpu",
            ]
            subprocess.run(command, cwd=root, stdout=subprocess.DEVNULL, check=True)
            with open(output / "history.csv", encoding="utf-8", newline="") as file:
                last = list(csv.DictReader(file))[-1]
            top1.append(float(last["eval_top1"]))
            losses.append(float(last["eval_loss"]))
        text += f"{seed},{epochs},{images},{top1[0]:.4f},{top1[1]:.4f}\n"
        say(
            f"seed {seed}: top-1 {100 * top1[0]:.2f} % with the operators, {100 * top1[1]:.2f} % without; loss {losses[0]:.4f} and {losses[1]:.4f}"
        )
        write_text(out / "performance_seeds.csv", text)
    write(read(out / "performance.csv"), out)


def str_of(result: Result) -> str:
    """A line for the terminal."""
    return (
        f"{result.what}: {result.ours_ms:.2f} ms, {result.baseline} {result.baseline_ms:.2f} ms, "
        f"{result.ratio:.2f}× (at least {result.at_least:.2f}×{'' if result.ratio >= result.at_least else ': MISSED'})"
    )


def read(path: Path) -> list[Result]:
    """The results that a CSV holds; none where there is no file."""
    if not path.exists():
        return []
    kinds = Result.__annotations__
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Result(**{key: float(value) if kinds[key] == "float" else value for key, value in row.items()})
            for row in csv.DictReader(file)
        ]


def write(results: Sequence[Result], out: Path) -> None:
    """`performance.csv`, `performance.md` and `images/performance.png`."""
    results = sorted(results, key=lambda result: SECTIONS.index(result.section))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Result.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in asdict(result).items()}
        for result in results
    )
    write_text(out / "performance.csv", text.getvalue())
    ops = out / "performance_ops.csv"
    seeds = out / "performance_seeds.csv"
    by_op, by_seed = (path.read_text(encoding="utf-8") if path.exists() else "" for path in (ops, seeds))
    write_text(out / "performance.md", page(results, by_op, by_seed))
    if not results:
        return
    from paddle_attn.train.plots import plot_ratios  # matplotlib waits until there is something to draw

    atomic_write(
        out / "images" / "performance.png",
        lambda aside: plot_ratios([(f"{r.what}: {r.baseline}", r.ratio, r.at_least) for r in results], aside),
    )


TITLES = {
    "modules": "Modules, forward and backward",
    "train": "Training, a whole step",
    "infer": "Inference of the exported model",
    "data": "Data and the training loop",
}


def page(results: Sequence[Result], by_op: str, by_seed: str) -> str:
    """docs/performance.md, from the results and the two smaller tables as CSV, each empty where it was not measured."""
    cpu, cores = _machine()
    versions = ", ".join(
        f"{name} {_version(name)}"
        for name in ("paddlepaddle", "torch", "onnxruntime", "numpy")
        if _version(name)
    )
    found = [
        "# Performance",
        "",
        f"Made by `python tools/benchmark.py` on {cpu}, {cores} cores ({versions}).",
        "Each line runs both sides in turn, each in a process of its own, and gives the medians; the ratio is the median of baseline / ours over the",
        "pairs, so more than 1 is faster than the baseline. Compare ratios, not milliseconds: machines differ, and this one is shared.",
        "What differs by a few percent (an attention's cost, the training loop's) is measured in one process, because two differ by as much.",
        "",
        "![Ratios](images/performance.png)",
        "",
    ]
    for section, title in TITLES.items():
        rows = [result for result in results if result.section == section]
        if not rows:
            continue
        found += [
            f"## {title}",
            "",
            "| what | ours, ms | baseline | baseline, ms | ratio | aim |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows:
            missed = "" if row.ratio >= row.at_least else " (missed)"
            mine, theirs = _milliseconds(row.ours_ms), _milliseconds(row.baseline_ms)
            found.append(
                f"| {row.what} | {mine} | {row.baseline} | {theirs} | {row.ratio:.2f}× | {row.at_least:.2f}×{missed} |"
            )
        found.append("")
        if section == "infer" and by_op:
            found += [
                "MobileNetV2-SimAM, batch 1, by operator of Paddle's engine (its own profiler, which slows it down):",
                "",
            ]
            found += ["| operator | calls an image | ms an image |", "|---|---|---|"]
            found += ["| `{}` | {} | {} |".format(*row) for row in csv.reader(io.StringIO(by_op))]
            found.append("")
    if by_seed:
        found += _about_seeds(list(csv.DictReader(io.StringIO(by_seed))))
    return "\n".join([*found, NOTES])


def _about_seeds(rows: list[dict[str, str]]) -> list[str]:
    found = [
        "## Accuracy with and without the compiled operators",
        "",
        "By `python tools/benchmark.py seeds --data PHOTOS`:",
    ]
    found.append(
        f"TowerNet-SimAM at 128 px, eval top-1 on {rows[0]['images']} images after {rows[0]['epochs']} epochs."
    )
    found += ["", "| seed | with the operators | without |", "|---|---|---|"]
    columns = [[100 * float(row[name]) for row in rows] for name in ("with_operators", "without")]
    found += [
        f"| {row['seed']} | {one:.2f} % | {two:.2f} % |" for row, one, two in zip(rows, *columns, strict=True)
    ]
    means = " | ".join(
        f"{statistics.mean(column):.2f} ± {statistics.stdev(column) if len(column) > 1 else 0:.2f} %"
        for column in columns
    )
    return [*found, f"| mean ± deviation | {means} |", ""]


NOTES = """\
## Where it falls short, and what was tried

- One elementwise pass is the floor of memory only for a map that no cache holds, the first of the three. The other two stay in the cache,
  where a pass costs little, and SimAM's exponential is what takes the time. Planes of 7×7 copied into whole vectors were no faster.
- The exported model at batch 1, against ONNX Runtime: Paddle's engine spends 20 to 60 µs to start an operator, SimAM is six of them, and
  between a convolution and its batch norm it keeps the two from being folded. Nine arrangements of SimAM were tried in the exported graph
  (instance norm, layer norm, pools, means; squares as products or powers; quotients or reciprocals), the elementwise operators without
  oneDNN, the serial and the tracing executor, and the OpenVINO setting, which changed nothing. Means by average pools are faster at batch 8
  in MobileNetV2, a little slower at batch 1, and more kernels on a GPU, so instance norm stayed. With the compiled operators inside, the
  engine hands them tensors in oneDNN's layout and the result is wrong; without oneDNN it is right, a tenth to a fifth faster for TowerNet
  and MobileNetV2, and much slower for ResNet-50; and an engine with oneDNN and one without disturb each other in one process.
- Batch norm, ReLU, the 1x1 convolutions and the linear layers are Paddle's own. The first two stand in the table: no operator was written
  for them, because they are faster than PyTorch's already; the other two are MKL's matrix product.
- Results stay: the networks' logits with and without the compiled operators differ by less than 1e-5 of the largest (`tests/unit/test_ops.py`).
- Nothing here was run on a GPU.
"""


def _milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _by_op(folder: Path, size: int, root: Path, runs: int = 50) -> str:
    """CSV: operator, calls, milliseconds, of the ten that take most."""
    command = [sys.executable, "-m", "benchmarks.baselines.by_op", str(folder), str(size), str(runs)]
    # in the export's own folder: the profiler leaves a file where it runs
    said = subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    rows = []
    for match in re.finditer(
        r"^thread\d+::(\S+)\s+(\d+)\s+([\d.]+) ", said.stdout + said.stderr, re.MULTILINE
    ):
        calls = int(match[2]) / runs
        if calls >= 1:
            rows.append((match[1], f"{calls:.0f}", float(match[3]) / runs))
    rows.sort(key=lambda row: -row[2])
    return "".join(f"{name},{calls},{ms:.2f}\n" for name, calls, ms in rows[:10])


def _machine() -> tuple[str, int]:
    """The CPU's model, and how many cores this process may use."""
    name = "an unknown CPU"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    return name, runtime.this_machine().cores


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
