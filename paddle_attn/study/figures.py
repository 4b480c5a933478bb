"""The pictures of a report: accuracy over epochs and over minutes, differences from the baseline, accuracy
against cost.

The colours are those of Okabe and Ito, which people with any colour vision can tell apart; each variant also
has a marker and a line style of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure  # not pyplot: no global state, no display

from ..plotting.text import plain_text, save

COLOURS = ("#000000", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = "osD^vPX*"
LINES = ("-", "--", "-.", ":")
MAX_TOP1 = 100.5  # the upper end of an axis; error bars may reach beyond 100 %


def style(number: int) -> dict[str, str]:
    """The colour and marker of a variant by its number; the baseline is number 0."""
    return {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}


def plot_study_curves(curves: Mapping[str, Sequence[Sequence[float]]], title: str, path: Path) -> None:
    """Eval top-1 over the epochs: the mean of each variant's runs, and a band of one standard deviation.

    Args:
        curves: for each variant the top-1 of each epoch of each run, as fractions of 1.
        title: of the picture.
        path: the file to write.
    """
    with plain_text([title, *curves]):
        figure = _figure(9, 4.8)
        axes = figure.subplots()
        for number, (variant, runs) in enumerate(curves.items()):
            values = _equal_length(runs)
            _draw_curve(axes, number, variant, np.arange(1, values.shape[1] + 1), values)
        axes.set_xlabel("epoch")
        axes.xaxis.get_major_locator().set_params(integer=True)
        _finish_curves(figure, axes, f"{title}: eval top-1", path)


def plot_minutes(
    curves: Mapping[str, Sequence[Sequence[float]]],
    seconds: Mapping[str, float],
    title: str,
    machine: str,
    path: Path,
) -> None:
    """Eval top-1 over the minutes of training: as `plot_study_curves`, with the time of an epoch.

    Args:
        curves: as in `plot_study_curves`.
        seconds: of an epoch, for each variant.
        title: of the picture.
        machine: that did the runs, and its threads.
        path: the file to write.
    """
    with plain_text([title, machine, *curves]):
        figure = _figure(9, 4.8)
        axes = figure.subplots()
        for number, (variant, runs) in enumerate(curves.items()):
            values = _equal_length(runs)
            minutes = np.arange(1, values.shape[1] + 1) * seconds[variant] / 60
            _draw_curve(axes, number, variant, minutes, values)
        axes.set_xlabel(f"minutes of training, evaluation included, on {machine}")
        axes.set_xlim(left=0)
        _finish_curves(figure, axes, f"{title}: eval top-1 over time", path)


def _equal_length(runs: Sequence[Sequence[float]]) -> np.ndarray:
    """`[runs, epochs]`; a run that stopped early keeps its last value."""
    length = max(map(len, runs))
    return np.array([[*run, *[run[-1]] * (length - len(run))] for run in runs])


def _draw_curve(axes: Axes, number: int, variant: str, x: np.ndarray, values: np.ndarray) -> None:
    """The mean of the runs `[runs, epochs]` and a band of one standard deviation, in percent."""
    mean, spread = 100 * values.mean(0), 100 * _deviation(values)
    axes.plot(
        x,
        mean,
        label=variant,
        linestyle=LINES[number % 4],
        linewidth=1.6,
        **style(number),
        markersize=4,
        markevery=max(1, len(x) // 12),
    )
    low, high = mean - spread, np.minimum(mean + spread, 100)
    axes.fill_between(x, low, high, color=style(number)["color"], alpha=0.13, linewidth=0)


def _finish_curves(figure: Figure, axes: Axes, title: str, path: Path) -> None:
    axes.set_title(f"{title}, mean of the runs ± one standard deviation", fontsize=11)
    axes.set_ylabel("eval top-1 (%)")
    axes.grid(alpha=0.25)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    save(figure, path)


def plot_differences(
    rows: Sequence[tuple[str, float, float, float, str]], baseline: str, title: str, path: Path
) -> None:
    """The paired difference of each variant from the baseline with its 95 % interval, against zero.

    Args:
        rows: for each variant its name, its difference and both ends of the interval, as fractions of 1,
            and the verdict in a word or two.
        baseline: the name of the baseline.
        title: of the picture.
        path: the file to write.
    """
    with plain_text([title, baseline, *(row[0] for row in rows)]):
        figure = _figure(9, 1.7 + 0.5 * max(len(rows), 1))
        axes = figure.subplots()
        axes.axvline(0, color="#555555", linewidth=1, linestyle="--")
        for number, (_, difference, low, high, _) in enumerate(rows, 1):
            ends = [[100 * (difference - low)], [100 * (high - difference)]]
            axes.errorbar([100 * difference], [number], xerr=ends, capsize=4, linewidth=1.8, **style(number))
        labels = [f"{name}\n{verdict}" for name, *_, verdict in rows]
        axes.set_yticks(range(1, len(rows) + 1), labels)
        axes.set_ylim(len(rows) + 0.6, 0.4)
        axes.set_xlabel(f"difference from {baseline} in eval top-1 (percentage points), 95 % interval")
        axes.set_title(f"{title}: difference from {baseline}", fontsize=11)
        axes.grid(alpha=0.25, axis="x")
        save(figure, path)


def plot_pareto(rows: Sequence[tuple[str, float, float, int, int]], title: str, path: Path) -> None:
    """Mean top-1 against multiply-accumulates and against parameters; a line joins those that none dominates.

    Args:
        rows: for each variant its name, mean top-1 and standard deviation (fractions of 1), MACs, parameters.
        title: of the picture.
        path: the file to write.
    """
    with plain_text([title, *(row[0] for row in rows)]):
        figure = _figure(11, 4.8)
        for axes, column, unit, label in zip(
            figure.subplots(1, 2, sharey=True),
            (3, 4),
            (1e6, 1e6),
            ("multiply-accumulates of an image (millions)", "trainable parameters (millions)"),
            strict=True,
        ):
            for number, row in enumerate(rows):
                axes.errorbar(
                    [row[column] / unit],
                    [100 * row[1]],
                    yerr=[100 * row[2]],
                    capsize=3,
                    linewidth=1,
                    label=row[0],
                    linestyle="none",
                    markersize=8,
                    **style(number),
                )
            front = pareto_front([(row[column] / unit, 100 * row[1]) for row in rows])
            axes.plot(*zip(*front, strict=True), color="#555555", linewidth=0.9, linestyle=":", zorder=0)
            axes.set_xlabel(label)
            axes.ticklabel_format(useOffset=False)
            axes.locator_params(axis="x", nbins=5)
            axes.set_ylim(top=min(axes.get_ylim()[1], MAX_TOP1))
            axes.margins(0.12)
            axes.grid(alpha=0.25)
        figure.axes[0].set_ylabel("eval top-1 (%), mean ± one standard deviation")
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside right upper", frameon=False)
        figure.suptitle(
            f"{title}: accuracy against cost; the dotted line joins the best at their cost", fontsize=11
        )
        save(figure, path)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (cost, score) pairs those for which none that costs at most as much scores more, by cost."""
    front: list[tuple[float, float]] = []
    for cost, score in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or score > front[-1][1]:
            front.append((cost, score))
    return front


def _figure(width: float, height: float) -> Figure:
    """A figure in inches with room around its labels."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    return figure


def _deviation(values: np.ndarray) -> np.ndarray:
    """The standard deviation over the runs `[runs, epochs]`; 0 for one run."""
    return values.std(0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
