"""Write the notebooks, in Chinese and in English, from one source, `aistudio.py`.

    python notebooks/build.py             the texts and the code; outputs stay where the code is the same
    python notebooks/build.py --execute   also run the code, on demo images in AI Studio's layout, and store
                                          what it prints: both notebooks have the same code, so it runs once

`--execute` needs the extra `notebook`: pip install -e '.[notebook]'.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCE = HERE / "aistudio.py"
NOTEBOOKS = {"zh": HERE / "aistudio.ipynb", "en": HERE / "aistudio.en.ipynb"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}
TIMEOUT = 1800  # seconds for a cell: only a hang reaches it


@dataclass(frozen=True)
class Cell:
    """A cell of the source."""

    language: str  # of a text, 'zh' or 'en'; '' for code
    text: str


def read_cells(source: Path = SOURCE) -> list[Cell]:
    """The cells of the source, without the comments above the first one."""
    parts = re.split(r"^# %%(?: \[markdown\] (zh|en))?\n", source.read_text(encoding="utf-8"), flags=re.M)
    cells = []
    for language, text in zip(parts[1::2], parts[2::2], strict=True):
        if language:
            text = re.sub(r"^# ?", "", text, flags=re.M)
        cells.append(Cell(language or "", text.strip()))
    return cells


def make_notebook(cells: list[Cell], language: str, outputs: dict[str, list[dict]]) -> dict:
    """A notebook in one language.

    Args:
        cells: of the source.
        outputs: those of a cell, by its code; a cell without has not run.
    """
    chosen, count = [], 0
    for cell in cells:
        lines = cell.text.splitlines(keepends=True)
        common = {"id": f"cell-{len(chosen) + 1}", "metadata": {}, "source": lines}
        if not cell.language:
            count += 1
            ran = {"execution_count": count if cell.text in outputs else None}
            chosen.append({"cell_type": "code", **common, **ran, "outputs": outputs.get(cell.text, [])})
        elif cell.language == language:
            chosen.append({"cell_type": "markdown", **common})
    return {"cells": chosen, "metadata": METADATA, "nbformat": 4, "nbformat_minor": 5}


def stored_outputs(notebook: Path) -> dict[str, list[dict]]:
    """The outputs of the cells that have run, by their code; none without the notebook."""
    if not notebook.is_file():
        return {}
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return {"".join(cell["source"]): cell["outputs"] for cell in cells if cell.get("execution_count")}


def execute(notebook: dict, folder: Path, **options: object) -> dict[str, list[dict]]:
    """Run a notebook in a folder.

    Args:
        notebook: its cells, as `make_notebook` returns them.
        folder: the working folder of its kernel.
        options: of nbclient's NotebookClient.

    Returns: the outputs of each cell, by its code.

    Raises: CellExecutionError, of nbclient, when a cell fails.
    """
    try:
        import ipykernel  # noqa: F401
        import nbformat
        from nbclient import NotebookClient
    except ModuleNotFoundError as error:
        raise SystemExit(f"error: there is no package {error.name}: pip install -e '.[notebook]'") from None
    node = nbformat.reads(json.dumps(notebook), as_version=4)  # joins the lines of the cells
    options |= {"timeout": TIMEOUT, "coalesce_streams": True}
    NotebookClient(node, resources={"metadata": {"path": str(folder)}}, **options).execute()
    return {cell.source: [*map(stored, cell.outputs)] for cell in node.cells if cell.cell_type == "code"}


def stored(output: dict) -> dict:
    """An output as it is stored: without the numbers that belong to the session that made it."""
    output = json.loads(json.dumps(output))
    output.pop("transient", None)
    if "execution_count" in output:
        output["execution_count"] = None
    return output


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--execute", action="store_true", help="run the code and store what it prints")
    arguments = parser.parse_args()
    cells = read_cells()
    outputs = stored_outputs(NOTEBOOKS["zh"])
    if arguments.execute:
        with tempfile.TemporaryDirectory() as folder:
            for name in ("data", "work"):  # AI Studio's layout
                Path(folder, name).mkdir()
            outputs = execute(make_notebook(cells, "en", {}), Path(folder))
    for language, path in NOTEBOOKS.items():
        text = json.dumps(make_notebook(cells, language, outputs), indent=1, ensure_ascii=False)
        path.write_text(f"{text}\n", encoding="utf-8")
        print(f"wrote {path.relative_to(HERE.parent)}, {path.stat().st_size // 1000} kB")
    not_run = sum(not cell.language and cell.text not in outputs for cell in cells)
    if not_run:
        print(f"{not_run} code cells have no outputs: --execute makes them")


if __name__ == "__main__":
    main()
