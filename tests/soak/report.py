"""docs/reliability.csv and the page that is made from it."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass
from pathlib import Path

from paddle_attn.files import write_text

TITLES = {
    "images": "Images",
    "weights": "Weights, checkpoints and exported models",
    "archives": "Archives",
    "configs": "Configs",
    "kills": "Kills",
}
MEANING = {
    "images": "Each is decoded as the split decodes it and preprocessed. *Taken* ones are images after all; the others are left out by name.\n"
    "Then one split is made of all of them, and an epoch loaded from it.",
    "weights": "Each is read as its kind is read. *Taken* are changed numbers in formats that carry no checksum,\n"
    "and whole files with something before or behind that is not read; the others are refused.",
    "archives": "Each is split over an older split, with `--force`. *Taken* ones made a whole new one; after the others the older one is as it was.",
    "configs": "Each is read, dumped and read again, and its network is built. *Taken* ones are valid; the others are refused in one sentence.",
    "kills": "A training run of TowerNet-SimAM on drawn images, killed by SIGKILL and resumed again and again. *Taken*: killed and resumed;\n"
    "at the end parameters, bit for bit, and history are those of an undisturbed run.",
}


@dataclass(frozen=True)
class Row:
    """How one sort of cases ended. Every case was taken or refused; what crashed, hung or raised is a failure, and no row."""

    kind: str
    what: str
    cases: int
    taken: int
    refused: int
    slowest_s: float
    memory_mb: int  # the most that the reading process held, of its kind, above what it holds at its start


def write(rows: list[Row], out: Path) -> None:
    """Put rows in the place of those of the same kinds, and write the page anew."""
    path = out / "reliability.csv"
    kinds = {row.kind for row in rows}
    rows = [*(row for row in read(path) if row.kind not in kinds), *rows]
    rows.sort(key=lambda row: (list(TITLES).index(row.kind), row.what))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(Row.__annotations__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())
    write_text(out / "reliability.md", page(rows))


def read(path: Path) -> list[Row]:
    if not path.exists():
        return []
    with open(path, encoding="utf-8", newline="") as file:
        return [
            Row(
                r["kind"],
                r["what"],
                *(int(r[k]) for k in ("cases", "taken", "refused")),
                float(r["slowest_s"]),
                int(r["memory_mb"]),
            )
            for r in csv.DictReader(file)
        ]


def page(rows: list[Row]) -> str:
    found = [
        "# Reliability",
        "",
        "What was damaged, odd or hostile, and how it ended, by",
        "",
        "    python tests/soak/hostile.py",
        "    python tests/soak/kills.py --kills 20",
        "",
        "Both draw or write their own material, say at the end what failed, and end with exit code 1 if anything did: a crash, a hang (more",
        "than twenty seconds), an error that is no sentence, anything executed, a file lost or written elsewhere, more than 1 GB of memory.",
        "A tenth of it, and three kills, are in `make test`.",
        "",
    ]
    for kind, title in TITLES.items():
        mine = [row for row in rows if row.kind == kind]
        if not mine:
            continue
        found += [
            f"## {title}",
            "",
            MEANING[kind],
            "",
            "| what | cases | taken | refused | slowest, s |",
            "|---|---|---|---|---|",
        ]
        found += [
            f"| {row.what} | {row.cases} | {row.taken} | {row.refused} | {f'{row.slowest_s:.2f}' if kind != 'kills' else ''} |"
            for row in mine
        ]
        if len(mine) > 1:
            total = [sum(getattr(row, name) for row in mine) for name in ("cases", "taken", "refused")]
            found.append(
                f"| all | {' | '.join(map(str, total))} | {max(row.slowest_s for row in mine):.2f} |"
            )
        if memory := max(row.memory_mb for row in mine):
            found += ["", f"The reading process held at most {memory} MB more than at its start."]
        found.append("")
    return "\n".join(found)
