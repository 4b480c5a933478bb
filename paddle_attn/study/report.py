"""The report of a study: a page in Markdown and three pictures, from the files in its results folder.

The same results give the same bytes. Times differ from run to run, so they have a page of their own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.prepare.split import EVERY
from ..errors import UserError
from ..files import atomic_write, write_text
from ..train.predictions import Prediction
from .figures import plot_differences, plot_pareto, plot_study_curves
from .plan import Study, list_variants, plan_runs, results_folder
from .results import Results, Row
from .statistics import LEVEL, MAX_MORE, Comparison, Pair, compare, holm

REPORT, TIMING = "report.md", "timing.md"
CURVES, DIFFERENCES, PARETO = "curves.png", "differences.png", "pareto.png"

EXPLANATION = (
    "Differences are in percentage points. Each is paired: a variant and the baseline with the same fold and "
    "seed. The interval is Student's t interval over the folds; with one fold it is over the seeds, widened "
    "by the spread of the images. A verdict needs p < 0.05 after Holm's correction over the variants, so an "
    "interval may exclude zero without one."
)


@dataclass(frozen=True)
class VariantResult:
    """The finished runs of a variant; `comparison` is None for the baseline and without pairs."""

    name: str
    rows: list[Row]
    comparison: Comparison | None
    p: float  # after Holm's correction; not a number without an interval
    compared: int  # the number of variants with an interval

    @property
    def mean(self) -> float:
        """The mean over folds of the mean over seeds."""
        folds = sorted({row.fold for row in self.rows})
        return statistics.mean(
            statistics.mean(row.top1 for row in self.rows if row.fold == fold) for fold in folds
        )

    @property
    def deviation(self) -> float:
        """The standard deviation of the runs; not a number for one."""
        return statistics.stdev(row.top1 for row in self.rows) if len(self.rows) > 1 else math.nan

    @property
    def verdict(self) -> str:
        """'better', 'worse', 'not told apart' or 'one pair'."""
        if self.comparison is None or math.isnan(self.p):
            return "one pair"
        if self.p >= 1 - LEVEL:
            return "not told apart"
        return "better" if self.comparison.difference > 0 else "worse"


def summarize(study: Study, results: Results) -> list[VariantResult]:
    """The finished runs of each variant, compared with the baseline; the baseline first.

    Raises: UserError when there are none, or when they were tested on different images.
    """
    plan = plan_runs(study)
    results.check(study, plan)
    rows = results.rows()
    names = [variant.name for variant in list_variants(study)]
    finished = {
        name: [rows[run.name] for run in plan if run.variant == name and run.name in rows] for name in names
    }
    if not rows:
        raise UserError(f"{results.folder} holds no finished runs: run the study first, without --report")
    if not finished[names[0]]:
        raise UserError(
            f"{results.folder} holds no finished run of {names[0]}, with which the others are compared: "
            "run the study again, without --report"
        )
    baseline = {(row.fold, row.seed): row for row in finished[names[0]]}
    predictions = {row.run: results.predictions(row.run) for row in rows.values()}
    comparisons: dict[str, Comparison] = {}
    for name in names[1:]:
        pairs = [
            make_pair(row, predictions[row.run], predictions[baseline[row.fold, row.seed].run])
            for row in finished[name]
            if (row.fold, row.seed) in baseline
        ]
        if pairs:
            comparisons[name] = compare(pairs)
    corrected = dict(zip(comparisons, holm([each.p for each in comparisons.values()]), strict=True))
    compared = sum(not math.isnan(p) for p in corrected.values())
    return [
        VariantResult(name, finished[name], comparisons.get(name), corrected.get(name, math.nan), compared)
        for name in names
        if finished[name]
    ]


def make_pair(row: Row, variant: Sequence[Prediction], baseline: Sequence[Prediction]) -> Pair:
    """The pair of a variant's run and the baseline's, from their predictions.

    Raises: UserError when they were tested on different images.
    """
    if [each.image for each in variant] != [each.image for each in baseline]:
        raise UserError(
            f"{row.run} and the baseline were tested on different images in fold {row.fold}: "
            "expected the same photographs for all runs of a study"
        )
    gains = [
        int(ours.is_right) - int(theirs.is_right) for ours, theirs in zip(variant, baseline, strict=True)
    ]
    return Pair(row.fold, row.seed, np.array(gains))


def write_report(study: Study, results: Results | None = None) -> Path:
    """Write `report.md`, its three pictures and `timing.md` to the results folder. Returns the report's path.

    Raises: UserError when no run is finished.
    """
    results = results or Results(results_folder(study))
    found = summarize(study, results)
    title, folder = study.name, results.folder
    curves = {
        each.name: [[epoch["eval_top1"] for epoch in results.history(row.run)] for row in each.rows]
        for each in found
    }
    atomic_write(folder / CURVES, lambda part: plot_study_curves(curves, title, part))
    baseline, *others = found
    intervals = [
        (each.name, each.comparison.difference, *_interval(each.comparison), each.verdict)
        for each in others
        if each.comparison
    ]
    atomic_write(folder / DIFFERENCES, lambda part: plot_differences(intervals, baseline.name, title, part))
    costs = [
        (each.name, each.mean, _number(each.deviation), each.rows[0].macs, each.rows[0].parameters)
        for each in found
    ]
    atomic_write(folder / PARETO, lambda part: plot_pareto(costs, title, part))
    write_text(folder / TIMING, timing_page(study, found))
    write_text(folder / REPORT, report_page(study, found))
    return folder / REPORT


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _interval(comparison: Comparison) -> tuple[float, float]:
    """The 95 % interval; the difference itself when there is none."""
    return comparison.interval if comparison.df else (comparison.difference, comparison.difference)


def report_page(study: Study, found: Sequence[VariantResult]) -> str:
    """The report in Markdown."""
    baseline, rows = found[0], [row for each in found for row in each.rows]
    planned = len(plan_runs(study))
    folds, seeds = {row.fold for row in rows}, {row.seed for row in rows}
    lines = [
        f"# {study.name}",
        "",
        f"{_count(len(rows), 'run')} of {planned}: {_count(len(found), 'variant')}, "
        f"{_count(len(folds), 'fold')}, {_count(len(seeds), 'seed')} for each; "
        f"{_count(max(row.epochs for row in rows), 'epoch')}. The baseline is **{baseline.name}**. "
        "Top-1 is that of the last epoch, on the eval images.",
        "",
        "| variant | runs | top-1 % | standard deviation | difference | 95 % interval | p (Holm) "
        "| parameters | GMACs | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_table_line(each, each is baseline) for each in found),
        "",
        "## In words",
        "",
        *(f"- {sentence(each, baseline.name)}" for each in found[1:]),
        "",
        f"![Eval top-1 over the epochs]({CURVES})",
        "",
        f"![Differences from {baseline.name}]({DIFFERENCES})",
        "",
        f"![Accuracy against cost]({PARETO})",
        "",
        EXPLANATION,
        "",
        f"Seconds per epoch are in [{TIMING}]({TIMING}): they differ from run to run. "
        f"Code: {_versions(rows)}.",
    ]
    return "\n".join(lines) + "\n"


def _table_line(each: VariantResult, is_baseline: bool) -> str:
    comparison = each.comparison
    difference = interval = p = "–"
    if comparison:
        difference = f"{100 * comparison.difference:+.2f}"
        if comparison.df:
            low, high = comparison.interval
            interval, p = f"{100 * low:+.2f} to {100 * high:+.2f}", _p_text(each.p)
    verdict = "baseline" if is_baseline else each.verdict
    deviation = "–" if math.isnan(each.deviation) else f"{100 * each.deviation:.2f}"
    row = each.rows[0]
    cells = [
        each.name, len(each.rows), f"{100 * each.mean:.2f}", deviation, difference, interval, p,
        f"{row.parameters:,}", f"{row.macs / 1e9:.4f}", verdict,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def sentence(each: VariantResult, baseline: str) -> str:
    """The result of a variant in words."""
    comparison = each.comparison
    if comparison is None:
        return f"**{each.name}** has no run with the same fold and seed as one of {baseline}."
    points = f"{100 * comparison.difference:+.2f} points"
    if math.isnan(each.p):
        return (
            f"**{each.name}** and {baseline} have one pair of runs ({points}), "
            "which says nothing about the spread of the runs: run more folds or seeds."
        )
    if each.verdict in ("better", "worse"):
        low, high = (f"{100 * end:+.2f}" for end in comparison.interval)
        return f"**{each.name}** is {each.verdict} than {baseline}: {points}, 95 % interval {low} to {high}."
    more = more_runs_text(comparison.more_runs((1 - LEVEL) / max(each.compared, 1), EVERY))
    return f"**{each.name}** cannot be told apart from {baseline} with these runs ({points}); {more}."


def more_runs_text(more: float) -> str:
    """What it takes to show a difference as large as the observed one."""
    if math.isinf(more):
        return "more seeds would not show a difference this small, more photographs might"
    if more > MAX_MORE:
        return f"more than {MAX_MORE:,} more runs of each would be needed to show a difference this small"
    return f"about {_two_digits(more)} more runs of each would show a difference as large as this one"


def timing_page(study: Study, found: Sequence[VariantResult]) -> str:
    """The times of a study in Markdown: by variant, machine and number of threads."""
    lines = [
        f"# {study.name}: seconds per epoch",
        "",
        "The median of a run's epochs, training and evaluation; here the median of the runs.",
        "",
        "| variant | machine | threads | runs | seconds per epoch |",
        "|---|---|---|---|---|",
    ]
    for each in found:
        for machine, threads in sorted({(row.machine, row.threads) for row in each.rows}):
            seconds = [
                row.seconds_per_epoch for row in each.rows if (row.machine, row.threads) == (machine, threads)
            ]
            median = statistics.median(seconds)
            lines.append(f"| {each.name} | {machine} | {threads} | {len(seconds)} | {median:.2f} |")
    return "\n".join(lines) + "\n"


def _two_digits(value: float) -> int:
    """Rounded up to two significant digits."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _versions(rows: Sequence[Row]) -> str:
    versions = {f"paddle_attn {row.version}{f' at {row.commit}' if row.commit else ''}" for row in rows}
    return "; ".join(sorted(versions))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
