"""The report of a study: two pages in Markdown with their pictures, from the files in its results folder.

The same results give the same bytes. Times differ from run to run, so they have a page of their own.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from ..data.prepare.split import EVERY
from ..files import atomic_write, write_text
from .figures import plot_differences, plot_minutes, plot_pareto, plot_study_curves
from .plan import Study, plan_runs, results_folder
from .results import Results, Row
from .statistics import LEVEL, MAX_MORE, Comparison
from .summary import Compared, MapResult, VariantResult, summarize, summarize_maps

REPORT, TIMING = "report.md", "timing.md"
CURVES, DIFFERENCES, PARETO, MINUTES = "curves.png", "differences.png", "pareto.png", "minutes.png"

EXPLANATION = (
    "Differences are in percentage points. Each is paired: a variant and the baseline with the same fold and "
    "seed; means are over all finished runs of a variant. The interval is Student's t interval over the "
    "folds; with one fold it is over the seeds, widened by the spread of the images. A verdict needs p < "
    "0.05 after Holm's correction over the variants, so an interval may exclude zero without one."
)

MAPS_EXPLANATION = (
    "Grad-CAM of the true class of each eval image, for the runs whose weights were at hand. Deletion (lower "
    "is better) and insertion (higher is better) are the areas under the curves of `paddle-attn explain "
    "--faithfulness`, from 0 to 1. The gain is insertion minus deletion, less the same of a random map of "
    "equal resolution: 0 means that the map says nothing. A network that is surer of its classes has larger "
    "gains, so a difference in gain need not come from better maps. Means are over all measured runs of a "
    "variant, differences over its pairs with the baseline."
)


def write_report(study: Study, results: Results | None = None) -> Path:
    """Write `report.md` and `timing.md` with their pictures to the results folder.

    Returns: the report's path.

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
    _write_timing(study, results, found)
    write_text(folder / REPORT, report_page(study, found, summarize_maps(study, results)))
    return folder / REPORT


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _interval(comparison: Comparison) -> tuple[float, float]:
    """The 95 % interval; the difference itself when there is none."""
    return comparison.interval if comparison.df else (comparison.difference, comparison.difference)


def report_page(study: Study, found: Sequence[VariantResult], maps: Sequence[MapResult] = ()) -> str:
    """The report in Markdown."""
    baseline, rows = found[0], [row for each in found for row in each.rows]
    planned = len(plan_runs(study))
    folds, seeds = {row.fold for row in rows}, {row.seed for row in rows}
    lines = [
        f"# {study.name}",
        "",
        f"{_count(len(rows), 'run')} of {planned}: {_count(len(found), 'variant')}, "
        f"{_count(len(folds), 'fold')}, {_count(len(seeds), 'seed')} for each; "
        f"{_epochs(rows)}. The baseline is **{baseline.name}**. "
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
        *(_maps_section(maps) if maps else ()),
        f"Seconds per epoch are in [{TIMING}]({TIMING}): they differ from run to run. "
        f"Code: {_versions(rows)}.",
    ]
    return "\n".join(lines) + "\n"


def _table_line(each: VariantResult, is_baseline: bool) -> str:
    deviation = "–" if math.isnan(each.deviation) else f"{100 * each.deviation:.2f}"
    row = each.rows[0]
    cells = [
        each.name, len(each.rows), f"{100 * each.mean:.2f}", deviation, *comparison_cells(each, 100, 2),
        f"{row.parameters:,}", f"{row.macs / 1e9:.4f}", "baseline" if is_baseline else each.verdict,
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def _maps_section(maps: Sequence[MapResult]) -> list[str]:
    lines = [
        "## How faithful the maps are",
        "",
        "| variant | runs | deletion | insertion | gain | pairs | difference in gain | 95 % interval "
        "| p (Holm) | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in maps:
        means = [f"{each.mean(value):.3f}" for value in ("deletion", "insertion", "gain")]
        pairs = each.comparison.pairs if each.comparison else "–"
        verdict = "baseline" if each is maps[0] else each.verdict
        cells = [each.name, len(each.scores), *means, pairs, *comparison_cells(each, 1, 3), verdict]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return [*lines, "", MAPS_EXPLANATION, ""]


def comparison_cells(each: Compared, factor: float, digits: int) -> tuple[str, str, str]:
    """A variant's difference from the baseline, its interval and its p in a table; '–' for what is missing.

    Args:
        each: the variant.
        factor: 100 for percentage points.
        digits: after the point.
    """
    comparison = each.comparison
    if not comparison:
        return "–", "–", "–"
    difference = f"{factor * comparison.difference:+.{digits}f}"
    if not comparison.df:
        return difference, "–", "–"
    interval = " … ".join(f"{factor * end:+.{digits}f}" for end in comparison.interval)
    return difference, interval, _p_text(each.judged.p)


def _p_text(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def sentence(each: VariantResult, baseline: str) -> str:
    """The result of a variant in words."""
    comparison = each.comparison
    if comparison is None:
        return f"**{each.name}** has no run with the same fold and seed as one of {baseline}."
    points = f"{100 * comparison.difference:+.2f} points"
    if math.isnan(each.judged.p):
        return (
            f"**{each.name}** and {baseline} have one pair of runs ({points}), "
            "which says nothing about the spread of the runs: run more folds or seeds."
        )
    if each.verdict in ("better", "worse"):
        low, high = (f"{100 * end:+.2f}" for end in comparison.interval)
        return f"**{each.name}** is {each.verdict} than {baseline}: {points}, 95 % interval {low} to {high}."
    more = more_runs_text(comparison.more_runs((1 - LEVEL) / max(each.judged.compared, 1), EVERY))
    return f"**{each.name}** cannot be told apart from {baseline} with these runs ({points}); {more}."


def more_runs_text(more: float) -> str:
    """What it takes to show a difference as large as the observed one."""
    if math.isinf(more):
        return "more seeds would not show a difference this small, more photographs might"
    if more > MAX_MORE:
        return f"more than {MAX_MORE:,} more runs of each would be needed to show a difference this small"
    return f"about {_two_digits(more)} more runs of each would show a difference as large as this one"


def _write_timing(study: Study, results: Results, found: Sequence[VariantResult]) -> None:
    """Write `timing.md`, and its picture of the runs that one machine did."""
    folder, shared = results.folder, shared_machine(found)
    if shared:
        rows = {
            each.name: [row for row in each.rows if (row.machine, row.threads) == shared] for each in found
        }
        curves = {
            name: [[epoch["eval_top1"] for epoch in results.history(row.run)] for row in each]
            for name, each in rows.items()
        }
        # the median: a run that was suspended has epochs of an hour
        seconds = {
            name: statistics.median(row.seconds_per_epoch for row in each) for name, each in rows.items()
        }
        where = _machine_text(*shared)
        atomic_write(folder / MINUTES, lambda part: plot_minutes(curves, seconds, study.name, where, part))
    else:
        (folder / MINUTES).unlink(missing_ok=True)
    write_text(folder / TIMING, timing_page(study, found, shared))


def shared_machine(found: Sequence[VariantResult]) -> tuple[str, int] | None:
    """The machine and its number of threads that did most runs, of those that did runs of every variant."""
    used = [[(row.machine, row.threads) for row in each.rows] for each in found]
    shared = set.intersection(*map(set, used))
    return max(sorted(shared), key=lambda each: sum(of.count(each) for of in used), default=None)


def _machine_text(machine: str, threads: int) -> str:
    return f"{machine}; {_count(threads, 'thread')} a run"


def timing_page(study: Study, found: Sequence[VariantResult], shared: tuple[str, int] | None) -> str:
    """The times of a study in Markdown: by variant, machine and number of threads.

    Args:
        study: its options.
        found: its finished runs.
        shared: the machine and the threads of the picture; None without one.
    """
    lines = [
        f"# {study.name}: seconds per epoch",
        "",
        "The median of a run's epochs, training and evaluation; here the median of the runs. Machines of one "
        "name may differ in speed, and in what else they did.",
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
    if shared:
        lines += ["", f"![Eval top-1 over the minutes of training, {_machine_text(*shared)}]({MINUTES})"]
    else:
        lines += ["", "No machine did runs of every variant, so there is no picture of accuracy over time."]
    return "\n".join(lines) + "\n"


def _two_digits(value: float) -> int:
    """Rounded up to two significant digits."""
    unit = 10 ** max(0, math.floor(math.log10(value)) - 1)
    return math.ceil(value / unit) * unit


def _versions(rows: Sequence[Row]) -> str:
    versions = {f"paddle_attn {row.version}{f' at {row.commit}' if row.commit else ''}" for row in rows}
    return "; ".join(sorted(versions))


def _epochs(rows: Sequence[Row]) -> str:
    """Such as '40 epochs', or '10 to 40 epochs' where the runs differ."""
    fewest, most = (end(row.epochs for row in rows) for end in (min, max))
    return _count(most, "epoch") if fewest == most else f"{fewest} to {_count(most, 'epoch')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
