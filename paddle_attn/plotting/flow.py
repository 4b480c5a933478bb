"""Data-flow drawings: a short description becomes an SVG.

    g = x -> mean over H, W [C] -> linear @fc.0 [C/16] -> ReLU -> linear @fc.2 [C] -> sigmoid
    y = x, g -> × [C, H, W]

A line is a chain of steps behind one input, or behind several that its first step joins; it ends in a name
that later lines take. `x` is the input, the last line the output. `@` names the parameters of a step, and
brackets the shape that it returns, without the batch. A line that begins with an arrow continues the one
before.
"""

from __future__ import annotations

import html
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .mark import DRAWING

STEP = re.compile(r"(?P<text>[^@\[\]]+?)\s*(?:@(?P<layer>[\w.]+))?\s*(?:\[(?P<shape>[^\]]+)\])?")
INPUT = "x"
HEIGHT, PITCH, GAP, MARGIN = 40, 72, 26, 16  # px: of a box, from row to row, between columns, around all
LETTER = 7.4  # px, the mean width of a letter of 13 px
CIRCLE = 15  # px, the radius of a step of one sign, such as ×
APART = 14  # px, between the lines that reach a step from one side
# attributes and no style sheet, which some viewers ignore
TEXT = 'font-family="sans-serif" font-size="13" text-anchor="middle" fill="#111"'
SMALL = 'font-size="11" fill="#444"'
BOX = 'fill="#fff" stroke="#333"'
PARAMETERS = 'fill="#cfe5f5" stroke="#0072b2"'
END = 'fill="#eee" stroke="#333"'
Point = tuple[float, float]
NOTE = "blue: has parameters, under the name below; brackets: the shape without the batch"


@dataclass(frozen=True)
class Step:
    text: str
    layer: str | None = None  # the name of its parameters in the module
    shape: tuple[str, ...] | None = None  # such as ("C/16",); None: as before


@dataclass(frozen=True)
class Chain:
    name: str
    inputs: tuple[str, ...]  # names of earlier chains
    steps: tuple[Step, ...]


def parse(description: str) -> list[Chain]:
    """The chains of a description; the first is the input `x`. Raises UserError for any other line."""
    text = re.sub(r"\s*\n\s*->", " ->", description.strip())
    chains = [Chain(INPUT, (), (Step(INPUT, None, ("C", "H", "W")),))]
    for line in filter(None, map(str.strip, text.splitlines())):
        begin, *steps = (part.strip() for part in line.split("->"))
        name, _, sources = (part.strip() for part in begin.partition("="))
        inputs = tuple(source.strip() for source in sources.split(","))
        matches = [STEP.fullmatch(step) for step in steps]
        known = {chain.name for chain in chains}
        if not name or name in known or not set(inputs) <= known or not all(matches) or not matches:
            raise UserError(f"expected 'name = input, … -> step -> …' with known inputs, found '{line}'")
        chains.append(Chain(name, inputs, tuple(map(_step, matches))))
    return chains


def _step(match: re.Match) -> Step:
    shape = match["shape"] and tuple(side.strip() for side in match["shape"].split(","))
    return Step(match["text"], match["layer"], shape)


@dataclass(frozen=True)
class Places:
    """Where the chains are: by name the row of the first step, of the last one, and the column."""

    first: dict[str, int]
    last: dict[str, int]
    column: dict[str, int]


def _place(chains: Sequence[Chain]) -> Places:
    """Rows by the longest path; the leftmost free columns. A row moves down when a line would cross a box."""
    delay = {chain.name: 0 for chain in chains}
    while True:
        first, last = _rows(chains, delay)
        places = Places(first, last, _columns(chains, first, last))
        blocked = next((chain.name for chain in chains if _is_blocked(chain, chains, places)), None)
        if blocked is None:
            return places
        delay[blocked] += 1


def _rows(chains: Sequence[Chain], delay: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for chain in chains:
        first[chain.name] = max((last[name] + 1 for name in chain.inputs), default=0) + delay[chain.name]
        last[chain.name] = first[chain.name] + len(chain.steps) - 1
    return first, last


def _columns(chains: Sequence[Chain], first: dict[str, int], last: dict[str, int]) -> dict[str, int]:
    column: dict[str, int] = {}
    taken: dict[str, range] = {}  # the rows of a chain's column with its boxes and lines
    for chain in chains:
        used = max((first[other.name] for other in chains if chain.name in other.inputs), default=0)
        top = min((last[name] + 1 for name in chain.inputs[:1]), default=0)
        if len(chain.inputs) > 1:
            top = first[chain.name]
        rows = range(top, max(last[chain.name], used) + 1)

        source = chain.inputs[0] if chain.inputs else ""
        joined = [other for other in chains if len(other.inputs) > 1 and source in other.inputs]
        follows = all(first[other.name] < rows.start for other in joined if other is not chain)

        def free(number: int, rows: range = rows, source: str = source, follows: bool = follows) -> bool:
            """Whether the column has no box and no line in these rows, except the line into this chain."""
            for other, theirs in taken.items():
                below = theirs.stop - 1 if follows and other == source else theirs.stop
                if column[other] == number and rows.start < below and theirs.start < rows.stop:
                    return False
            return True

        number = column[chain.inputs[0]] if chain.inputs else 0
        while not free(number):
            number += 1
        column[chain.name], taken[chain.name] = number, rows
    return column


def _is_blocked(chain: Chain, chains: Sequence[Chain], places: Places) -> bool:
    """Whether a horizontal line into a chain's first step would cross a box."""
    if len(chain.inputs) < 2:
        return False
    row, own = places.first[chain.name], places.column[chain.name]
    boxes = {
        places.column[other.name]
        for other in chains
        if places.first[other.name] <= row <= places.last[other.name]
    }
    for name in chain.inputs:
        left, right = sorted((places.column[name], own))
        if boxes & set(range(left + 1, right)):
            return True
    return False


def draw(title: str, description: str) -> str:
    """The drawing of a description as an SVG. Raises UserError: see `parse`."""
    chains = parse(description)
    places = _place(chains)
    count = max(places.column.values()) + 1
    widths = [_width(chains, places, number) for number in range(count)]
    centres = [MARGIN + sum(widths[:number]) + GAP * number + widths[number] / 2 for number in range(count)]
    top = 2 * MARGIN + 10
    boxes: list[str] = []
    lines: list[str] = []
    leaving: dict[str, list[list[Point]]] = {chain.name: [] for chain in chains}

    def middle(row: int) -> float:
        return top + row * PITCH + HEIGHT / 2

    def half(step: Step) -> tuple[float, float]:
        """Half the width and the height of a step."""
        return (CIRCLE, CIRCLE) if len(step.text) == 1 and step.text != INPUT else (0.0, HEIGHT / 2)

    by_name = {chain.name: chain for chain in chains}
    for chain in chains:
        own, row = places.column[chain.name], places.first[chain.name]
        for name in chain.inputs:
            other, end = places.column[name], places.last[name]
            start = middle(end) + half(by_name[name].steps[-1])[1]
            arrive = middle(row) - half(chain.steps[0])[1]
            if other == own:
                points = [(centres[own], start), (centres[own], arrive)]
            elif len(chain.inputs) == 1:
                turn = middle(end) + HEIGHT / 2 + 6 + (PITCH - HEIGHT - 12) * other / count
                points = [(centres[other], start), (centres[other], turn)]
                points += [(centres[own], turn), (centres[own], arrive)]
            else:
                radius, off = half(chain.steps[0])[0], _offset(chain, name, places)
                reach = math.sqrt(radius**2 - off**2) if radius else widths[own] / 2
                side, y = centres[own] + (reach if other > own else -reach), middle(row) + off
                points = [(centres[other], start), (centres[other], y), (side, y)]
            lines.append(_line(points))
            leaving[name].append(points)
        for offset, step in enumerate(chain.steps):
            if offset:
                above = middle(row + offset - 1) + half(chain.steps[offset - 1])[1]
                below = middle(row + offset) - half(step)[1]
                lines.append(_line([(centres[own], above), (centres[own], below)]))
            is_end = chain.name == INPUT
            boxes.append(_box(step, centres[own], middle(row + offset), widths[own], is_end))
    forks = {_fork(*pair) for others in leaving.values() for pair in itertools.combinations(others, 2)}
    lines += [f'<circle cx="{x:g}" cy="{y:g}" r="2.5" fill="#333"/>' for x, y in sorted(forks)]
    output = chains[-1]
    x, bottom = centres[places.column[output.name]], middle(places.last[output.name])
    tail = bottom + half(output.steps[-1])[1]
    lines.append(_line([(x, tail), (x, bottom + PITCH - HEIGHT / 2)]))
    boxes.append(f'<text x="{x:g}" y="{bottom + PITCH - 4:g}">y</text>')
    width = max(centres[-1] + widths[-1] / 2 + MARGIN, 2 * MARGIN + 6.0 * len(NOTE))
    height = bottom + PITCH + 2 * MARGIN + 6
    label = html.escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img" aria-label="{label}: data flow">\n{DRAWING}\n'
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>\n<g {TEXT}>\n'
        f'<text x="{MARGIN}" y="{MARGIN + 10}" font-size="15" text-anchor="start">{label}</text>\n'
        + "\n".join([*lines, *boxes])
        + f'\n<text x="{MARGIN}" y="{height - 10:g}" text-anchor="start" {SMALL}>{NOTE}</text>\n'
        "</g>\n</svg>\n"
    )


def _offset(chain: Chain, source: str, places: Places) -> float:
    """How far below its middle a line reaches a chain's first step: the nearest line is on top."""
    own, column = places.column[chain.name], places.column[source]
    beside = [
        places.column[name] for name in chain.inputs if (places.column[name] - own) * (column - own) > 0
    ]
    rank = sorted(beside, key=lambda other: abs(other - own)).index(column)
    return APART * (rank - (len(beside) - 1) / 2)


def _fork(one: Sequence[Point], other: Sequence[Point]) -> Point:
    """Where two lines part that begin at one point and first go down."""
    for (start, first), second in zip(itertools.pairwise(one), other[1:], strict=False):
        ends = sorted((first, second), key=lambda end: math.dist(start, end))
        on_the_way = math.isclose(math.dist(start, ends[0]) + math.dist(*ends), math.dist(start, ends[1]))
        if not on_the_way:
            return start
        if first != second:
            return ends[0]
    return one[-1]


def _width(chains: Sequence[Chain], places: Places, column: int) -> float:
    """Of the widest box in a column."""
    steps = [step for chain in chains if places.column[chain.name] == column for step in chain.steps]
    letters = max((max(len(step.text), len(_second_line(step)) * 0.87) for step in steps), default=0)
    return max(60.0, round(letters * LETTER) + 20.0)


def _second_line(step: Step) -> str:
    shape = f"[{', '.join(step.shape)}]" if step.shape else ""
    return "  ".join(filter(None, (step.layer, shape)))


def _box(step: Step, x: float, y: float, width: float, is_end: bool) -> str:
    first, second = html.escape(step.text), html.escape(_second_line(step))
    style = END if is_end else PARAMETERS if step.layer else BOX
    if len(step.text) == 1 and not is_end:
        shape = f'<circle cx="{x:g}" cy="{y:g}" r="{CIRCLE}" {style}/>'
        place = f'x="{x + CIRCLE + 3:g}" y="{y + CIRCLE + 6:g}" text-anchor="start"'
    else:
        shape = (
            f'<rect x="{x - width / 2:g}" y="{y - HEIGHT / 2:g}" width="{width:g}" height="{HEIGHT}" rx="5" '
            f"{style}/>"
        )
        place = f'x="{x:g}" y="{y + 13:g}"'
        y -= 8 if second else 0
    text = f'<text x="{x:g}" y="{y + 5:g}">{first}</text>'
    return shape + text + (f"<text {place} {SMALL}>{second}</text>" if second else "")


def _line(points: Sequence[Point]) -> str:
    """A line through the points with an arrowhead at the last."""
    (x0, y0), (x, y) = points[-2:]
    length = max(abs(x - x0), abs(y - y0)) or 1.0
    dx, dy = (x - x0) / length, (y - y0) / length
    head = [
        (x, y),
        (x - 7 * dx - 3.5 * dy, y - 7 * dy - 3.5 * dx),
        (x - 7 * dx + 3.5 * dy, y - 7 * dy + 3.5 * dx),
    ]
    path, triangle = (" ".join(f"{a:g},{b:g}" for a, b in each) for each in (points, head))
    return f'<polyline points="{path}" fill="none" stroke="#333"/><polygon points="{triangle}" fill="#333"/>'
