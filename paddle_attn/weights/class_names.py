"""The names of the classes that weights were trained on."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors

from ..errors import UserError
from ..files import fits_on_a_line, open_regular


def class_names(weights: str | Path) -> list[str] | None:
    """The names of a weights file's classes, in the network's order; None when no file states them.

    A `.safetensors` file may state them (`save_weights`). Training writes them beside its weights, into
    `classes.txt` and the checkpoint.

    Raises: UserError when `classes.txt` is damaged, or when two of these files differ.
    """
    weights = Path(weights)
    class_list, checkpoint = weights.with_name("classes.txt"), weights.with_name("last.pdstate")
    stated = {
        weights: _from_header(weights, "classes"),
        class_list: _from_text(class_list),
        checkpoint: _from_header(checkpoint, "tree"),
    }
    stated = {path: names for path, names in stated.items() if names is not None}
    if set(stated) <= {checkpoint}:
        return None  # of the run, and these weights may be of another
    (first, expected), *others = stated.items()
    for path, names in others:
        if names != expected:
            raise UserError(
                f"{first} and {path} state different classes: expected the same in the same order, "
                f"found {_text(expected)} and {_text(names)}"
            )
    return expected


def _from_header(path: Path, key: str) -> list[str] | None:
    """The classes in the header of a safetensors file; None when it is missing or damaged."""
    try:
        with open_regular(path), safetensors.safe_open(path, framework="numpy") as file:
            tree = json.loads(file.metadata()[key])
            names = tree["classes"] if isinstance(tree, dict) else tree
    except Exception:  # safetensors raises its own error, and others on damaged headers
        return None
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return names if is_list and names else None


def _from_text(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    classes = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    if not classes or not all(map(fits_on_a_line, classes)):
        raise UserError(f"{path} is damaged: expected the name of a class in each line, as UTF-8")
    return classes


def _text(classes: list[str]) -> str:
    return f"{len(classes)} ({', '.join(classes[:3])}{', …' * (len(classes) > 3)})"
