"""The page about an evaluation, `report.html`, its pictures, and `report.json` with the values on it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from .. import ops
from ..config import Config
from ..data.base import ImageDataset
from ..errors import UserError
from ..files import atomic_write, write_text
from ..plotting.mark import RECORD, check_replaceable
from ..plotting.page import (
    Markup,
    bar,
    markup,
    paragraph,
    picture,
    plot,
    section,
    table,
    tile,
    tiles,
    write_page,
)
from ..train import Evaluation
from ..train.evaluate import evaluation_title, load_for_evaluation
from .calibration import Calibration, calibration, cross_fitted_temperatures
from .corruptions import CorruptedTop1, corrupted_top1
from .figures import Tile, plot_classes, plot_corruptions, plot_reliability, plot_tiles

REPORT = "report.html"
VALUES = "report.json"
PICTURES = ("per_class", "confident_errors", "confused_pairs", "calibration", "corruptions", "mosaic")
MAX_TILES = 24  # of a picture
MAX_PAIRS, IMAGES_PER_PAIR = 6, 6  # confused classes
THUMBNAIL = 192  # pixels
MIN_CALIBRATED = 4  # images: two in each half


def diagnose(config: Config, weights: str | Path, evaluation: Evaluation, corruptions: bool = False) -> Path:
    """Write `report.html`, `report.json` and the pictures beside `metrics.json`.

    Args:
        config: of the evaluation.
        weights: that were evaluated.
        evaluation: from `evaluate_config`.
        corruptions: evaluate the images with small corruptions too, which takes about twelve times as long.

    Returns: the path of the page.

    Raises: UserError when a file of these names was not written by this package.
    """
    folder, title = Path(config.train.output), evaluation_title(config)
    pictures = [folder / f"{name}.png" for name in PICTURES]
    check_replaceable(folder / REPORT, folder / VALUES, *pictures)
    predictions = evaluation.predictions
    labels, logits = predictions.labels, predictions.logits
    writer = _Writer(evaluation, title, folder)
    parts = [writer.headline(Path(weights).name), writer.classes()]
    parts += [writer.confident_errors(), writer.confused_pairs()]
    values = RECORD | evaluation.values()
    if not np.isfinite(logits).all():
        text = "The network's outputs are not all finite, so its probabilities mean nothing."
        parts.append(section("Calibration", paragraph(text, kind="warning")))
    elif len(labels) >= MIN_CALIBRATED:
        temperatures, fitted = cross_fitted_temperatures(logits, labels)
        before, after = calibration(logits, labels), calibration(logits, labels, temperatures)
        parts.append(writer.calibration(before, after, fitted))
        values["temperatures"] = list(fitted)
        for name, result in (("before", before), ("after", after)):
            numbers = ("error", "by_chance", "loss", "confidence", "accuracy")
            values[f"calibration_{name}"] = {number: getattr(result, number) for number in numbers}
    if corruptions:
        network, loader = load_for_evaluation(config, weights)
        with ops.using(config.train.ops):
            results = corrupted_top1(network, loader.dataset, config.train.batch_size)
        parts.append(writer.corruptions(results))
        values["corruptions"] = [result._asdict() for result in results]
    parts.append(writer.mosaic())
    for stale in {*pictures} - {*writer.written}:  # of an earlier report
        stale.unlink(missing_ok=True)
    write_page(folder / REPORT, f"Diagnosis of {title}", *parts)
    write_text(folder / VALUES, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    return folder / REPORT


def percent(fraction: float | None, digits: int = 2) -> str:
    return "–" if fraction is None else f"{100 * fraction:.{digits}f} %"


def interval(ends: Sequence[float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def load_thumbnail(dataset: ImageDataset, index: int) -> Image.Image | None:
    """A small copy of an image of a data set; None when it cannot be read any more."""
    try:
        image = dataset.image(index)
    except UserError:
        return None
    image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
    return image


def page_tiles(items: Sequence[Tile]) -> Markup:
    return tiles(
        tile(
            [picture(item.image, item.name)],
            *item.lines,
            Markup(f'<span class="note">{markup(item.name)}</span>'),
        )
        for item in items
    )


class _Writer:
    """Writes the pictures of an evaluation and returns the sections of its page."""

    def __init__(self, evaluation: Evaluation, title: str, folder: Path):
        self.evaluation, self.title, self.folder = evaluation, title, folder
        self.dataset, self.labels = evaluation.predictions.dataset, evaluation.predictions.labels
        self.names = evaluation.predictions.names
        self.probabilities = evaluation.predictions.probabilities
        self.predicted = evaluation.predictions.logits.argmax(1)
        self.right = self.predicted == self.labels
        images = np.arange(len(self.labels))
        self.confidence = self.probabilities[images, self.predicted]
        self.written: list[Path] = []

    def tile(self, index: int) -> Tile:
        """An image with its true class, and the predicted one with its probability."""
        classes = self.evaluation.classes
        mark = "✓" if self.right[index] else "✗"
        found = f"{mark} {100 * self.confidence[index]:.0f} % {classes[self.predicted[index]]}"
        lines = (found,) if self.right[index] else (found, f"is {classes[self.labels[index]]}")
        return Tile(load_thumbnail(self.dataset, index), self.names[index], lines, bool(self.right[index]))

    def save(self, name: str, draw: Callable[..., None], *arguments: object) -> None:
        """Write the picture of a name of `PICTURES`."""
        path = self.folder / f"{name}.png"
        atomic_write(path, lambda part: draw(*arguments, part))
        self.written.append(path)

    def headline(self, weights: str) -> Markup:
        result = self.evaluation
        rows = [("top-1", percent(result.top1), interval(result.top1_interval))]
        if result.has_top5:
            rows.append(("top-5", percent(result.top5), interval(result.top5_interval)))
        rows.append(("loss (mean cross entropy)", f"{result.loss:.4f}", ""))
        note = (
            f"Measured on {result.images:,} eval images of {len(result.classes):,} classes. The 95 % "
            "intervals (Wilson) say how far another choice of as many images could have moved a value."
        )
        chosen = ""
        if weights.startswith("best."):
            chosen = paragraph(
                f"{weights} is from the epoch with the highest top-1 on these same images, so its values "
                "are a little too high.",
                kind="note",
            )
        return section("Accuracy", table(("", "", "95 % interval"), rows), paragraph(note), chosen)

    def classes(self) -> Markup:
        known = [row for row in self.evaluation.by_class() if row["images"]]
        empty = [row["class"] for row in self.evaluation.by_class() if not row["images"]]
        known.sort(key=lambda row: row["f1"])
        self.save("per_class", plot_classes, known, self.title)
        rows = [
            (
                row["class"],
                row["images"],
                bar(row["recall"], interval=row["recall_interval"]),
                percent(row["recall"], 1),
                interval(row["recall_interval"]),
                percent(row["precision"], 1),
                percent(row["f1"], 1),
            )
            for row in known
        ]
        headers = ("class", "images", "", "recall", "95 % interval", "precision", "F1")
        note = paragraph(
            "Lowest F1 first. Recall: of the images of the class, those found. Precision: of the images "
            "predicted as the class, those that are. F1: the harmonic mean of both. The black line is the "
            "interval of the recall.",
            kind="note",
        )
        without = paragraph("No eval images: ", ", ".join(empty), kind="warning") if empty else ""
        return section("Classes", without, table(headers, rows), note)

    def confident_errors(self) -> Markup:
        wrong = np.flatnonzero(~self.right)
        chosen = wrong[np.argsort(-self.confidence[wrong], kind="stable")][:MAX_TILES]
        title = "The most confident errors"
        if not len(chosen):
            return section(title, paragraph("None: every image is right."))
        items = [self.tile(index) for index in chosen]
        self.save("confident_errors", plot_tiles, {"": items}, f"{self.title}: the most confident errors")
        text = paragraph(
            f"{len(wrong):,} images are wrong; these were predicted with the highest probability. Wrong or "
            "ambiguous labels show here first."
        )
        return section(title, text, page_tiles(items))

    def confused_pairs(self) -> Markup:
        title = "The most confused classes"
        pairs = self.evaluation.most_confused()[:MAX_PAIRS]
        if not pairs:
            return section(title, paragraph("None: every image is right."))
        parts, drawn = [], {}
        for pair in pairs:
            places = [self.evaluation.classes.index(pair[key]) for key in ("true", "predicted")]
            images = np.flatnonzero((self.labels == places[0]) & (self.predicted == places[1]))
            items = [self.tile(index) for index in images[:IMAGES_PER_PAIR]]
            heading = f"{pair['true']} taken for {pair['predicted']}: {count(pair['images'], 'image')}"
            drawn[heading] = items
            parts += [paragraph(heading), page_tiles(items)]
        self.save("confused_pairs", plot_tiles, drawn, f"{self.title}: the most confused classes")
        return section(title, *parts)

    def calibration(self, before: Calibration, after: Calibration, fitted: tuple[float, float]) -> Markup:
        halves = " and ".join(f"{value:.2f}" for value in fitted)
        parts = (("before temperature scaling", before), ("after temperature scaling", after))
        self.save("calibration", plot_reliability, parts)
        plots = []
        for name, result in parts:  # one beside the other where there is space
            buffer = _png(plot_reliability, [(name, result)])
            plots.append(plot(buffer, f"reliability diagram {name}"))
        rows = [
            (
                name,
                percent(r.error),
                percent(r.by_chance),
                percent(r.confidence),
                percent(r.accuracy),
                f"{r.loss:.4f}",
            )
            for name, r in parts
        ]
        headers = ("", "expected calibration error", "by chance alone", "mean confidence", "accuracy", "loss")
        gap = before.confidence - before.accuracy
        direction = "too sure" if gap > 0 else "not sure enough"
        if before.error <= 1.5 * before.by_chance:
            text = "The probabilities are credible: the error is near the one that chance alone gives."
        else:
            points = f"{100 * abs(gap):.1f} points"
            text = f"The network is {direction}: its mean confidence is {points} from its accuracy."
        note = (
            f"Temperature scaling divides the logits by one number, here {halves}. The eval images are cut "
            "into two halves; the temperature fitted on one half is judged on the other, both ways, so no "
            "image is judged with a temperature that was fitted on it. The predicted classes do not change. "
            "“By chance alone” is the error that perfectly calibrated probabilities would show on as many "
            "images."
        )
        figures = Markup(f'<div class="plots">{"".join(plots)}</div>')
        return section(
            "Calibration", paragraph(text), table(headers, rows), figures, paragraph(note, kind="note")
        )

    def corruptions(self, results: Sequence[CorruptedTop1]) -> Markup:
        self.save("corruptions", plot_corruptions, self.evaluation.top1, results, self.title)
        picture_ = _png(plot_corruptions, self.evaluation.top1, results, self.title)
        rows = [
            (
                result.corruption,
                f"{result.strength:g}",
                result.unit,
                percent(result.top1),
                interval(result.interval),
                f"{100 * (result.top1 - self.evaluation.top1):+.2f}".replace("-", "−"),
            )
            for result in results
        ]
        headers = ("corruption", "strength", "unit", "top-1", "95 % interval", "change in points")
        note = paragraph(
            "Each corruption is applied to the resized image, as the network sees it.", kind="note"
        )
        return section("Small corruptions", plot(picture_, "top-1 by corruption"), table(headers, rows), note)

    def mosaic(self) -> Markup:
        """As many right as wrong images, evenly spaced over the classes, if there are as many."""
        groups = {"Wrong": np.flatnonzero(~self.right), "Right": np.flatnonzero(self.right)}
        parts = {}
        for name, images in groups.items():
            places = np.linspace(0, len(images) - 1, min(len(images), MAX_TILES // 2)).round().astype(int)
            parts[f"{name}: {count(len(images), 'image')}"] = [self.tile(index) for index in images[places]]
        self.save("mosaic", plot_tiles, parts, f"{self.title}: wrong and right predictions")
        items = [item for part in parts.values() for item in part]
        text = paragraph("Wrong predictions (✗), then right ones (✓), evenly spaced over the eval images.")
        return section("A sample of predictions", text, page_tiles(items))


def _png(draw, *arguments) -> bytes:
    """The bytes of a picture that is drawn into a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "figure.png")
        draw(*arguments, path)
        return path.read_bytes()
