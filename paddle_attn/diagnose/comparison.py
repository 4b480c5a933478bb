"""Two runs on the same images: which of them only one gets right, and whether that is chance."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.base import ImageDataset
from ..data.datasets import DATASETS, create_dataset
from ..data.images import ImageError, in_turn, load_image
from ..data.transforms import Preprocess
from ..errors import UserError
from ..files import atomic_write, read_regular, write_text
from ..plotting.mark import RECORD, check_replaceable
from ..plotting.page import Markup, paragraph, section, table, write_page
from ..train.intervals import NORMAL_95, wilson
from ..train.predictions import PREDICTIONS, Prediction, read_predictions
from .figures import Tile, plot_tiles
from .report import THUMBNAIL, interval, load_thumbnail, page_tiles, percent

LEVEL = 0.05  # of significance
MAX_SHOWN = 24  # images on each side
NO_STATISTICS = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # of colours: thumbnails are not normalised


@dataclass(frozen=True)
class Run:
    """The evaluation of a run."""

    path: Path
    metrics: dict  # of metrics.json
    rows: list[Prediction]  # of eval_predictions.csv

    @property
    def right(self) -> np.ndarray:
        """For each image whether its class was predicted."""
        return np.array([row.is_right for row in self.rows])


@dataclass(frozen=True)
class RunComparison:
    """Two runs, a and b, on the same images."""

    a: Run
    b: Run

    @property
    def only_a(self) -> np.ndarray:
        """The images that only run a gets right, as indices."""
        return np.flatnonzero(self.a.right & ~self.b.right)

    @property
    def only_b(self) -> np.ndarray:
        return np.flatnonzero(self.b.right & ~self.a.right)

    @property
    def p(self) -> float:
        """McNemar's exact p-value."""
        return mcnemar(len(self.only_a), len(self.only_b))

    @property
    def difference(self) -> float:
        """The top-1 of b minus that of a, as a fraction of 1."""
        return (len(self.only_b) - len(self.only_a)) / len(self.a.rows)

    @property
    def difference_interval(self) -> tuple[float, float]:
        """The 95 % interval of the difference, adjusted for few images (Agresti and Min, 2005)."""
        only_a, only_b = len(self.only_a) + 0.5, len(self.only_b) + 0.5
        count = len(self.a.rows) + 2
        middle = (only_b - only_a) / count
        margin = NORMAL_95 * math.sqrt(only_a + only_b - (only_b - only_a) ** 2 / count) / count
        return max(-1.0, middle - margin), min(1.0, middle + margin)

    @property
    def verdict(self) -> str:
        """One sentence: better, worse, or cannot be told apart."""
        if self.p >= LEVEL:
            words = "cannot be told apart on these images"
        else:
            words = "is better than run a" if self.difference > 0 else "is worse than run a"
        runs = "the two runs" if self.p >= LEVEL else "run b"
        return f"{runs[0].upper()}{runs[1:]} {words} (McNemar's exact test, p = {self.p:.2g})."


def mcnemar(only_a: int, only_b: int) -> float:
    """The two-sided exact p-value of McNemar's test.

    How probable at least so uneven a division of the images that one run alone gets right would be, if each
    were as likely to fall to either run. McNemar, Psychometrika 1947.
    """
    count, fewer = only_a + only_b, min(only_a, only_b)
    ways = sum(math.comb(count, hits) for hits in range(fewer + 1))
    return min(1.0, 2 * ways / 2**count)


def compare_runs(a: str | Path, b: str | Path, out: str | Path) -> RunComparison:
    """Compare the evaluations of two runs; writes `comparison.html`, `comparison.png` and `comparison.json`.

    Args:
        a, b: folders in which paddle-attn eval wrote `metrics.json` and `eval_predictions.csv`.
        out: the folder to write to.

    Raises: UserError when a run was not evaluated, or they were evaluated on different images or classes.
    """
    found = RunComparison(_read(Path(a)), _read(Path(b)))
    _check_same_images(found.a, found.b)
    _write(found, Path(out))
    return found


def _read(folder: Path) -> Run:
    try:
        metrics = json.loads(read_regular(folder / "metrics.json"))
        rows = read_predictions(folder / PREDICTIONS)
    except FileNotFoundError as error:
        command = f"paddle-attn eval --weights {shlex.quote(str(folder / 'best.pdparams'))}"
        raise UserError(f"there is no {error.filename}: evaluate the run first, with {command}") from None
    except ValueError:
        raise _damaged(folder) from None
    known = isinstance(metrics, dict) and isinstance(metrics.get("classes"), list) and "top1" in metrics
    if not known or not rows:
        raise _damaged(folder)
    return Run(folder, metrics, rows)


def _damaged(folder: Path) -> UserError:
    return UserError(f"metrics.json or {PREDICTIONS} in {folder} is damaged: evaluate the run again")


def _check_same_images(a: Run, b: Run) -> None:
    classes_a, classes_b = ([row["class"] for row in run.metrics["classes"]] for run in (a, b))
    if classes_a != classes_b:
        raise UserError(
            f"{a.path} and {b.path} were evaluated on different classes ({len(classes_a)} and "
            f"{len(classes_b)}): expected the same data set"
        )
    images_a, images_b = ({(row.image, row.bytes, row.true) for row in run.rows} for run in (a, b))
    different = sorted(images_a ^ images_b)
    if different or [row.image for row in a.rows] != [row.image for row in b.rows]:
        example = f", such as {different[0][0]}" if different else ", in another order"
        raise UserError(
            f"{a.path} and {b.path} were evaluated on different images ({len(a.rows)} and {len(b.rows)}"
            f"{example}): evaluate both on the same data"
        )


def _write(found: RunComparison, out: Path) -> None:
    page, picture, record = (out / f"comparison.{kind}" for kind in ("html", "png", "json"))
    check_replaceable(page, picture, record)
    a, b = found.a, found.b
    left, right = (_tiles(found, _spread(found, images)) for images in (found.only_a, found.only_b))
    write_page(
        page,
        f"Comparison of {a.path.name} (a) and {b.path.name} (b)",
        paragraph(Markup("<b>"), found.verdict, Markup("</b>")),
        _values(found),
        _side(right, "b", len(found.only_b)),
        _side(left, "a", len(found.only_a)),
    )
    title = f"a: {a.path.name}, b: {b.path.name}\n{found.verdict}"
    halves = {
        _heading("b", len(found.only_b), MAX_SHOWN // 2): right[: MAX_SHOWN // 2],
        _heading("a", len(found.only_a), MAX_SHOWN // 2): left[: MAX_SHOWN // 2],
    }
    atomic_write(picture, lambda part: plot_tiles(halves, title, part))
    values = RECORD | {
        "a": str(a.path),
        "b": str(b.path),
        "images": len(a.rows),
        "top1": [a.metrics["top1"], b.metrics["top1"]],
        "difference": found.difference,
        "difference_interval": list(found.difference_interval),
        "only_a": len(found.only_a),
        "only_b": len(found.only_b),
        "p": found.p,
        "verdict": found.verdict,
    }
    write_text(record, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _values(found: RunComparison) -> Markup:
    a, b, count = found.a, found.b, len(found.a.rows)
    low, high = found.difference_interval

    def row(name: str, values: list[float | None], digits: int = 2) -> tuple:
        return (name, *(percent(value, digits) for value in values))

    def with_interval(hits: float, images: int) -> str:
        return f"{percent(hits)} ({interval(wilson(hits * images, images))})"

    rows = [
        ("top-1", *(with_interval(run.metrics["top1"], count) for run in (a, b))),
        ("loss", *("–" if (x := run.metrics["loss"]) is None else f"{x:.4f}" for run in (a, b))),
        ("right alone", len(found.only_a), len(found.only_b)),
    ]
    if len(a.metrics["classes"]) > 5:  # otherwise every image is in the top-5
        rows.insert(1, ("top-5", *(with_interval(run.metrics["top5"], count) for run in (a, b))))
    changes = zip(a.metrics["classes"], b.metrics["classes"], strict=True)
    recalls = [row(first["class"], [first["recall"], second["recall"]], 1) for first, second in changes]
    both = int((a.right & b.right).sum())
    neither = count - both - len(found.only_a) - len(found.only_b)
    alone = len(found.only_a) + len(found.only_b)
    text = (
        f"b − a: {100 * found.difference:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f}). "
        f"Of {count:,} images both get {both:,} right and neither {neither:,}; the other {alone:,} decide "
        "the test."
    ).replace("-", "−")
    return section(
        "Values",
        paragraph(f"a: {a.path}"),
        paragraph(f"b: {b.path}"),
        table(("", "a", "b"), rows),
        paragraph(text),
        table(("recall of", "a", "b"), recalls),
    )


def _spread(found: RunComparison, images: np.ndarray) -> list[int]:
    """At most `MAX_SHOWN` of the images, of all classes in turn."""
    return [int(images[place]) for place in in_turn(found.a.rows[index].true for index in images)][:MAX_SHOWN]


def _heading(run: str, count: int, shown: int) -> str:
    which = f"; {shown} of them, of all classes in turn" if count > shown else ""
    return f"Images that only {run} gets right: {count:,}{which}"


def _side(items: list[Tile], run: str, count: int) -> Markup:
    return section(_heading(run, count, MAX_SHOWN), page_tiles(items) if items else paragraph("None."))


def _tiles(found: RunComparison, images: Sequence[int]) -> list[Tile]:
    dataset = _dataset(found) if len(images) else None
    return [
        Tile(
            _load(found, dataset, index),
            row_a.image,
            (f"is {row_a.true}", f"a: {row_a.predicted}", f"b: {row_b.predicted}"),
            row_b.is_right,
        )
        for index in images
        for row_a, row_b in [(found.a.rows[index], found.b.rows[index])]
    ]


def _dataset(found: RunComparison) -> ImageDataset | None:
    """The data set of images that are in an archive, where either run read it; None when they are files."""
    for run in (found.a, found.b):
        name, folder = run.metrics.get("dataset"), run.metrics.get("folder")
        archive = getattr(DATASETS.get(str(name)), "archive", None)
        if archive and folder and Path(folder, archive).is_file():  # otherwise it would be downloaded
            with contextlib.suppress(UserError):
                return create_dataset(name, folder, "eval", Preprocess(THUMBNAIL, "stretch", *NO_STATISTICS))
    return None


def _load(found: RunComparison, dataset: ImageDataset | None, index: int) -> Image.Image | None:
    """The image, from the data set or where either run read it; None when it is not there any more."""
    name = found.a.rows[index].image
    if dataset is not None:
        return load_thumbnail(dataset, index) if dataset.name(index) == name else None
    for run in (found.a, found.b):
        if folder := run.metrics.get("folder"):
            try:
                image = load_image(Path(folder, name))
            except ImageError:
                continue
            image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
            return image
    return None
