"""The pictures: images beside their maps, gates, curves. One colour map, safe for colour-blind readers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..plotting.text import plain_text, save
from .faithfulness import Curves, Randomisation
from .gates import Gate
from .overlay import COLOURS, OPACITY, PALE, limits_of, pale_grey, tile_masks

# the colours of a map over a middle grey, for the colour bar
OVERLAY = ListedColormap(OPACITY * COLOURS(np.linspace(0, 1, 256))[:, :3] + (1 - OPACITY) * sum(PALE) / 2)
LINES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito's safe colours
CELL = 1.9  # inches, a picture's side
MAX_CELLS = 6  # pictures beside each other
SMALL = 8  # points
MAX_LAYER = 20  # characters of a layer's name
MAX_NAME = 26  # characters of an image's name, its end


@dataclass(frozen=True)
class Overlay:
    """A column of maps over their images.

    Attributes:
        title: of the column.
        images: uint8 `[N, H, W, 3]`, as the network sees them.
        maps: `[N, h, w]`; each is enlarged to its image.
        captions: of each cell.
        limits: the values at the ends of the colours.
        label: of the colour bar.
    """

    title: str
    images: np.ndarray
    maps: np.ndarray
    captions: Sequence[str]
    limits: tuple[float, float] = (0.0, 1.0)
    label: str = "relative to the map's largest value"
    colours: ClassVar[Colormap] = OVERLAY

    def draw(self, axes: Axes, index: int) -> None:
        image = self.images[index]
        height, width = image.shape[:2]
        extent = (-0.5, width - 0.5, height - 0.5, -0.5)
        axes.imshow(pale_grey(image), cmap="gray", vmin=0, vmax=1, extent=extent)
        low, high = self.limits
        axes.imshow(
            self.maps[index],
            cmap=COLOURS,
            vmin=low,
            vmax=high,
            alpha=OPACITY,
            extent=extent,
            interpolation="bilinear",
        )


@dataclass(frozen=True)
class Masks:
    """A column of many small maps for each image, one for each group of channels."""

    title: str
    masks: np.ndarray  # [N, M, h, w]
    captions: Sequence[str]
    limits: tuple[float, float]
    label: str = "gate"
    colours: ClassVar[Colormap] = COLOURS

    def draw(self, axes: Axes, index: int) -> None:
        sheet = tile_masks(self.masks[index])
        axes.imshow(sheet, cmap=COLOURS, vmin=self.limits[0], vmax=self.limits[1], interpolation="nearest")


@dataclass(frozen=True)
class Bars:
    """A column of bars, the weight of each channel."""

    title: str
    weights: np.ndarray  # [N, C]
    captions: Sequence[str]
    limits: None = field(default=None, init=False)

    def draw(self, axes: Axes, index: int) -> None:
        weights = self.weights[index]
        edges = np.arange(len(weights) + 1) - 0.5
        axes.stairs(weights, edges, fill=True, color=LINES[0])
        axes.axhline(weights.mean(), color=LINES[1], linewidth=0.8)
        axes.set_ylim(0, max(1.0, 1.05 * float(self.weights.max())))
        axes.set_xlim(edges[0], edges[-1])
        axes.set_box_aspect(1)
        axes.set_xlabel("channel", fontsize=SMALL - 1, labelpad=1)
        axes.tick_params(labelsize=SMALL - 2, pad=1)
        axes.set_frame_on(True)


Column = Overlay | Masks | Bars


def plot_columns(
    images: np.ndarray, names: Sequence[str], columns: Sequence[Column], path: Path, title: str = ""
) -> None:
    """A figure of images and, beside each, its cell of every column; a colour bar below each column.

    Args:
        images: uint8 `[N, H, W, 3]`, as the network sees them.
        names: of the images, such as their files.
        columns: at least one.
        path: the PNG to write.
    """
    names = [name if len(name) <= MAX_NAME else f"…{name[1 - MAX_NAME :]}" for name in names]
    width = 1 + len(columns)
    blocks = max(1, min(MAX_CELLS // width, len(images)))  # of image and columns, beside each other
    rows = -(-len(images) // blocks)
    two_lines = any(column.title for column in columns)
    space = "\n" if two_lines else ""  # so that the images of a row are level
    bars = any(isinstance(column, Bars) for column in columns)  # with ticks and a label below
    texts = [title, *names, *(text for column in columns for text in (column.title, *column.captions))]
    mapped = [column for column in columns if column.limits]
    is_shared = len({(column.limits, column.label, type(column)) for column in mapped}) == 1
    ratios = [CELL] * rows + [0.08] * (bool(mapped) and not is_shared)  # the last row has the colour bars
    height = 0.9 + rows * (CELL + 0.25 + 0.15 * two_lines + 0.2 * bars)
    with plain_text(texts):
        figure = Figure(figsize=(0.3 + blocks * width * CELL, height), layout="constrained")
        figure.get_layout_engine().set(w_pad=0.04, h_pad=0.04)
        grid = figure.subplots(len(ratios), blocks * width, squeeze=False, height_ratios=ratios)
        for axes in grid.flat:
            axes.set_axis_off()
            axes.set_anchor("N")  # the titles of a row are level
        for index, name in enumerate(names):
            row, block = divmod(index, blocks)
            cells = grid[row, block * width : (block + 1) * width]
            cells[0].imshow(images[index])
            cells[0].set_title(f"{name}{space}", fontsize=SMALL)
            for axes, column in zip(cells[1:], columns, strict=True):
                axes.set_axis_on()
                axes.set_frame_on(False)
                if not isinstance(column, Bars):
                    axes.set_xticks([])
                    axes.set_yticks([])
                column.draw(axes, index)
                axes.set_title(f"{column.title}\n{column.captions[index]}".strip(), fontsize=SMALL)
        if is_shared:
            _colour_bar_below(figure, grid, mapped[0])
        elif mapped:
            for place, axes in enumerate(grid[-1]):
                column = columns[place % width - 1] if place % width else None
                if column and column.limits:
                    axes.set_axis_on()
                    bar = figure.colorbar(_mappable(column), cax=axes, orientation="horizontal")
                    _label(bar, column, CELL)
        if title:
            figure.suptitle(title, fontsize=SMALL + 2)
        save(figure, path)


def _colour_bar_below(figure: Figure, grid: np.ndarray, column: Overlay | Masks) -> None:
    """One bar for all columns."""
    inches = CELL * grid.shape[1]
    length = min(inches, 5)
    bar = figure.colorbar(
        _mappable(column),
        ax=list(grid.flat),
        location="bottom",
        aspect=12 * length,
        shrink=length / inches,
        pad=0.02,
    )
    _label(bar, column, length)


def _mappable(column: Overlay | Masks) -> ScalarMappable:
    return ScalarMappable(Normalize(*column.limits), column.colours)


def _label(bar: Colorbar, column: Overlay | Masks, inches: float) -> None:
    bar.set_label(column.label, fontsize=SMALL)
    bar.ax.tick_params(labelsize=SMALL - 1)
    bar.formatter.set_useOffset(False)
    bar.ax.xaxis.set_major_locator(MaxNLocator(max(2, round(inches))))


def gate_columns(images: np.ndarray, gates: Sequence[Gate]) -> list[Column]:
    """The columns of gates: a map, the masks of groups, bars; CBAM has a map and bars."""
    columns: list[Column] = []
    for gate in gates:
        title = gate.layer
        if gate.maps is not None:
            limits = limits_of(gate.maps)
            captions = [_range(values) for values in gate.maps]
            if gate.maps.shape[1] == 1:
                column = Overlay(title, images, gate.maps[:, 0], captions, limits, gate.content)
            else:
                column = Masks(title, gate.maps, captions, limits, gate.content)
            columns.append(column)
        if gate.channels is not None:
            columns.append(Bars(title, gate.channels, [_range(values) for values in gate.channels]))
    return columns


def _range(values: np.ndarray) -> str:
    return f"{values.min():.2f} to {values.max():.2f}, mean {values.mean():.2f}"


# ---- faithfulness


@dataclass(frozen=True)
class Trial:
    """What is known about the maps of one method and one network."""

    title: str
    curves: Curves
    control: Curves  # of random maps
    randomisation: Randomisation


def plot_faithfulness(images: np.ndarray, trials: Sequence[Trial], path: Path) -> None:
    """Deletion and insertion curves, the randomisation check, and the maps of the first image on its way."""
    with plain_text([trial.title for trial in trials]):
        figure = Figure(figsize=(13, 4.6 + 1.9 * len(trials)), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(4.0, 0.4 + 2.0 * len(trials)))
        deletion, insertion, cascade = above.subplots(1, 3)
        for number, (trial, colour) in enumerate(zip(trials, _colours(len(trials)), strict=True)):
            _curve(deletion, trial, "deletion", colour)
            _curve(insertion, trial, "insertion", colour)
            stages = range(len(trial.randomisation.layers))
            cascade.plot(
                stages,
                trial.randomisation.correlations,
                color=colour,
                marker="o",
            )
            cascade.plot(
                stages,
                trial.randomisation.similarities,
                color=colour,
                marker="s",
                linestyle="--",
            )
            _random_networks(cascade, number, trial, colour)
        deletion.set_title("deletion: lower is better", fontsize=10)
        insertion.set_title("insertion: higher is better", fontsize=10)
        for axes, done in ((deletion, "removed"), (insertion, "shown")):
            axes.set_xlabel(f"% of the image {done}, most important first")
            axes.set_ylabel("probability of the class")
            axes.set_ylim(-0.02, 1.02)
        cascade.set_title("similarity to the map of the trained network", fontsize=10)
        layers = [_end(layer) for layer in trials[0].randomisation.layers]
        if any(trial.randomisation.layers != trials[0].randomisation.layers for trial in trials):
            longest = max(len(trial.randomisation.layers) for trial in trials)
            layers = [layers[0], *(f"stage {number}" for number in range(1, longest))]
        cascade.set_xticks(range(len(layers)), layers, rotation=35, ha="right", fontsize=SMALL - 1)
        cascade.set_xlabel("weights randomised from the classifier down to this layer", fontsize=SMALL)
        cascade.axhline(0, color="#999999", linewidth=0.8)
        for axes in (deletion, insertion, cascade):
            axes.grid(alpha=0.25)
        for axes in (deletion, insertion):
            axes.legend(frameon=False, fontsize=SMALL)
        _legend_below_the_lines(cascade)
        _cascades(below, images[0], trials)
        save(figure, path)


def _random_networks(axes: Axes, number: int, trial: Trial, colour: str) -> None:
    """The rank correlations with the maps of networks whose weights are all random, beside the last stage."""
    values = trial.randomisation.random_correlations
    place = len(trial.randomisation.layers) - 0.7 + 0.2 * number
    label = f"rank correlation of {len(values)} random networks, mean {values.mean():.2f}"
    axes.plot([place] * len(values), values, "x", color=colour, label=label)
    axes.plot([place - 0.15, place + 0.15], [values.mean()] * 2, color=colour, linewidth=2)


def _end(name: str) -> str:
    """The end of a name, which fits above a small picture."""
    return name if len(name) <= MAX_LAYER else f"…{name[1 - MAX_LAYER :]}"


def _legend_below_the_lines(axes: Axes) -> None:
    """A legend of the two measures, of any colour, and of the random networks, below what is plotted."""
    measures = [
        Line2D([], [], color="black", marker="o", label="rank correlation"),
        Line2D([], [], color="black", marker="s", linestyle="--", label="SSIM"),
    ]
    handles = [*measures, *axes.get_legend_handles_labels()[0]]
    low, high = axes.get_ylim()
    axes.set_ylim(low - (0.02 + 0.075 * len(handles)) * (high - low), high)
    axes.legend(handles=handles, loc="lower left", frameon=False, fontsize=SMALL)


def _colours(count: int) -> list[str]:
    return [LINES[number % len(LINES)] for number in range(count)]


def _curve(axes: Axes, trial: Trial, kind: str, colour: str) -> None:
    for curves, name, style in ((trial.curves, trial.title, "-"), (trial.control, "random map", ":")):
        area = getattr(curves, f"{kind}_area").mean()
        values = getattr(curves, kind).mean(0)
        axes.plot(100 * curves.fractions, values, style, color=colour, label=f"{name}: area {area:.3f}")


def _cascades(figure: Figure, image: np.ndarray, trials: Sequence[Trial]) -> None:
    """A row of maps of the first image for each trial, from the trained network to a random one."""
    stages = max(len(trial.randomisation.layers) for trial in trials)
    grid = figure.subplots(len(trials), stages, squeeze=False)
    for trial, row in zip(trials, grid, strict=True):
        result = trial.randomisation
        for axes in row:
            axes.set_axis_off()
        for axes, layer, map_ in zip(row, result.layers, result.maps[:, 0], strict=False):
            peak = map_.max()
            Overlay("", image[None], map_[None] / peak if peak > 0 else map_[None], [""]).draw(axes, 0)
            axes.set_title(f"{_end(layer)}\n{'' if peak > 0 else 'no evidence'}", fontsize=SMALL - 1)
    verdicts = [textwrap.fill(f"{trial.title}: {trial.randomisation.verdict}", 150) for trial in trials]
    verdicts.append(
        "the first image's map while the weights are randomised, from the classifier down to a layer:"
    )
    figure.suptitle("\n".join(verdicts), fontsize=9)
