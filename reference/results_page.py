"""The page of the studies, docs/results.md and its translation, and README's table.

Every number is computed from the rows and the predictions in `results/`; the words follow the verdicts. A
study without a finished run is listed as not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from paddle_attn.errors import UserError
from paddle_attn.study.plan import Study, load_study, plan_runs
from paddle_attn.study.report import DIFFERENCES, REPORT, TIMING, comparison_cells, write_report
from paddle_attn.study.results import Results
from paddle_attn.study.statistics import Comparison
from paddle_attn.study.summary import (
    Compared,
    MapResult,
    VariantResult,
    compare_together,
    summarize,
    summarize_maps,
)

PAGES = {"en": "docs/results.md", "zh": "docs/results.zh-CN.md"}
READMES = {"en": "README.md", "zh": "README.zh-CN.md"}
START, END = "<!-- results: made by tools/results.py -->", "<!-- end of results -->"  # around README's table
# in the order of the page
STUDIES = ("caltech101-16", "notebook", "schedule", "lambda", "sge-groups", "positions")
# what the conclusion says of variants, and the verdicts of which it says that
OUTCOMES = {
    "better": ("better",),
    "worse": ("worse",),
    "not told apart": ("not told apart",),
    "untested": ("one pair", "no pair"),
}
TEXT: dict[str, dict[str, str]] = {
    "en": {
        "head": "# Does attention help?\n\nEnglish | [中文](results.zh-CN.md)\n\n"
        "`python tools/results.py` makes this page from the rows in `results/`. Each section is a\n"
        "[study](studies.md): `paddle-attn study -c studies/NAME` does its runs again. Accuracy is that "
        "of the\n"
        "last epoch, on images that no choice was made on. A difference is paired: the same fold and "
        "seed with\n"
        "and without the attention. *Better* and *worse* need p < 0.05 after Holm's correction.",
        "short": "In short",
        "caltech101-16": "Which attention helps TowerNet on photographs?",
        "caltech101-16 how": "TowerNet on sixteen classes of Caltech-101, 1,817 photographs, 128 px, "
        "from scratch. Each of five folds\n"
        "is the test part once.",
        "notebook": "Does SimAM help in the notebook's own setting?",
        "notebook how": "TowerNet, the same photographs, 256 px, 100 epochs, from scratch, one fold.",
        "schedule": "What did the notebook's learning rate cost?",
        "schedule how": "TowerNet-SimAM, the same photographs, 128 px, from scratch, one fold. The notebook "
        "stepped its cosine per\n"
        "batch although its period was given in epochs, so the rate fell and rose again every 80 batches.",
        "lambda": "How much does SimAM's λ matter?",
        "lambda how": "TowerNet-SimAM, the same photographs, 128 px, from scratch, two folds.",
        "sge-groups": "How many groups for SGE?",
        "sge-groups how": "TowerNet-SGE, the same photographs, 128 px, from scratch, two folds.",
        "positions": "Where should SimAM sit?",
        "positions how": "ResNet-18-SimAM, the same photographs, 128 px, from scratch, two folds.",
        "done": "{done} of {planned} runs are finished: {folds}; {seeds} for each variant and fold; "
        "{epochs} epochs. "
        "The rest was not run.",
        "all": "All {planned} runs: {folds}; {seeds} for each variant and fold; {epochs} epochs.",
        "together": "All of them together, their mean against {baseline}: {points} points, 95 % interval "
        "{low} to {high},\n"
        "p = {p:.3f}. This comparison was chosen when three folds had been seen: it is a hint, not a test.",
        "columns": "| variant | runs | top-1 | difference from {baseline} | 95 % interval | parameters "
        "| GMACs | verdict |",
        "baseline": "baseline",
        "better": "better",
        "worse": "worse",
        "not told apart": "not told apart",
        "one pair": "one pair: no verdict",
        "no pair": "no pair: no verdict",
        "is": "**{name}** is {verdict} than {baseline}: {points} points, 95 % interval {low} to {high}.",
        "equal": "**{name}** cannot be told apart from {baseline}: {points} points, 95 % interval {low} "
        "to {high}.",
        "pair": "**{name}** has one pair of runs ({points} points), which says nothing about the spread.",
        "lonely": "**{name}** has no run with the same fold and seed as one of {baseline}.",
        "more": "The [report]({report}) has curves and costs and, with at least two pairs, how many "
        "more runs\n"
        "would decide; [times]({timing}) are beside it. Code: {code}. Machine: {machine}.",
        "figure": "Difference from {baseline}, with its 95 % interval",
        "maps": "Are the maps more faithful? {answer} Grad-CAM of the true class, on the eval photographs of "
        "the runs\n"
        "whose weights were at hand (`--faithfulness`): the areas, from 0 to 1, under the\n"
        "[deletion and insertion](explain.md#whether-to-believe-a-map) curves. The gain is insertion minus "
        "deletion, less\n"
        "the same of a random map of equal resolution: 0 means that the map says nothing. A network that is "
        "surer of\n"
        "its classes has larger gains, so a difference in gain need not come from better maps.",
        "map columns": "| variant | runs | deletion (lower is better) | insertion (higher is better) | gain "
        "| pairs | difference in gain | 95 % interval | verdict |",
        "map better": "Larger gain than {baseline}: {names}.",
        "map worse": "Smaller gain than {baseline}: {names}.",
        "map not told apart": "Not told apart from {baseline}: {names}.",
        "map untested": "Not tested yet: {names}.",
        "map alone": "Only maps of {baseline} were measured.",
        "missing": "## Not run\n\nThese studies have a config in `configs/studies/` and no finished run:",
        "are alone": "Only runs of `{baseline}` are finished.",
        "are better": "Better than {baseline} here: {names}.",
        "are worse": "Worse than {baseline} here: {names}.",
        "are not told apart": "Undecided: {names}. With these runs they cannot be told apart from {baseline}:"
        " the intervals of the differences reach from {low} to {high} points.",
        "are untested": "Not tested yet: {names}.",
        "and": ", ",
        "space": " ",
        "fold": "fold {0}",
        "folds": "folds {0}",
        "seed": "one seed",
        "seeds": "{0} seeds",
        "readme": "[Does attention help?](docs/results.md) has the sentences, the costs and the code of "
        "these runs.\n"
        "`python tools/results.py` made the table.",
    },
    "zh": {
        "head": "# 注意力有用吗？\n\n[English](results.md) | 中文\n\n"
        "`python tools/results.py` 根据 `results/` 中的记录生成本页。"
        "每一节是一个[对比实验](studies.zh-CN.md)，\n"
        "可以用 `paddle-attn study -c studies/NAME` 重做。精度取自最后一个 epoch，测试图片不参与任何选择。\n"
        "差异是成对的：同一折、同一种子，有注意力与无注意力相比。“更好”和“更差”要求 Holm 校正后 p < 0.05。",
        "short": "概要",
        "caltech101-16": "在照片上，哪种注意力对 TowerNet 有用？",
        "caltech101-16 how": "TowerNet，Caltech-101 的十六个类别，1,817 张照片，128 px，从头训练。"
        "五折中的每一折轮流作为测试集。",
        "notebook": "在原始 notebook 的设置下，SimAM 有用吗？",
        "notebook how": "TowerNet，同样的照片，256 px，100 个 epoch，从头训练，一折。",
        "schedule": "原始 notebook 的学习率有什么代价？",
        "schedule how": "TowerNet-SimAM，同样的照片，128 px，从头训练，一折。\n"
        "notebook 的余弦周期以 epoch 计，却每个 batch 更新一次，因此学习率每 80 个 batch 就下降并回升一次。",
        "lambda": "SimAM 的 λ 有多大影响？",
        "lambda how": "TowerNet-SimAM，同样的照片，128 px，从头训练，两折。",
        "sge-groups": "SGE 应该分多少组？",
        "sge-groups how": "TowerNet-SGE，同样的照片，128 px，从头训练，两折。",
        "positions": "SimAM 应该放在哪里？",
        "positions how": "ResNet-18-SimAM，同样的照片，128 px，从头训练，两折。",
        "done": "已完成 {planned} 次训练中的 {done} 次：{folds}；每个变体在每一折上{seeds}；{epochs} 个 "
        "epoch。其余未运行。",
        "all": "全部 {planned} 次训练：{folds}；每个变体在每一折上{seeds}；{epochs} 个 epoch。",
        "together": "所有注意力合在一起（其均值与 {baseline} 相比）：{points} 个百分点，"
        "95 % 区间 {low} 至 {high}，\n"
        "p = {p:.3f}。这一比较是在看过三折之后才选定的，因此只是线索，不是检验。",
        "columns": "| 变体 | 训练次数 | top-1 | 与 {baseline} 的差异 | 95 % 区间 | 参数量 | GMACs | 结论 |",
        "baseline": "基准",
        "better": "更好",
        "worse": "更差",
        "not told apart": "无法区分",
        "one pair": "只有一对，无结论",
        "no pair": "没有配对，无结论",
        "is": "**{name}** 比 {baseline} {verdict}：{points} 个百分点，95 % 区间 {low} 至 {high}。",
        "equal": "**{name}** 与 {baseline} 无法区分：{points} 个百分点，95 % 区间 {low} 至 {high}。",
        "pair": "**{name}** 只有一对训练（{points} 个百分点），无法说明波动的大小。",
        "lonely": "**{name}** 没有与 {baseline} 同折同种子的训练。",
        "more": "[报告]({report})中有曲线和开销；有两对以上的训练时，还会估计需要增加多少次训练；\n"
        "[用时]({timing})在它旁边。代码：{code}。机器：{machine}。",
        "figure": "与 {baseline} 的差异及 95 % 区间",
        "maps": "激活图更可信吗？{answer}对保留了权重的训练，在测试照片上用真实类别的 Grad-CAM 测量"
        "（`--faithfulness`）：\n"
        "[删除与插入](explain.zh-CN.md#激活图是否可信)曲线下的面积（0 到 1）。"
        "增益为插入减删除，再减去同样分辨率的随机激活图的相应差值：\n"
        "0 表示激活图没有提供信息。对类别把握更大的网络增益也更大，因此增益的差异不一定来自更好的激活图。",
        "map columns": "| 变体 | 训练次数 | 删除（越低越好） | 插入（越高越好） | 增益 | 配对数 "
        "| 增益的差异 | 95 % 区间 | 结论 |",
        "map better": "增益大于 {baseline} 的有：{names}。",
        "map worse": "增益小于 {baseline} 的有：{names}。",
        "map not told apart": "与 {baseline} 无法区分的有：{names}。",
        "map untested": "尚未检验的有：{names}。",
        "map alone": "只测量了 {baseline} 的激活图。",
        "missing": "## 未运行\n\n以下实验有配置，但没有完成的训练：",
        "are alone": "只完成了 `{baseline}` 的训练。",
        "are better": "在这里优于 {baseline} 的有：{names}。",
        "are worse": "在这里不如 {baseline} 的有：{names}。",
        "are not told apart": "尚无定论的有：{names}。以现有的训练无法将它们与 {baseline} 区分开："
        "各差异的区间从 {low} 到 {high} 个百分点。",
        "are untested": "尚未检验的有：{names}。",
        "and": "、",
        "space": "",
        "fold": "第 {0} 折",
        "folds": "第 {0} 折",
        "seed": "一个种子",
        "seeds": "{0} 个种子",
        "readme": "[注意力有用吗？](docs/results.zh-CN.md)给出结论、开销和所用的代码。\n"
        "表格由 `python tools/results.py` 生成。",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A study with finished runs, and what follows from them."""

    study: Study
    found: list[VariantResult]  # the baseline first
    maps: list[MapResult]  # likewise; empty when they were not measured
    together: Comparison | None  # of the mean of all attentions with none; None in other studies


def write_reports(root: Path) -> None:
    """Write the report and the pictures of each study with a finished run, in its folder in `results/`."""
    for study in studies(root):
        results = Results(root / "results" / study.name)
        if results.rows():
            write_report(study, results)


def studies(root: Path) -> list[Study]:
    """The studies of the page, from their configs."""
    return [load_study(root / "configs" / "studies" / f"{name}.yaml") for name in STUDIES]


def pages(root: Path) -> dict[str, str]:
    """The texts of the pages and of both READMEs, by file name.

    Args:
        root: the repository, with `configs/` and `results/`.
    """
    planned = studies(root)
    finished = [each for each in (read(study, root) for study in planned) if each]
    if not finished:
        raise UserError(
            f"{root / 'results'} holds no finished run of a study: run one first, paddle-attn study"
        )
    ran = {each.study.name for each in finished}
    missing = [study.name for study in planned if study.name not in ran]
    texts = {file: page(finished, missing, TEXT[language]) for language, file in PAGES.items()}
    for language, file in READMES.items():
        texts[file] = in_readme((root / file).read_text(encoding="utf-8"), finished[0], TEXT[language])
    return texts


def read(study: Study, root: Path) -> Finished | None:
    """The finished runs of a study; None without any."""
    results = Results(root / "results" / study.name)
    if not results.rows():
        return None
    is_about_attention = len(study.attentions) > 2 and study.attentions[0] is None
    together = compare_together(study, results) if is_about_attention else None
    return Finished(study, summarize(study, results), summarize_maps(study, results), together)


def in_readme(readme: str, each: Finished, text: dict[str, str]) -> str:
    """The README with the table and the picture of a study between its two marks."""
    if readme.count(START) != 1 or readme.count(END) != 1:
        raise UserError(f"expected the marks {START} and {END} once each in the README, restore them")
    before, after = readme.partition(START)[0], readme.partition(END)[2]
    name = each.study.name
    parts = [
        f"{text[f'{name} how']}\n{extent(each, text)}",
        table(each.found, text),
        conclusion(each.found, text),
        *([figure(each, text, f"results/{name}")] if has_interval(each) else []),
        text["readme"],
    ]
    return f"{before}{START}\n" + "\n\n".join(parts) + f"\n{END}{after}"


def page(finished: Sequence[Finished], missing: Sequence[str], text: dict[str, str]) -> str:
    short = [f"- **{text[each.study.name]}** {conclusion(each.found, text)}" for each in finished]
    parts = [text["head"], f"## {text['short']}\n\n" + "\n".join(short)]
    parts += [section(each, text) for each in finished]
    if missing:
        parts.append(text["missing"] + "\n\n" + "\n".join(f"- `{name}`: {text[name]}" for name in missing))
    return "\n\n".join(parts) + "\n"


def section(each: Finished, text: dict[str, str]) -> str:
    """A study on the page: how it was done, the table, the result in words, the picture."""
    name, baseline, others = each.study.name, each.found[0], each.found[1:]
    rows = [row for variant in each.found for row in variant.rows]
    folder = f"../results/{name}"
    more = text["more"].format(
        report=f"{folder}/{REPORT}",
        timing=f"{folder}/{TIMING}",
        code=", ".join(sorted({f"`{row.commit or row.version}`" for row in rows})),
        machine="; ".join(sorted({row.machine for row in rows})),
    )
    words = "\n".join(f"- {sentence(variant, baseline.name, text)}" for variant in others)
    return "\n\n".join(
        [
            f"## {text[name]}",
            f"{text[f'{name} how']}\n{extent(each, text)}",
            table(each.found, text),
            conclusion(each.found, text),
            *([words] if others else []),
            *([together(each.together, baseline.name, text)] if each.together and each.together.df else []),
            *([figure(each, text, folder)] if has_interval(each) else []),
            *([maps_answer(each.maps, text), map_table(each.maps, text)] if each.maps else []),
            more,
        ]
    )


def has_interval(each: Finished) -> bool:
    """Whether a difference has an interval, which the figure shows: it needs two pairs."""
    return any(variant.comparison and variant.comparison.df for variant in each.found)


def figure(each: Finished, text: dict[str, str], folder: str) -> str:
    """The picture of the differences from the baseline."""
    return f"![{text['figure'].format(baseline=each.found[0].name)}]({folder}/{DIFFERENCES})"


def extent(each: Finished, text: dict[str, str]) -> str:
    """How many of the planned runs are finished, in words."""
    rows = [row for variant in each.found for row in variant.rows]
    planned = plan_runs(each.study)
    folds, seeds = sorted({row.fold for row in rows}), {row.seed for row in rows}
    epochs = sorted({row.epochs for row in rows})
    key = "all" if len(rows) == len(planned) else "done"
    return text[key].format(
        done=len(rows),
        planned=len(planned),
        folds=text["folds" if len(folds) > 1 else "fold"].format(", ".join(map(str, folds))),
        seeds=text["seeds" if len(seeds) > 1 else "seed"].format(len(seeds)),
        epochs=str(epochs[0]) if epochs[0] == epochs[-1] else f"{epochs[0]}–{epochs[-1]}",
    )


def table(found: Sequence[VariantResult], text: dict[str, str]) -> str:
    """The variants with their accuracy, their difference from the baseline, and their cost."""
    rows = []
    for each in found:
        row = each.rows[0]
        deviation = "" if math.isnan(each.deviation) else f" ± {100 * each.deviation:.2f}"
        rows.append(
            [
                each.name,
                len(each.rows),
                f"{100 * each.mean:.2f}{deviation} %",
                *comparison_cells(each, 100, 2)[:2],
                f"{row.parameters:,}",
                f"{row.macs / 1e9:.4f}",
                text["baseline" if each is found[0] else each.verdict],
            ]
        )
    return markdown_table(text["columns"].format(baseline=found[0].name), rows)


def maps_answer(maps: Sequence[MapResult], text: dict[str, str]) -> str:
    """Whether the maps are more faithful, and how that was measured."""
    return text["maps"].format(answer=conclusion(maps, text, "map"))


def map_table(maps: Sequence[MapResult], text: dict[str, str]) -> str:
    """How faithful the maps of the variants are."""
    rows = [
        [
            each.name,
            len(each.scores),
            *(f"{each.mean(value):.3f}" for value in ("deletion", "insertion", "gain")),
            each.comparison.pairs if each.comparison else "–",
            *comparison_cells(each, 1, 3)[:2],
            text["baseline" if each is maps[0] else each.verdict],
        ]
        for each in maps
    ]
    return markdown_table(text["map columns"], rows)


def markdown_table(columns: str, rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, "|" + "---|" * (columns.count("|") - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def ends(comparison: Comparison) -> tuple[str, str]:
    """Both ends of the interval, in percentage points."""
    low, high = comparison.interval
    return f"{100 * low:+.2f}", f"{100 * high:+.2f}"


def sentence(each: VariantResult, baseline: str, text: dict[str, str]) -> str:
    """The result of a variant in words."""
    if each.comparison is None:
        return text["lonely"].format(name=each.name, baseline=baseline)
    points = f"{100 * each.comparison.difference:+.2f}"
    if each.verdict == "one pair":
        return text["pair"].format(name=each.name, points=points)
    low, high = ends(each.comparison)
    key = "is" if each.verdict in ("better", "worse") else "equal"
    return text[key].format(
        name=each.name, verdict=text[each.verdict], baseline=baseline, points=points, low=low, high=high
    )


def together(comparison: Comparison, baseline: str, text: dict[str, str]) -> str:
    """Whether attention helps at all."""
    low, high = ends(comparison)
    points = f"{100 * comparison.difference:+.2f}"
    return text["together"].format(baseline=baseline, points=points, low=low, high=high, p=comparison.p)


def conclusion(found: Sequence[Compared], text: dict[str, str], kind: str = "are") -> str:
    """What somebody who chooses a variant can take from it.

    Args:
        found: the variants, the baseline first.
        text: of the language.
        kind: "are" for accuracy, "map" for the maps.
    """
    baseline, *others = found
    if not others:
        return text[f"{kind} alone"].format(baseline=baseline.name)
    said = []
    for outcome, verdicts in OUTCOMES.items():
        group = [each for each in others if each.verdict in verdicts]
        if group:
            names = text["and"].join(each.name for each in group)
            low, high = reach(group)
            said.append(
                text[f"{kind} {outcome}"].format(names=names, baseline=baseline.name, low=low, high=high)
            )
    return text["space"].join(said)


def reach(group: Sequence[Compared]) -> tuple[str, str]:
    """The ends of all intervals of a group, in percentage points; '' where there is no interval."""
    intervals = [each.comparison.interval for each in group if each.comparison and each.comparison.df]
    if not intervals:
        return "", ""
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return f"{100 * low:+.2f}", f"{100 * high:+.2f}"
