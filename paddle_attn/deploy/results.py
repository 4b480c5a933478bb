"""The results of `Predictor.predict` as a table on the terminal, as CSV and as JSON."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..files import write_text

PIPE_WIDTH = 200  # columns when the output is a file or a pipe: few lines wrap


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """Print a table: one line per image, with its best class and the score, then the other classes."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("image", "class", "score", "then"):
        table.add_column(title, overflow="fold", justify="right" if title == "score" else "left")
    for result in results:
        (label, score), *others = zip(result["labels"], result["scores"], strict=True)
        then = ", ".join(f"{label} {score:.3f}" for label, score in others)
        row = result["path"], label, f"{score:.3f}", then
        table.add_row(*map(Text, row))  # as Text, brackets are not markup
    Console(width=None if sys.stdout.isatty() else PIPE_WIDTH).print(table)


def write_results(results: Sequence[dict[str, Any]], csv_path: str | None, json_path: str | None) -> None:
    """Write CSV (one line per image and class) and JSON (the list itself), each if its path is given."""
    if csv_path:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "rank", "class_id", "label", "score"])
        for result in results:
            classes = zip(result["class_ids"], result["labels"], result["scores"], strict=True)
            writer.writerows([result["path"], rank, *row] for rank, row in enumerate(classes, 1))
        write_text(Path(csv_path), text.getvalue())
    if json_path:
        write_text(Path(json_path), json.dumps(list(results), indent=2, ensure_ascii=False) + "\n")
