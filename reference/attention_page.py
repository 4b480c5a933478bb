"""The page of the attention modules, docs/attention.md and its translation, as computed Markdown.

What only a person can say is in `reference/modules/NAME.json`: what a module does in a line, its formula,
paper, licence and known differences, in both languages. Costs, gates and agreement are computed. Times come
from a file that `python tools/attention.py --measure` writes on an otherwise idle machine.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from paddle_attn import ops
from paddle_attn.attention import ATTENTION, create_attention, list_attention
from paddle_attn.files import write_text
from paddle_attn.models.complexity import Profile, profile
from paddle_attn.models.placement import REPLACEMENTS

from .compare import is_statistic, module_cases, module_differences
from .fidelity import bound

MODULES = Path(__file__).parent / "modules"
TIMES = "attention_times.csv"  # beside the page
SIZES = ((128, 28), (256, 14), (512, 7))  # channels and side of the last three stages of a ResNet-18
BATCH, WARM_UP, RUNS = 16, 3, 21
PAGES = {"en": "attention.md", "zh": "attention.zh-CN.md"}
TEXT: dict[str, dict[str, str]] = {
    "en": {
        "head": "# Attention modules\n\nEnglish | [中文](attention.zh-CN.md)\n\n"
        "`python tools/attention.py` makes this page. Costs and agreement are computed; times are those\n"
        "that `python tools/attention.py --measure` measured last, on two CPU cores.",
        "guide": "## Which one when\n\n"
        "No line of this page says which module makes a network more accurate: that depends on the data\n"
        "and the network, and [a study](studies.md) answers it for yours. The table has what is known\n"
        "before a training: what each weight belongs to, the mean of the weights at the start, and what\n"
        "the module needs, with the number of its default argument. Weights of 0.5 at the start halve the\n"
        "branch that the module ends; with 1.0 its values keep their size on average.",
        "guide columns": "| module | one weight for each | mean at the start | needs |",
        "cost": "## Cost\n\n"
        "Trainable parameters and millions of multiply-accumulates (MMACs) for one map, with the default\n"
        "arguments; then the milliseconds of a batch of {batch} maps, forward and backward.",
        "cost columns": "| module | "
        + " | ".join(f"{c}×{s}×{s}: parameters | MMACs" for c, s in SIZES)
        + " |",
        "time columns": "| module | "
        + " | ".join(f"{c}×{s}×{s}: forward | backward" for c, s in SIZES)
        + " |",
        "modules": "## The modules\n\n"
        "[Models](models.md) describes the places. In a network that lacks one, `paper` is its usual place.",
        "channel": "channel",
        "position": "position",
        "element": "element",
        "adds": "it adds",
        "replaces": "it replaces a convolution",
        "formula": "Formula",
        "paper": "Paper",
        "code": "Authors' code",
        "no licence": "no licence file",
        "place": "Place",
        "agreement": "Agreement",
        "differences": "Known differences",
        "agrees": "{cases}: outputs {output}, input gradients {gradient}, parameter gradients {parameters}",
        "statistics": ", running statistics {bound}",
        "in network": "compared in its network, [fidelity](fidelity.md)",
        "no tensors": "no author's code",
        "not measured": "No times were measured yet.",
    },
    "zh": {
        "head": "# 注意力模块\n\n[English](attention.md) | 中文\n\n"
        "`python tools/attention.py` 生成本页。开销和一致性由程序计算；时间是最近一次\n"
        "`python tools/attention.py --measure` 在两个 CPU 核上测得的。",
        "guide": "## 如何选择\n\n"
        "本页不说明哪个模块能让网络更准确：这取决于数据和网络，可以用\n"
        "[对比实验](studies.zh-CN.md)得到答案。下表列出训练之前就知道的事：每个权重属于什么、\n"
        "权重初始的均值，以及模块的要求（数字是相应参数的默认值）。初始权重为 0.5 时，模块所在的\n"
        "分支减半；为 1.0 时，数值的平均大小不变。",
        "guide columns": "| 模块 | 每个权重对应 | 初始均值 | 要求 |",
        "cost": "## 开销\n\n"
        "默认参数下，一张特征图的可训练参数量和百万次乘加（MMACs）；然后是一批 {batch} 张的\n"
        "毫秒数，分前向和反向。",
        "cost columns": "| 模块 | " + " | ".join(f"{c}×{s}×{s}：参数量 | MMACs" for c, s in SIZES) + " |",
        "time columns": "| 模块 | " + " | ".join(f"{c}×{s}×{s}：前向 | 反向" for c, s in SIZES) + " |",
        "modules": "## 各模块\n\n"
        "位置的含义见[模型](models.zh-CN.md)。网络没有该位置时，`paper` 指它通常的位置。",
        "channel": "通道",
        "position": "位置",
        "element": "元素",
        "adds": "相加",
        "replaces": "替换卷积",
        "formula": "公式",
        "paper": "论文",
        "code": "作者的代码",
        "no licence": "无许可证文件",
        "place": "位置",
        "agreement": "一致性",
        "differences": "已知差异",
        "agrees": "{cases}：输出 {output}，输入梯度 {gradient}，参数梯度 {parameters}",
        "statistics": "，运行统计量 {bound}",
        "in network": "在整个网络中对比，见 [fidelity](fidelity.md)",
        "no tensors": "没有作者的代码",
        "not measured": "尚未测量时间。",
    },
}


def pages(
    golden: Path, folder: Path, progress: Callable[[str], object] = lambda line: None
) -> dict[str, str]:
    """The page in each language, by file name.

    Args:
        golden: the reference folder, for the agreement.
        folder: where the pages lie, and the file of times if there is one.
        progress: gets each module's name.
    """
    names = list_attention()
    facts = {}
    with ops.using("off"):  # a machine without a compiler must make the same page
        for name in names:
            progress(name)
            facts[name] = _facts(name, golden)
    times = _read_times(folder / TIMES)
    return {file: _page(language, facts, times) for language, file in PAGES.items()}


def measure(
    file: Path,
    names: Sequence[str] | None = None,
    runs: int = RUNS,
    progress: Callable[[str], object] = lambda line: None,
) -> None:
    """Write the times of modules at every size: medians of wall time over some runs, in ms.

    Args:
        names: of the modules, all of them by default.
        runs: beside those that warm up.
    """
    lines = ["attention,channels,side,forward_ms,backward_ms"]
    for name in names or list_attention():
        progress(name)
        for channels, side in SIZES:
            forward, backward = _times(_create(name, channels, side), channels, side, runs)
            lines.append(f"{name},{channels},{side},{forward:.2f},{backward:.2f}")
    write_text(file, "\n".join([*lines, ""]))


def _create(name: str, channels: int, side: int) -> nn.Layer:
    return create_attention(name, channels, **ATTENTION[name].stage_kwargs(side))


def _facts(name: str, golden: Path) -> dict[str, Any]:
    written = json.loads((MODULES / f"{name}.json").read_text(encoding="utf-8"))
    costs = [_cost(_create(name, *size), *size) for size in SIZES]
    kind, mean = _start(name)
    return {
        "written": written,
        "costs": costs,
        "kind": kind,
        "mean": mean,
        "agreement": _agreement(name, golden),
    }


class _Alone(nn.Layer):
    """A module on its own, as a network for `profile`."""

    def __init__(self, attn: nn.Layer, channels: int, side: int):
        super().__init__()
        self.attn, self.shape = attn, [1, channels, side, side]

    def forward(self, image: Tensor) -> Tensor:
        return self.attn(paddle.zeros(self.shape))


def _cost(attn: nn.Layer, channels: int, side: int) -> Profile:
    return profile(_Alone(attn, channels, side), size=1)


def _start(name: str) -> tuple[str, str]:
    """What a weight of the gate belongs to, and the mean of a new module's weights; empty without a gate."""
    if name in REPLACEMENTS:
        return "replaces", ""
    paddle.seed(0)
    attn = create_attention(name, 256)
    attn.eval()
    x = paddle.to_tensor(np.random.default_rng(0).standard_normal([2, 256, 14, 14]).astype("float32"))
    try:
        gate = attn.gate(x)
    except ValueError:
        return "adds", ""
    shape = tuple(gate.shape[1:])
    kind = {(256, 1, 1): "channel", (1, 14, 14): "position"}.get(shape, "element")
    return kind, f"{round(float(gate.mean()), 1) + 0.0:.1f}"  # + 0.0: no minus before 0


def _agreement(name: str, golden: Path) -> dict[str, Any]:
    """The largest differences over the committed tensors, both modes."""
    found: dict[str, Any] = {"cases": [], "output": [], "gradient": [], "parameters": [0.0], "statistics": []}
    for case in module_cases():
        files = [golden / case.file(shape) for shape in case.maps if (golden / case.file(shape)).exists()]
        if case.attention != name or not files:
            continue
        found["cases"].append(f"`{case.name}`")
        for file in files:
            for mode in ("eval", "train"):
                differences = module_differences(file, case, mode)
                found["output"].append(differences.pop("output"))
                found["gradient"].append(differences.pop("input gradient"))
                for what, value in differences.items():
                    found["statistics" if is_statistic(what) else "parameters"].append(value)
    return found


def _times(attn: nn.Layer, channels: int, side: int, runs: int) -> tuple[float, float]:
    x = paddle.randn([BATCH, channels, side, side])
    x.stop_gradient = False
    upstream = paddle.randn([BATCH, channels, side, side])
    forward, backward = [], []
    for _ in range(WARM_UP + runs):
        began = time.perf_counter()
        y = attn(x)
        between = time.perf_counter()
        y.backward(upstream)
        forward.append(between - began)
        backward.append(time.perf_counter() - between)
        x.clear_gradient()
        for parameter in attn.parameters():
            parameter.clear_gradient()
    return tuple(1e3 * statistics.median(seconds[WARM_UP:]) for seconds in (forward, backward))


def _read_times(file: Path) -> dict[tuple[str, int, int], tuple[str, str]]:
    if not file.exists():
        return {}
    with open(file, newline="", encoding="utf-8") as rows:
        return {
            (row["attention"], int(row["channels"]), int(row["side"])): (
                row["forward_ms"],
                row["backward_ms"],
            )
            for row in csv.DictReader(rows)
        }


def _page(language: str, facts: dict[str, dict], times: dict[tuple[str, int, int], tuple[str, str]]) -> str:
    text = TEXT[language]
    lines = [text["head"], "", text["guide"], "", text["guide columns"], "|---|---|---|---|"]
    for name, fact in facts.items():
        needs = ATTENTION[name].needs if language == "en" else fact["written"]["needs"]
        lines.append(f"| `{name}` | {text[fact['kind']]} | {fact['mean']} | {needs} |")
    lines += [
        "",
        text["cost"].format(batch=BATCH),
        "",
        text["cost columns"],
        "|---" * (1 + 2 * len(SIZES)) + "|",
    ]
    for name, fact in facts.items():
        cells = [f"{cost.attn_params:,} | {cost.attn_macs / 1e6:.3f}" for cost in fact["costs"]]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    if times:
        lines += ["", text["time columns"], "|---" * (1 + 2 * len(SIZES)) + "|"]
        for name in facts:
            cells = [" | ".join(times.get((name, *size), ("", ""))) for size in SIZES]
            lines.append(f"| `{name}` | {' | '.join(cells)} |")
    else:
        lines += ["", text["not measured"]]
    lines += ["", text["modules"]]
    for name, fact in facts.items():
        lines += ["", *_module(language, name, fact)]
    return "\n".join([*lines, ""])


def _module(language: str, name: str, fact: dict[str, Any]) -> list[str]:
    text, written = TEXT[language], fact["written"]
    slot = ATTENTION[name].paper_slot
    return [
        f"### `{name}`: {written['title'][language]}",
        "",
        written["does"][language],
        "",
        f"- {text['formula']}: `{written['formula']}`",
        f"- {text['paper']}: {written['paper']}",
        f"- {text['code']}: {written['code']}, {written['licence'] or text['no licence']}",
        f"- {text['place']}: `{slot}`",
        f"- {text['agreement']}: {_agreement_text(text, name, fact['agreement'])}",
        f"- {text['differences']}:",
        *(f"  - {difference}" for difference in written["differences"][language]),
    ]


def _agreement_text(text: dict[str, str], name: str, found: dict[str, Any]) -> str:
    if name in REPLACEMENTS:
        return text["in network"]
    if not found["cases"]:
        return text["no tensors"]
    line = text["agrees"].format(
        cases=", ".join(found["cases"]),
        **{what: bound(max(found[what])) for what in ("output", "gradient", "parameters")},
    )
    return line + (
        text["statistics"].format(bound=bound(max(found["statistics"]))) if found["statistics"] else ""
    )
