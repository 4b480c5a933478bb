"""docs/reliability.csv, and the page made from it."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle_attn.files import write_text

HEAD = """\
# Reliability

How the tools handle damaged, unusual and malicious files, and runs that are killed. Made by

    python tests/soak/hostile.py
    python tests/soak/kills.py --kills 20

Both create their own data. They list the failures, and exit with code 1 if there are any. A failure is a
crash, a hang (more than 20 seconds of CPU time), an error that is not one sentence, executed code, a lost
file, a file written elsewhere, or more than 1 GB of memory. `make test` runs a tenth of the files and three
kills, `make soak` new random cases.

*Accepted* files were read; *rejected* ones ended in an error of one sentence. The text above each table says
which files should be accepted.
"""
SECTIONS = {
    "images": (
        "Images",
        """\
Each file is decoded as the split does it, then preprocessed. *Accepted* files are readable images; the split
lists and skips the others. At the end, one split is made of all files, and an epoch of it is loaded.""",
    ),
    "weights": (
        "Weights, checkpoints and exported models",
        """\
Each file goes to the reader of its format. Only two kinds are *accepted*: files with changed numbers, in
formats without a checksum, and complete files with extra bytes that the format ignores. A *malicious pickle*
runs code when Python unpickles it. None was executed: each was refused, but for those in front of a complete
PyTorch archive, whose reader skips them.""",
    ),
    "libraries": (
        "Libraries of fused operators",
        """\
Each library is put into an empty cache, and a new process runs an operator. *Accepted* libraries are loaded.
The others would be compiled again; the compiler fails in this test, so the reference form runs.""",
    ),
    "archives": (
        "Archives",
        """\
Each archive is split with `--force`, over an older split. *Accepted* archives replace it with a complete new
split; the others leave it unchanged.""",
    ),
    "configs": (
        "Configs",
        """\
Each config is read, written, and read again, and its network is built. *Accepted* configs are valid.""",
    ),
    "kills": (
        "Kills",
        """\
A training run of TowerNet-SimAM on synthetic images is killed with SIGKILL and resumed, again and again.
*Accepted* means that it resumed. At the end, all parameters (bit for bit) and the history equal those of an
undisturbed run.""",
    ),
}


@dataclass(frozen=True)
class Row:
    """How the cases of one sort ended. A crash, hang or other failure is neither accepted nor rejected."""

    kind: str
    what: str
    cases: int
    accepted: int
    rejected: int
    slowest_s: float
    memory_mb: int  # peak of the reading process above its start, over all cases of the kind


def write(rows: list[Row], out: Path) -> None:
    """Replace the rows of the same kinds in `out/reliability.csv`, and write the page again."""
    path = out / "reliability.csv"
    kinds = {row.kind for row in rows}
    rows = [*(row for row in read(path) if row.kind not in kinds), *rows]
    rows.sort(key=lambda row: (list(SECTIONS).index(row.kind), row.what))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())
    write_text(out / "reliability.md", page(rows))


def read(path: Path) -> list[Row]:
    """The rows of a CSV file; none if it does not exist."""
    if not path.exists():
        return []
    convert = {"str": str, "int": int, "float": float}
    kinds = Row.__annotations__
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Row(**{name: convert[kinds[name]](value) for name, value in row.items()})
            for row in csv.DictReader(file)
        ]


def page(rows: list[Row]) -> str:
    """docs/reliability.md."""
    found = [HEAD]
    for kind, (title, meaning) in SECTIONS.items():
        mine = [row for row in rows if row.kind == kind]
        if not mine:
            continue
        found += [f"## {title}", "", meaning, ""]
        found += ["| what | cases | accepted | rejected | slowest, s |", "|---|---|---|---|---|"]
        for row in mine:
            slowest = "" if kind == "kills" else f"{row.slowest_s:.2f}"
            found.append(f"| {row.what} | {row.cases} | {row.accepted} | {row.rejected} | {slowest} |")
        if len(mine) > 1:
            total = [sum(getattr(row, name) for row in mine) for name in ("cases", "accepted", "rejected")]
            slowest = max(row.slowest_s for row in mine)
            found.append(f"| all | {' | '.join(map(str, total))} | {slowest:.2f} |")
        if memory := max(row.memory_mb for row in mine):
            found += ["", f"The reading process held at most {memory} MB more than at its start."]
        found.append("")
    return "\n".join(found)
