"""The page of the attention modules, docs/attention.md and its translation, as computed Markdown.

What only a person can say is in `reference/modules/NAME.json`: what a module does in a line, its formula,
paper, licence and known differences, in both languages. Costs, gates and agreement are computed. Times come
from a file that `python tools/attention.py --measure` writes (`benchmarks/attention_times.py`).
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor, nn

from benchmarks.attention_times import BATCH, COMPARED, SIZES, TIMES, Times, read
from paddle_attn import ops
from paddle_attn.attention import ATTENTION, create_attention, list_attention
from paddle_attn.models.complexity import Profile, profile
from paddle_attn.models.placement import REPLACEMENTS

from .compare import is_statistic, module_cases, stated_differences
from .fidelity import bound

MODULES = Path(__file__).parent / "modules"
PAYS = 1.5  # a fused form pays when it is this much faster
PAGES = {"en": "attention.md", "zh": "attention.zh-CN.md"}
TEXT: dict[str, dict[str, str]] = {
    "en": {
        "head": "# Attention modules\n\nEnglish | [中文](attention.zh-CN.md)\n\n"
        "`python tools/attention.py` makes this page. Costs and agreement are computed; times are those\n"
        "that `python tools/attention.py --measure` measured last.",
        "guide": "## Which one when\n\n"
        "No line of this page says which module makes a network more accurate: that depends on the data\n"
        "and the network, and [a study](studies.md) answers it for yours. The table has what is known\n"
        "before a training: whether a weight is for a channel, a position or an element, the mean of the\n"
        "weights at the start, and what the module needs, with the default of the argument in brackets.\n"
        "Weights of 0.5 at the start halve the branch that the module ends; with 1.0 its values keep their\n"
        "size on average; with 0.0, weights of both signs around zero, little passes: such a module needs\n"
        "a shortcut beside it.",
        "guide columns": "| module | one weight for each | mean at the start | needs |",
        "cost": "## Cost\n\n"
        "Trainable parameters and millions of multiply-accumulates (MMACs) for one map, with the default\n"
        "arguments.",
        "cost columns": "| module | "
        + " | ".join(f"{c}×{s}×{s}: parameters | MMACs" for c, s in SIZES)
        + " |",
        "time": "## Time\n\n"
        "Milliseconds of a batch of {batch} maps, the forward pass alone, and forward and backward. Modules\n"
        "with a fused form run in it. Measured on {machine}.",
        "time columns": "| module | "
        + " | ".join(f"{c}×{s}×{s}: forward | and backward" for c, s in SIZES)
        + " |",
        "pytorch": "The same modules in PyTorch, {size}, forward and backward, with the allocator set as\n"
        "ours: milliseconds, eager and compiled (`torch.compile`). The last column divides the shorter of\n"
        "the two by ours: below 1, PyTorch is faster.",
        "pytorch columns": "| module | ours | PyTorch, eager | PyTorch, compiled | PyTorch ÷ ours |",
        "would pay": "PyTorch is more than {pays} times as fast as ours for {names}.\n"
        "Only parts of these are fused (convolutions, norms, products with a gate); a fused form\n"
        "of the whole could pay.",
        "would not pay": "For no module is PyTorch more than {pays} times as fast as ours.",
        "half": "## Half precision\n\n"
        "In float16, sums of squares and of products of maps overflow. On a GPU with `train.amp`, modules\n"
        "that have such sums compute them in float32:\n\n"
        "- the whole module; tests run it on a CPU with maps whose sums overflow: {cast}\n"
        "- only the weights, which are computed after the convolutions; the test starts after them: "
        "`nonlocal`\n"
        "- without such sums: {others}. Paddle has no half-precision kernels for them on a CPU, so no\n"
        "  test runs them in half precision.\n\n"
        "Nothing was run on a GPU. On a CPU, `train.amp` rounds the factors of dense convolutions of at\n"
        "least 8 input channels to bfloat16, also of those inside the modules; the rest of a module "
        "computes\n"
        "in float32.",
        "modules": "## The modules\n\n"
        "[Models](models.md) describes the places. In a network that lacks one, `paper` means the\n"
        "network's usual one: `post_bn`, in VGG19 `pre_pool`, in TowerNet `post_pool`. `bam` in "
        "MobileNetV2, and\n"
        "`sk` without bottlenecks, are errors.",
        "channel": "channel",
        "position": "position",
        "element": "element",
        "adds": "it adds",
        "replaces": "it replaces a convolution",
        "formula": "Formula",
        "arguments": "Arguments",
        "no arguments": "none",
        "paper": "Paper",
        "code": "Authors' code",
        "data flow": "Data flow of {name}",
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
        "`python tools/attention.py --measure` 测得的。",
        "guide": "## 如何选择\n\n"
        "本页不说明哪个模块能让网络更准确：这取决于数据和网络，可以用\n"
        "[对比实验](studies.zh-CN.md)得到答案。下表列出训练之前就知道的事：每个权重对应通道、\n"
        "位置还是元素，权重初始的均值，以及模块的要求（括号中是参数的默认值）。初始权重为 0.5 时，\n"
        "模块所在的分支减半；为 1.0 时，数值的平均大小不变；为 0.0 时，权重在零附近有正有负，\n"
        "几乎没有信号通过，因此这样的模块旁边要有捷径连接。",
        "guide columns": "| 模块 | 每个权重对应 | 初始均值 | 要求 |",
        "cost": "## 开销\n\n默认参数下，一张特征图的可训练参数量和百万次乘加（MMACs）。",
        "cost columns": "| 模块 | " + " | ".join(f"{c}×{s}×{s}：参数量 | MMACs" for c, s in SIZES) + " |",
        "time": "## 时间\n\n"
        "一批 {batch} 张特征图的毫秒数：仅前向，以及前向加反向。有融合实现的模块使用融合实现。\n"
        "测量机器：{machine}。",
        "time columns": "| 模块 | " + " | ".join(f"{c}×{s}×{s}：前向 | 加反向" for c, s in SIZES) + " |",
        "pytorch": "PyTorch 中的同一模块，{size}，前向加反向，内存分配器的设置与本项目相同：即时执行和\n"
        "编译（`torch.compile`）的毫秒数。最后一列是其中较短的时间除以本项目的时间：小于 1 表示\n"
        "PyTorch 更快。",
        "pytorch columns": "| 模块 | 本项目 | PyTorch，即时 | PyTorch，编译 | PyTorch ÷ 本项目 |",
        "would pay": "PyTorch 的速度超过本项目 {pays} 倍的模块有 {names}："
        "目前只有部分运算（卷积、归一化、与门控的\n"
        "乘积）使用融合实现，整个模块的融合实现可能值得。",
        "would not pay": "没有一个模块在 PyTorch 中的速度超过本项目的 {pays} 倍。",
        "half": "## 半精度\n\n"
        "特征图的平方和或乘积和在 float16 中会溢出。在 GPU 上使用 `train.amp` 时，有这种求和的模块\n"
        "用 float32 计算：\n\n"
        "- 整个模块，测试在 CPU 上用会溢出的特征图运行：{cast}\n"
        "- 卷积之后的权重，测试从那里开始：`nonlocal`\n"
        "- 没有这种求和：{others}。Paddle 没有相应的 CPU 半精度算子，所以没有测试以半精度运行它们。\n\n"
        "没有在 GPU 上运行过。在 CPU 上，`train.amp` 把输入至少 8 个通道的普通卷积的乘数舍入为 bfloat16，\n"
        "注意力模块内部的卷积也是如此；模块的其余部分用 float32 计算。",
        "modules": "## 各模块\n\n"
        "位置的含义见[模型](models.zh-CN.md)。网络没有该位置时，`paper` 指该网络的常用位置：\n"
        "`post_bn`，VGG19 为 `pre_pool`，TowerNet 为 `post_pool`。MobileNetV2 中的 `bam` 和没有 "
        "bottleneck 的网络中的\n"
        "`sk` 会报错。",
        "channel": "通道",
        "position": "位置",
        "element": "元素",
        "adds": "相加",
        "replaces": "替换卷积",
        "formula": "公式",
        "arguments": "参数",
        "no arguments": "无",
        "paper": "论文",
        "code": "作者的代码",
        "data flow": "{name} 的数据流",
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
    times = read(folder / TIMES)
    return {file: _page(language, facts, times) for language, file in PAGES.items()}


def _facts(name: str, golden: Path) -> dict[str, Any]:
    written = json.loads((MODULES / f"{name}.json").read_text(encoding="utf-8"))
    costs = [_cost(create_attention(name, size[0]), *size) for size in SIZES]
    kind, mean = _start(name)
    return {
        "written": written,
        "costs": costs,
        "kind": kind,
        "mean": mean,
        "half": _takes_half(name),
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
                differences = stated_differences(file, case, mode)
                found["output"].append(differences.pop("output"))
                found["gradient"].append(differences.pop("input gradient"))
                for what, value in differences.items():
                    found["statistics" if is_statistic(what) else "parameters"].append(value)
    return found


def _takes_half(name: str) -> bool:
    """Whether a CPU computes the module on half-precision maps: it casts them, or Paddle has the kernels."""
    try:
        create_attention(name, 256)(paddle.zeros([2, 256, 14, 14]).astype("float16"))
    except (RuntimeError, ValueError):  # Paddle raises either for a kernel that it lacks
        return False
    return True


def _page(language: str, facts: dict[str, dict], times: Times) -> str:
    text = TEXT[language]
    lines = [text["head"], "", text["guide"], "", text["guide columns"], "|---|---|---|---|"]
    for name, fact in facts.items():
        needs = ATTENTION[name].needs if language == "en" else fact["written"]["needs"]
        lines.append(f"| `{name}` | {text[fact['kind']]} | {fact['mean']} | {needs} |")
    rows = {
        name: [f"{cost.attn_params:,} | {cost.attn_macs / 1e6:.3f}" for cost in fact["costs"]]
        for name, fact in facts.items()
    }
    lines += ["", text["cost"], "", *_table(text["cost columns"], rows), ""]
    lines += _time(text, facts, times) if times.cells else [text["not measured"]]
    cast = ", ".join(f"`{name}`" for name, fact in facts.items() if fact["half"])
    others = ", ".join(f"`{name}`" for name, fact in facts.items() if not fact["half"] and name != "nonlocal")
    lines += ["", text["half"].format(cast=cast, others=others), "", text["modules"]]
    for name, fact in facts.items():
        lines += ["", *_module(language, name, fact)]
    return "\n".join([*lines, ""])


def _table(columns: str, rows: dict[str, list[str]]) -> list[str]:
    """A row for each module; a cell may hold several columns."""
    separator = "|---" * (columns.count("|") - 1) + "|"
    return [columns, separator, *(f"| `{name}` | {' | '.join(cells)} |" for name, cells in rows.items())]


def _time(text: dict[str, str], facts: dict[str, dict], times: Times) -> list[str]:
    ours, compared, slower = {}, {}, []
    for name in facts:
        measured = [times.cells.get((name, *size), {}) for size in SIZES]
        if all("train_ms" in cell for cell in measured):
            ours[name] = [f"{_ms(cell['forward_ms'])} | {_ms(cell['train_ms'])}" for cell in measured]
        cell = times.cells.get((name, *COMPARED), {})
        if "compiled_ms" in cell:
            ratio = min(cell["eager_ms"], cell["compiled_ms"]) / cell["train_ms"]
            columns = ("train_ms", "eager_ms", "compiled_ms")
            compared[name] = [*(_ms(cell[column]) for column in columns), f"{ratio:.2f}"]
            if ratio < 1 / PAYS:
                slower.append(f"`{name}`")
    lines = [text["time"].format(batch=BATCH, machine=times.machine), "", *_table(text["time columns"], ours)]
    if compared:
        channels, side = COMPARED
        key = "would pay" if slower else "would not pay"
        lines += ["", text["pytorch"].format(size=f"{channels}×{side}×{side}"), ""]
        lines += _table(text["pytorch columns"], compared)
        lines += ["", text[key].format(pays=PAYS, names=", ".join(slower))]
    return lines


def _ms(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def _module(language: str, name: str, fact: dict[str, Any]) -> list[str]:
    text, written = TEXT[language], fact["written"]
    slot = ATTENTION[name].paper_slot
    return [
        f"### `{name}`: {written['title'][language]}",
        "",
        written["does"][language],
        "",
        f"- {text['formula']}: `{_in(language, written['formula'])}`",
        f"- {text['arguments']}: {_arguments(name) or text['no arguments']}",
        f"- {text['paper']}: {written['paper']}",
        f"- {text['code']}: {written['code']}, {_in(language, written['licence']) or text['no licence']}",
        f"- {text['place']}: `{slot}`",
        f"- {text['agreement']}: {_agreement_text(text, name, fact['agreement'])}",
        f"- {text['differences']}:",
        *(f"  - {difference}" for difference in written["differences"][language]),
        "",
        f"![{text['data flow'].format(name=name)}](images/attention/{name}.svg)",
    ]


def _arguments(name: str) -> str:
    """The arguments of a module beside the channels, with their defaults."""
    _, _, *parameters = inspect.signature(ATTENTION[name].__init__).parameters.values()
    return ", ".join(f"`{each.name}={each.default!r}`" for each in parameters)


def _in(language: str, value: str | dict[str, str]) -> str:
    """A text that is the same in both languages, or the one of this language."""
    return value if isinstance(value, str) else value[language]


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
