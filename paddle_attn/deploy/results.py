"""The results of `Predictor.predict` as a table on the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.cells import cell_len, set_cell_size

from ..data.images import list_images
from ..errors import UserError, escaped
from ..files import as_text, same_file, shown, write_text
from .description import exported_files

MAX_LABEL = 30  # columns of the terminal for the best class; a longer name is cut
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet runs a cell that begins so


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """Print for each image its score, best class and path, and below them the other classes.

    On a terminal, a path that is too long continues on the next line after a `/`.
    """
    if not results:
        return
    names = [[escaped(label) for label in result["labels"]] for result in results]
    label_width = min(max([5, *(cell_len(labels[0]) for labels in names)]), MAX_LABEL)
    indent = " " * (len("score") + 2 + label_width + 2)
    # in a file or a pipe, one line per path
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    print(f"score  {set_cell_size('class', label_width)}  image")
    for result, labels in zip(results, names, strict=True):
        score, *scores = result["scores"]
        label, *others = labels
        first, *rest = _break_path(shown(result["path"] or "-"), width - len(indent))
        print(f"{score:.3f}  {set_cell_size(label, label_width)}  {first}")
        for part in rest:
            print(indent + part)
        if others:
            then = ", ".join(f"{label} {score:.3f}" for label, score in zip(others, scores, strict=True))
            wrap = textwrap.TextWrapper(width, indent, indent, break_long_words=False, break_on_hyphens=False)
            print(wrap.fill(f"then {then}"))


def summary(images: int, failures: int, seconds: float) -> str:
    """The line after the results: the number of images, at least 1, and the time of each, with decoding."""
    counts = f"{images:,} image{'s' * (images != 1)}, {failures:,} failure{'s' * (failures != 1)}"
    return f"{counts}, {1000 * seconds / images:.1f} ms an image"


def _break_path(path: str, width: int) -> list[str]:
    """Lines of at most `width` columns, each ending after a `/`; a longer name stays whole."""
    lines = [""]
    for part in path.replace("/", "/\0").split("\0"):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def check_outputs(outputs: Sequence[str | None], inputs: Sequence[str], model_dir: str) -> None:
    """Check the paths of `write_results` before they are written.

    Raises: UserError when one is an image of the inputs, a file of the exported model, or another output.
    """
    paths = [path for path in outputs if path and (os.path.isfile(path) or not os.path.exists(path))]
    if len(paths) == 2 and same_file(*paths):
        raise UserError(f"{paths[0]} is the output of both --csv and --json: expected two files")
    model = [Path(model_dir, name) for name in exported_files(Path(model_dir))]
    for path in filter(os.path.exists, paths):
        if any(same_file(path, file) for file in model):
            raise UserError(f"{path} is a file of the model: choose another output")
        for source in map(Path, inputs):
            images = list_images(source) if source.is_dir() else [source]
            if any(same_file(path, image) for image in images):
                raise UserError(f"{path} is one of the input images: choose another output")


def write_results(results: Sequence[dict[str, Any]], csv_path: str | None, json_path: str | None) -> None:
    """Write CSV (one line per image and class) and JSON (the list itself), each if its path is given.

    Bytes of a path that are not UTF-8 are written as \\xNN. In CSV, an apostrophe precedes a path or a class
    that a spreadsheet would run as a formula.
    """
    results = [result | {"path": result["path"] and as_text(result["path"])} for result in results]
    if csv_path:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "rank", "class_id", "label", "score"])
        for result in results:
            path = _not_a_formula(result["path"] or "")
            for rank, (label, class_id, score) in enumerate(
                zip(result["labels"], result["class_ids"], result["scores"], strict=True), 1
            ):
                writer.writerow([path, rank, class_id, _not_a_formula(label), score])
        write_text(Path(csv_path), text.getvalue())
    if json_path:
        write_text(Path(json_path), json.dumps(results, indent=2, ensure_ascii=False) + "\n")


def _not_a_formula(cell: str) -> str:
    return f"'{cell}" if cell.startswith(FORMULA) else cell
