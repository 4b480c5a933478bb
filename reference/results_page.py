"""The page of the studies, docs/results.md and its translation, and README's table.

Every number is computed from the rows and the predictions in `results/`; the words follow the verdicts. A
study without a finished run is listed as not run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
STUDIES = (
    "caltech101-16",
    "notebook",
    "schedule",
    "recipe-search",
    "pretraining",
    "fine-tuning",
    "few-photographs",
    "lambda",
    "sge-groups",
    "positions",
)
# what the conclusion says of variants, and the verdicts of which it says that
OUTCOMES = {
    "better": ("better",),
    "worse": ("worse",),
    "not told apart": ("not told apart",),
    "untested": ("one pair", "no pair"),
}
Text = dict[str, dict[str, Any]]  # the words of a language, by the part of the page
TEXT: dict[str, Text] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))


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
    found = summarize(study, results)  # first, because it checks the files
    is_about_attention = len(study.attentions) > 2 and study.attentions[0] is None
    together = compare_together(study, results) if is_about_attention else None
    return Finished(study, found, summarize_maps(study, results), together)


def in_readme(readme: str, each: Finished, text: Text) -> str:
    """The README with the table and the picture of a study between its two marks."""
    if readme.count(START) != 1 or readme.count(END) != 1:
        raise UserError(f"expected the marks {START} and {END} once each in the README, restore them")
    before, after = readme.partition(START)[0], readme.partition(END)[2]
    name = each.study.name
    parts = [
        f"{text['studies'][name]['how']}\n{extent(each, text)}",
        table(each.found, text),
        conclusion(each.found, text),
        *([figure(each, text, f"results/{name}")] if has_interval(each) else []),
        text["page"]["readme"],
    ]
    return f"{before}{START}\n" + "\n\n".join(parts) + f"\n{END}{after}"


def page(finished: Sequence[Finished], missing: Sequence[str], text: Text) -> str:
    short = [
        f"- **{text['studies'][each.study.name]['title']}** {conclusion(each.found, text)}"
        for each in finished
    ]
    words = text["page"]
    parts = [words["head"], f"## {words['short']}\n\n" + "\n".join(short)]
    parts += [section(each, text) for each in finished]
    if missing:
        lines = [f"- `{name}`: {text['studies'][name]['title']}" for name in missing]
        parts.append(words["missing"] + "\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def section(each: Finished, text: Text) -> str:
    """A study on the page: how it was done, the table, the result in words, the picture."""
    name, baseline, others = each.study.name, each.found[0], each.found[1:]
    rows = [row for variant in each.found for row in variant.rows]
    folder = f"../results/{name}"
    more = text["table"]["more"].format(
        report=f"{folder}/{REPORT}",
        timing=f"{folder}/{TIMING}",
        code=", ".join(sorted({f"`{row.commit or row.version}`" for row in rows})),
        machine="; ".join(sorted({row.machine for row in rows})),
    )
    words = "\n".join(f"- {sentence(variant, baseline.name, text)}" for variant in others)
    return "\n\n".join(
        [
            f"## {text['studies'][name]['title']}",
            f"{text['studies'][name]['how']}\n{extent(each, text)}",
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


def figure(each: Finished, text: Text, folder: str) -> str:
    """The picture of the differences from the baseline."""
    return f"![{text['table']['figure'].format(baseline=each.found[0].name)}]({folder}/{DIFFERENCES})"


def extent(each: Finished, text: Text) -> str:
    """How many of the planned runs are finished, in words."""
    rows = [row for variant in each.found for row in variant.rows]
    planned = plan_runs(each.study)
    folds, seeds = sorted({row.fold for row in rows}), {row.seed for row in rows}
    epochs = sorted({row.epochs for row in rows})
    words = text["extent"]
    fold_words = words["folds" if len(folds) > 1 else "fold"].format(", ".join(map(str, folds)))
    return words["all" if len(rows) == len(planned) else "done"].format(
        done=len(rows),
        planned=len(planned),
        folds=fold_words if each.study.folds else words["split"],
        seeds=words["seeds" if len(seeds) > 1 else "seed"].format(len(seeds)),
        epochs=str(epochs[0]) if epochs[0] == epochs[-1] else f"{epochs[0]}–{epochs[-1]}",
    )


def table(found: Sequence[VariantResult], text: Text) -> str:
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
                text["verdicts"]["baseline" if each is found[0] else each.verdict],
            ]
        )
    return markdown_table(text["table"]["columns"].format(baseline=found[0].name), rows)


def maps_answer(maps: Sequence[MapResult], text: Text) -> str:
    """Whether the maps are more faithful, and how that was measured."""
    return text["maps"]["text"].format(answer=conclusion(maps, text, "maps conclusion"))


def map_table(maps: Sequence[MapResult], text: Text) -> str:
    """How faithful the maps of the variants are."""
    rows = [
        [
            each.name,
            len(each.scores),
            *(f"{each.mean(value):.3f}" for value in ("deletion", "insertion", "gain")),
            each.comparison.pairs if each.comparison else "–",
            *comparison_cells(each, 1, 3)[:2],
            text["verdicts"]["baseline" if each is maps[0] else each.verdict],
        ]
        for each in maps
    ]
    return markdown_table(text["maps"]["columns"], rows)


def markdown_table(columns: str, rows: Sequence[Sequence[object]]) -> str:
    lines = [columns, "|" + "---|" * (columns.count("|") - 1)]
    return "\n".join([*lines, *(f"| {' | '.join(map(str, row))} |" for row in rows)])


def ends(comparison: Comparison) -> tuple[str, str]:
    """Both ends of the interval, in percentage points."""
    low, high = comparison.interval
    return f"{100 * low:+.2f}", f"{100 * high:+.2f}"


def sentence(each: VariantResult, baseline: str, text: Text) -> str:
    """The result of a variant in words."""
    words = text["sentences"]
    if each.comparison is None:
        return words["lonely"].format(name=each.name, baseline=baseline)
    points = f"{100 * each.comparison.difference:+.2f}"
    if each.verdict == "one pair":
        return words["pair"].format(name=each.name, points=points)
    low, high = ends(each.comparison)
    return words["is" if each.verdict in ("better", "worse") else "equal"].format(
        name=each.name,
        verdict=text["verdicts"][each.verdict],
        baseline=baseline,
        points=points,
        low=low,
        high=high,
    )


def together(comparison: Comparison, baseline: str, text: Text) -> str:
    """Whether attention helps at all."""
    low, high = ends(comparison)
    points = f"{100 * comparison.difference:+.2f}"
    return text["sentences"]["together"].format(
        baseline=baseline, points=points, low=low, high=high, p=comparison.p
    )


def conclusion(found: Sequence[Compared], text: Text, part: str = "conclusion") -> str:
    """What somebody who chooses a variant can take from it.

    Args:
        found: the variants, the baseline first.
        text: the words of the language.
        part: of them: "conclusion" is about accuracy, "maps conclusion" about the maps.
    """
    words, join = text[part], text["join"]
    baseline, *others = found
    if not others:
        return words["alone"].format(baseline=baseline.name)
    said = []
    for outcome, verdicts in OUTCOMES.items():
        group = [each for each in others if each.verdict in verdicts]
        if group:
            names = join["names"].join(each.name for each in group)
            low, high = reach(group)
            said.append(words[outcome].format(names=names, baseline=baseline.name, low=low, high=high))
    return join["sentences"].join(said)


def reach(group: Sequence[Compared]) -> tuple[str, str]:
    """The ends of all intervals of a group, in percentage points; '' where there is no interval."""
    intervals = [each.comparison.interval for each in group if each.comparison and each.comparison.df]
    if not intervals:
        return "", ""
    low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return f"{100 * low:+.2f}", f"{100 * high:+.2f}"
