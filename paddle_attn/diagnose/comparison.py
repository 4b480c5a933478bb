"""Two runs on the same images: which of them only one gets right, and whether that is chance."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ..data.images import ImageError, load_image
from ..errors import UserError
from ..files import atomic_write, read_regular, write_text
from ..plotting.page import Markup, paragraph, section, table, write_page
from ..train.intervals import NORMAL_95, wilson
from ..train.predictions import COLUMNS, PREDICTIONS
from .figures import Tile, plot_tiles
from .report import THUMBNAIL, interval, page_tiles, percent

LEVEL = 0.05  # of significance
MAX_SHOWN = 24  # images on each side


@dataclass(frozen=True)
class Run:
    """The evaluation of a run."""

    path: Path
    metrics: dict  # of metrics.json
    rows: list[dict[str, str]]  # of eval_predictions.csv

    @property
    def right(self) -> np.ndarray:
        """For each image whether its class was predicted."""
        return np.array([row["true"] == row["predicted"] for row in self.rows])


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
        text = read_regular(folder / PREDICTIONS).decode("utf-8")
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {error.filename}: evaluate the run first, "
            f"with paddle-attn eval --weights {folder / 'best.pdparams'}"
        ) from None
    except ValueError:
        raise UserError(
            f"metrics.json or {PREDICTIONS} in {folder} is damaged: evaluate the run again"
        ) from None
    table = csv.DictReader(io.StringIO(text))
    rows = list(table)
    known = isinstance(metrics, dict) and isinstance(metrics.get("classes"), list) and "top1" in metrics
    if (
        not known
        or tuple(table.fieldnames or ()) != COLUMNS
        or not rows
        or any(None in row.values() for row in rows)
    ):
        raise UserError(f"metrics.json or {PREDICTIONS} in {folder} is damaged: evaluate the run again")
    return Run(folder, metrics, rows)


def _check_same_images(a: Run, b: Run) -> None:
    classes_a, classes_b = ([row["class"] for row in run.metrics["classes"]] for run in (a, b))
    if classes_a != classes_b:
        raise UserError(
            f"{a.path} and {b.path} were evaluated on different classes ({len(classes_a)} and "
            f"{len(classes_b)}): expected the same data set"
        )
    images_a, images_b = ({(r["image"], r["bytes"], r["true"]) for r in run.rows} for run in (a, b))
    different = sorted(images_a ^ images_b)
    if different or [r["image"] for r in a.rows] != [r["image"] for r in b.rows]:
        example = f", such as {different[0][0]}" if different else ", in another order"
        raise UserError(
            f"{a.path} and {b.path} were evaluated on different images ({len(a.rows)} and {len(b.rows)}"
            f"{example}): evaluate both on the same data"
        )


def _write(found: RunComparison, out: Path) -> None:
    a, b = found.a, found.b
    left, right = (_tiles(found, images[:MAX_SHOWN]) for images in (found.only_a, found.only_b))
    title = f"a: {a.path.name}, b: {b.path.name}"
    write_page(
        out / "comparison.html",
        f"Comparison of {a.path.name} (a) and {b.path.name} (b)",
        paragraph(Markup("<b>"), found.verdict, Markup("</b>")),
        _figures(found),
        _side("Images that only b gets right", right, len(found.only_b)),
        _side("Images that only a gets right", left, len(found.only_a)),
    )
    halves = [*right[: MAX_SHOWN // 2], *left[: MAX_SHOWN // 2]]
    caption = f"{title}\n{found.verdict}\nimages that only b gets right (blue), then only a (orange)"
    atomic_write(out / "comparison.png", lambda part: plot_tiles(halves, caption, part))
    figures = {
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
    write_text(out / "comparison.json", json.dumps(figures, indent=2, ensure_ascii=False) + "\n")


def _figures(found: RunComparison) -> Markup:
    a, b, count = found.a, found.b, len(found.a.rows)
    low, high = found.difference_interval

    def row(name: str, values: list[float | None], digits: int = 2) -> tuple:
        return (name, *(percent(value, digits) for value in values))

    def with_interval(hits: float, images: int) -> str:
        return f"{percent(hits)} ({interval(wilson(hits * images, images))})"

    rows = [
        ("top-1", *(with_interval(run.metrics["top1"], count) for run in (a, b))),
        ("top-5", *(with_interval(run.metrics["top5"], count) for run in (a, b))),
        ("loss", *("–" if (x := run.metrics["loss"]) is None else f"{x:.4f}" for run in (a, b))),
        ("right alone", len(found.only_a), len(found.only_b)),
    ]
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
        "Figures",
        paragraph(f"a: {a.path}"),
        paragraph(f"b: {b.path}"),
        table(("", "a", "b"), rows),
        paragraph(text),
        table(("recall of", "a", "b"), recalls),
    )


def _side(title: str, items: list[Tile], count: int) -> Markup:
    more = paragraph(f"The first {len(items)} of {count:,}.") if count > len(items) else ""
    return section(title, page_tiles(items) if items else paragraph("None."), more)


def _tiles(found: RunComparison, images: np.ndarray) -> list[Tile]:
    return [
        Tile(
            _load(found, index),
            row_a["image"],
            (f"is {row_a['true']}", f"a: {row_a['predicted']}", f"b: {row_b['predicted']}"),
            row_b["predicted"] == row_b["true"],
        )
        for index in images
        for row_a, row_b in [(found.a.rows[index], found.b.rows[index])]
    ]


def _load(found: RunComparison, index: int) -> Image.Image | None:
    """The image, where either run read it; None when it is not there any more, or was in an archive."""
    for run in (found.a, found.b):
        if folder := run.metrics.get("folder"):
            try:
                image = load_image(Path(folder, run.rows[index]["image"]))
            except ImageError:
                continue
            image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
            return image
    return None
