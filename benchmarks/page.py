"""The results as performance.csv, performance.md and a chart. Needs no Paddle."""

from __future__ import annotations

import contextlib
import csv
import functools
import importlib.metadata
import io
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paddle_attn import runtime
from paddle_attn.files import atomic_write, write_text

from .lines import SECTIONS, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {
    "modules": "Modules, forward and backward",
    "attention": "The other attention modules, forward and backward",
    "train": "Training, a whole step",
    "infer": "Inference of the exported model",
    "engines": "The export to ONNX, in the fastest engine",
    "data": "Data and the training loop",
}
REACHED, MISSED = "#7f9bbf", "#c2410c"  # colours of the bars
INTRODUCTION = """\
Made by `python tools/benchmark.py`. Each line runs its sides in turns, each in its own process, and gives
the medians. The first step of a turn is not counted: after the pause it takes longer than in a row. The
ratio is the median of baseline / ours over the rounds: more than 1 is faster than the baseline. Compare
ratios, not milliseconds: machines differ, and these are shared. Differences of a few percent (the cost of an
attention, of the training loop) are measured in one process, because two processes that do the same
differ as much. *Fused* is a compiled operator, *reference* the same module in plain Paddle.

For modules and training, PyTorch runs in four configurations, all with as many threads as ours and the
allocator set as in its tuning guide, which ours sets too: eager, `channels_last`, `torch.compile`, and
both. All four take part in every round. The line names the fastest. The time to compile does not count.
At inference PyTorch runs as it comes.

Ours also asks Linux for huge pages (`paddle_attn.runtime.tune`). The guide does not mention them, and
PyTorch gains from them as well, with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1`: the lines with *huge pages*
compare with that.

The *aim* of a line is the ratio that this project wants to reach. In the pictures, each bar starts at
1×, the speed of the baseline, and ends at the measured ratio: to the right is faster, to the left
slower. The black mark is the aim, and a red bar misses it. Ratio and aim have two decimals, or more
where two would make them look equal.
"""
NOTES = """\
## Missed aims, and what was tried

- One elementwise pass is the lower bound of memory traffic only for a map larger than the caches,
  the first of the three. The other two stay in the cache: a pass costs little, and SimAM's
  exponential takes the time. Copying 7×7 planes into whole vectors was not faster.
- SGE at 7×7: 1.21× with AVX2, 1.59× with AVX-512 on the Intel processor.
- MLCA and scSE: no fused form of the whole module was tried.
- The exported model at batch 1, against ONNX Runtime: Paddle's engine takes 20 to 60 µs to start an
  operator, SimAM is six of them, and between a convolution and its batch norm it prevents their
  folding. Tried without effect: nine arrangements of SimAM in the exported graph (instance norm,
  layer norm, pools, means; squares as products or powers; quotients or reciprocals), the
  elementwise operators without oneDNN, the serial and the tracing executor, the OpenVINO setting.
  Means by average pools are faster at batch 8 in MobileNetV2, a little slower at batch 1, and more
  kernels on a GPU: instance norm stayed. Fused operators inside the exported model get tensors in
  oneDNN's layout from the engine and give wrong results; without oneDNN they are right, 10 to 20 %
  faster for TowerNet and MobileNetV2, and much slower for ResNet-50. An engine with oneDNN and one
  without disturb each other in one process.
- The networks for CIFAR: 3×3 convolutions were two thirds of a step with tiles of 2×2 outputs, at 62 % of the
  peak. Tried without effect: oneDNN's convolution, whose copies to its layout cost what it gains (PyTorch's
  `channels_last` needs none), the same in parts that fit into the cache, its gradient of the weight alone,
  other sizes of a band, vector copies of short rows. Tiles of 4×4 outputs, F(4×4, 3×3), are 1.3 to 1.7 times
  faster.
- bfloat16 was measured on an Intel processor before F(4×4, 3×3) was used: float32 is faster now, so the lines
  against it would be lower. It leaves x, y and their gradients in float32 in the order of Paddle, so the
  copies to oneDNN's layout stay. While other programs used the machine, cifar_resnet20 took as long in
  bfloat16 as in float32.
- `rounded`, in the table over seeds, stands for `train.amp=O1` where the processor has no AVX512-BF16: it
  rounds the same numbers to bfloat16 and multiplies them in float32 (`benchmarks/rounded.py`).
- The linear layers in float32 are Paddle's, MKL's matrix product.
- `y.backward(gradient)` of Paddle copies the gradient, and `clear_gradient(set_to_zero=False)` fills it with
  zeros, because it ignores the keyword. The lines of modules contain neither.
- The logits of the networks with fused and with reference forms differ by less than 1e-5 of the
  largest (`tests/unit/test_ops.py`).
- Nothing here was run on a GPU.
"""


def read(path: Path) -> list[Result]:
    """The results in a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    kinds = Result.__annotations__
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Result(**{key: float(value) if kinds[key] == "float" else value for key, value in row.items()})
            for row in csv.DictReader(file)
        ]


def write(results: Sequence[Result], out: Path) -> None:
    """Write `performance.csv`, `performance.md` and a picture for each section below `images/`.

    Args:
        results: of a section, in the order of the page.
        out: the folder.
    """
    results = sorted(results, key=lambda result: SECTIONS.index(result.section))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Result.__annotations__), lineterminator="\n")
    writer.writeheader()
    for result in results:
        row = asdict(result)
        writer.writerow({key: f"{row[key]:.4g}" if isinstance(row[key], float) else row[key] for key in row})
    write_text(out / "performance.csv", text.getvalue())
    results = read(out / "performance.csv")  # rounded, so that the page is the same when it is made again
    write_text(out / "performance.md", page(results, read_tables(out)))
    for section, title in TITLES.items():
        if rows := [result for result in results if result.section == section]:
            save = functools.partial(ratio_figure(rows, title).savefig, dpi=110)
            atomic_write(out / "images" / f"performance_{section}.png", save)


TABLES = {"ops": "performance_ops.csv", "seeds": "performance_seeds.csv", "time": "performance_time.json"}


def read_tables(out: Path) -> dict[str, str]:
    """The texts of the smaller tables in a folder, by the keys of `TABLES`; empty for a missing file."""
    paths = {name: out / file for name, file in TABLES.items()}
    return {name: path.read_text(encoding="utf-8") if path.exists() else "" for name, path in paths.items()}


def page(results: Sequence[Result], tables: Mapping[str, str]) -> str:
    """docs/performance.md, from the results and `read_tables`; an empty table is left out."""
    found = [f"# Performance\n\n{INTRODUCTION}"]
    for section, title in TITLES.items():
        if rows := [result for result in results if result.section == section]:
            found += [f"## {title}\n", measured_on(row.machine for row in rows)]
            found += [f"![{title}](images/performance_{section}.png)\n", table(rows)]
        if section == "train" and tables["time"]:
            found.append(time_tables(tables["time"]))
        if rows and section == "infer" and tables["ops"]:
            found.append(operator_table(tables["ops"]))
    if tables["seeds"]:
        found.append(seed_table(tables["seeds"]))
    return "\n".join([*found, NOTES])


def measured_on(machines: Iterable[str]) -> str:
    """A sentence that names each machine once."""
    return f"Measured on {'; and on '.join(dict.fromkeys(machines))}.\n"


def table(results: Sequence[Result]) -> str:
    columns = ["what", "ours, ms", "baseline", "baseline, ms", "ratio", "aim"]
    with_memory = any(row.ours_mb for row in results)
    if with_memory:
        columns += ["ours, peak MB", "baseline, peak MB"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in results:
        times = f"{milliseconds(row.ours_ms)} | {row.baseline} | {milliseconds(row.baseline_ms)}"
        ratio, aim = ratio_and_aim(row)
        missed = "" if row.ratio >= row.aim else " (missed)"
        memory = f" {megabytes(row.ours_mb)} | {megabytes(row.baseline_mb)} |" if with_memory else ""
        lines.append(f"| {row.what} | {times} | {ratio} | {aim}{missed} |{memory}")
    if with_memory:
        lines += ["", "Peak MB: the memory of the process during a step, less that after its imports."]
    return "\n".join([*lines, ""])


def time_tables(text: str) -> str:
    """A table for each network of performance_time.json."""
    lines = [
        "## Where the time of a training step goes",
        "",
        "By `python tools/benchmark.py time`, with Paddle's profiler. *Achieved* counts the operations of",
        "convolutions and matrix products in their direct form, or each tensor that must be read or written",
        "once: of the two the one that is nearer to its peak on this machine. The peaks are a matrix product",
        "in float32, and copying memory larger than the caches. More than 100 % is possible: a fused 3×3",
        "convolution needs fewer operations than are counted, and the caches are faster than the memory.",
        "",
    ]
    tables = json.loads(text)
    lines.append(measured_on(found["machine"] for found in tables.values()))
    for network, found in tables.items():
        lines += [f"### {network}-simam, {found['size']} px, batch {found['batch']}", "", *time_table(found)]
    return "\n".join(lines)


def time_table(found: Mapping[str, Any]) -> list[str]:
    """The lines of a network's table, from what `benchmarks.breakdown` prints."""
    whole, rows = found["profiled_ms"], sorted(found["rows"], key=lambda row: -row[2] - row[3])
    lines = [
        "| what | calls | forward, ms | backward, ms | share | achieved | of the peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for what, calls, forward, backward, gflop, gigabytes in rows:
        spent = forward + backward
        rates = [(gflop, found["peak_gflops"], "GFLOP/s"), (gigabytes, found["peak_gbs"], "GB/s")]
        share, rate, unit = max(
            (1000 * work / spent / peak, 1000 * work / spent, u) for work, peak, u in rates
        )
        times = f"{milliseconds(forward)} | {milliseconds(backward)} | {100 * spent / whole:.1f} %"
        achieved = f"{rate:.3g} {unit} | {100 * share:.0f} %" if rate else "– | –"
        lines.append(f"| {what} | {calls:.0f} | {times} | {achieved} |")
    explained = sum(row[2] + row[3] for row in rows)
    lines += [
        f"| rest: Python, the framework | – | – | – | {100 * (1 - explained / whole):.1f} % | – | – |",
        "",
        f"A step takes {milliseconds(found['step_ms'])} ms, with the profiler {milliseconds(whole)} ms: the "
        f"operators explain {100 * explained / found['step_ms']:.0f} % and {100 * explained / whole:.0f} %.",
        f"Peaks: {found['peak_gflops']:.3g} GFLOP/s and {found['peak_gbs']:.3g} GB/s.",
        "",
    ]
    return lines


def megabytes(value: float) -> str:
    return f"{value:,.0f}" if value else "–"


def ratio_and_aim(result: Result) -> tuple[str, str]:
    """Both as text: two decimals, or as many as it takes to tell them apart, at most four."""
    for decimals in (2, 3, 4):
        ratio, aim = f"{result.ratio:.{decimals}f}×", f"{result.aim:.{decimals}f}×"
        if ratio != aim:
            return ratio, aim
    return f"{result.ratio:.2f}×", f"{result.aim:.2f}×"


def operator_table(text: str) -> str:
    lines = [
        "MobileNetV2-SimAM, batch 1, by operator of Paddle's engine (its own profiler, which slows it down):",
        "",
        "| operator | calls per image | ms per image |",
        "|---|---|---|",
    ]
    lines += ["| `{}` | {} | {} |".format(*row) for row in csv.reader(io.StringIO(text))]
    return "\n".join([*lines, ""])


def seed_table(text: str) -> str:
    rows = list(csv.DictReader(io.StringIO(text)))
    forms = [name for name in rows[0] if name not in ("seed", "epochs", "images")]
    columns = [[100 * float(row[form]) for row in rows] for form in forms]
    lines = [
        "## Accuracy of each form over seeds",
        "",
        "By `python tools/benchmark.py seeds --data PHOTOS`: TowerNet-SimAM at 128 px, eval top-1 on "
        f"{rows[0]['images']} images after {rows[0]['epochs']} epochs.",
        "",
        f"| seed | {' | '.join(forms)} |",
        "|---" * (1 + len(forms)) + "|",
    ]
    for row, *values in zip(rows, *columns, strict=True):
        lines.append(f"| {row['seed']} | " + " | ".join(f"{value:.2f} %" for value in values) + " |")
    spread = [statistics.stdev(column) if len(column) > 1 else 0.0 for column in columns]
    means = [f"{statistics.mean(column):.2f} ± {s:.2f} %" for column, s in zip(columns, spread, strict=True)]
    return "\n".join([*lines, f"| mean ± deviation | {' | '.join(means)} |", ""])


def milliseconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def machine() -> str:
    """The CPU, the cores that this process may use, and the versions of the compared packages."""
    cpu = "an unknown CPU"
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        cpu = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), cpu)
    versions = []
    for package in ("paddlepaddle", "torch", "onnxruntime", "openvino", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    return f"{cpu}, {runtime.this_machine().cores} cores ({', '.join(versions)})"


def ratio_figure(results: Sequence[Result], title: str) -> Figure:
    """A horizontal bar from 1× to each ratio on a logarithmic axis, with a mark at its aim."""
    from matplotlib.figure import Figure  # slow to import, and needed only here
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(11, 1.7 + 0.26 * len(results)), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log")
    for position, result in enumerate(results):
        ratio, aim = result.ratio, result.aim
        axes.barh(position, ratio - 1, left=1, color=REACHED if ratio >= aim else MISSED, height=0.7)
        axes.plot([aim, aim], [position - 0.42, position + 0.42], color="#222222", linewidth=1.8)
        number = ratio_and_aim(result)[0]
        axes.annotate(
            number,
            (max(ratio, aim, 1), position),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
        )
    axes.axvline(1, color="#aaaaaa", linewidth=0.8, zorder=0)
    ends = [1.0, *(result.ratio for result in results), *(result.aim for result in results)]
    span = max(ends) / min(ends)
    axes.set_xlim(
        min(ends) / span**0.03, max(ends) * span**0.12
    )  # room for the number beside the longest bar
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(results)), [f"{row.what}; {row.baseline}" for row in results], fontsize=8)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlabel("times as fast as the baseline, which is named after the semicolon; below 1×: slower")
    key = [
        Patch(color=REACHED, label="reaches its aim"),
        Patch(color=MISSED, label="misses its aim"),
        Line2D(
            [],
            [],
            color="#222222",
            marker="|",
            linestyle="",
            markersize=11,
            label="aim: what this project wants to reach",
        ),
    ]
    figure.legend(handles=key, loc="outside lower right", ncols=3, fontsize=8, frameon=False)
    figure.suptitle(title)
    return figure
