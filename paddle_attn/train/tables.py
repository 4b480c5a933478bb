"""Dataclasses as the rows of a CSV file, with a column for each field."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_regular

TYPES = {"int": int, "float": float, "str": str}  # of the fields


def to_csv(rows: Sequence[Any], kind: type) -> str:
    """The text of a CSV file of dataclasses of one kind."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [item.name for item in dataclasses.fields(kind)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(map(dataclasses.asdict, rows))
    return text.getvalue()


def read_rows(
    path: Path, kind: type, upgrade: Callable[[Mapping[str, str]], Mapping[str, str]] = dict
) -> Iterator[Any]:
    """The rows of a CSV file as dataclasses; `upgrade` renames the columns of an older version.

    Raises: FileNotFoundError; UserError when a line is damaged.
    """
    types = {item.name: TYPES[item.type] for item in dataclasses.fields(kind)}
    for number, values in read_lines(path):
        try:
            values = upgrade(values)
            yield kind(**{name: convert(values[name]) for name, convert in types.items()})
        except (KeyError, TypeError, ValueError):
            raise UserError(
                f"{path} is damaged at line {number}: expected the columns {', '.join(types)}; "
                "restore the file, or make it again"
            ) from None


def read_lines(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    """The numbers of a CSV file's lines and their values by column. Bytes that are not UTF-8 are replaced.

    Raises: FileNotFoundError; UserError when the file is no CSV.
    """
    text = read_regular(path).decode("utf-8", "replace")
    try:
        yield from enumerate(csv.DictReader(io.StringIO(text, newline="")), 2)
    except csv.Error as error:  # such as a field of over 131,072 characters
        raise UserError(f"{path} is damaged: expected CSV, found {error}; restore the file") from None
