"""One-file HTML pages: text is escaped, pictures are inside, and nothing is loaded from elsewhere.

A page has no script. It is readable on a phone and on a wide screen, without colour, and when printed.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ..errors import escaped
from ..files import write_text
from .mark import PAGE, check_replaceable

TILE = 144  # pixels, the longer side of a picture among others
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light }
body { margin: 0 auto; max-width: 68rem; padding: 1rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.5 system-ui, "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; overflow-wrap: anywhere }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .5rem; border-top: 1px solid #ccc; padding-top: .8rem }
p { max-width: 46rem; margin: .5rem 0; overflow-wrap: anywhere }
.note { color: #555; font-size: .9rem }
.warning { border-left: .3rem solid #d55e00; padding: .3rem .8rem; background: #fdf3ec }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #e4e4e4;
  vertical-align: middle; overflow-wrap: break-word }
td:first-child { min-width: 5.5rem; max-width: 20rem }
td.number, th.number { text-align: right; white-space: nowrap }
.bar { position: relative; width: 9rem; height: .8rem; background: #eee }
.bar i { position: absolute; top: 0; bottom: 0; left: 0; background: #0072b2 }
.bar i + i { background: #e69f00 }
.bar b { position: absolute; top: .32rem; height: .16rem; background: #111 }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: .8rem 0 }
figure { margin: 0; max-width: 100% }
.tiles figure { width: 9rem }
.tiles figure.pair { width: 18.5rem; max-width: 100% }
.tiles img { height: 9rem; width: 9rem; object-fit: contain; background: #f2f2f2; display: block }
.pair div { display: flex; gap: .5rem }
.pair img { flex: 1; min-width: 0 }
figure.plot img { max-width: 100%; height: auto; display: block }
.plots { display: flex; flex-wrap: wrap; gap: 1rem }
figcaption .note { font-size: inherit }
figcaption { font-size: .8rem; line-height: 1.35; overflow-wrap: anywhere; padding-top: .2rem }
.missing { display: grid; place-items: center; height: 9rem; width: 9rem; background: #f2f2f2; color: #555;
  font-size: .8rem; text-align: center }
@media (max-width: 30rem) {
  .tiles figure { width: calc(50% - .4rem) }
  .tiles figure.pair { width: 100% }
  .pair img { height: auto; aspect-ratio: 1 }
  .tiles img, .missing { width: 100% }
  .bar { width: 5rem }
  th, td { padding-right: .5rem }
}
"""


class Markup(str):
    """A text that is HTML already; every other text is escaped."""


def markup(value: object) -> Markup:
    """A value as HTML: escaped, unless it is `Markup`."""
    return value if isinstance(value, Markup) else Markup(html.escape(escaped(str(value))))


def join(parts: Iterable[object], separator: str = "") -> Markup:
    return Markup(separator.join(map(markup, parts)))


def paragraph(*parts: object, kind: str = "") -> Markup:
    """A paragraph; `kind` is '', 'note' or 'warning'."""
    return Markup(f'<p class="{kind}">{join(parts)}</p>\n' if kind else f"<p>{join(parts)}</p>\n")


def section(title: str, *parts: object) -> Markup:
    return Markup(f"<section>\n<h2>{markup(title)}</h2>\n{join(parts)}</section>\n")


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> Markup:
    """A table that scrolls sideways by itself; a column is aligned to the right when its cells are numbers.

    A number is an int, a float, or a text that begins with a digit.
    """
    rows = [list(row) for row in rows]
    numeric = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(headers))]
    kinds = [' class="number"' if number else "" for number in numeric]
    head = "".join(f"<th{kind}>{markup(name)}</th>" for kind, name in zip(kinds, headers, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{markup(cell)}</td>" for kind, cell in zip(kinds, row, strict=True))
        for row in rows
    ]
    body = "".join(f"{line}</tr>\n" for line in lines)
    return Markup(f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}</table></div>\n')


def _is_number(cell: object) -> bool:
    return not isinstance(cell, Markup) and (cell == "–" or str(cell)[:1].isdigit())


def bar(*fractions: float, interval: tuple[float, float] | None = None) -> Markup:
    """A bar of one or more fractions of the whole width, beside each other, and a line for an interval."""
    left, parts = 0.0, ""
    for fraction in fractions:
        parts += f'<i style="left:{100 * left:.1f}%;width:{100 * fraction:.1f}%"></i>'
        left += fraction
    if interval:
        low, high = interval
        parts += f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b>'
    return Markup(f'<div class="bar" aria-hidden="true">{parts}</div>')


def picture(image: Image.Image | None, description: str, side: int = TILE) -> Markup:
    """An image as a small JPEG inside the page, for None a box that says so.

    Args:
        image: RGB.
        description: for readers who do not see it.
        side: the longer side in pixels.
    """
    if image is None:
        return Markup('<div class="missing">cannot be read</div>')
    image = image.copy()
    image.thumbnail((side, side), reducing_gap=2.0)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return _image_element(buffer.getvalue(), "jpeg", description)


def plot(png: bytes, description: str) -> Markup:
    """A figure, as the bytes of a PNG, inside the page."""
    return Markup(f'<figure class="plot">{_image_element(png, "png", description)}</figure>\n')


def _image_element(content: bytes, kind: str, description: str) -> Markup:
    data = base64.b64encode(content).decode()
    return Markup(f'<img alt="{markup(description)}" src="data:image/{kind};base64,{data}">')


def tile(pictures: Sequence[Markup], *lines: object) -> Markup:
    """One picture, or two beside each other, above lines of text; see `tiles`."""
    caption = join(lines, "<br>")
    if len(pictures) == 1:
        return Markup(f"<figure>{pictures[0]}<figcaption>{caption}</figcaption></figure>\n")
    return Markup(
        f'<figure class="pair"><div>{join(pictures)}</div><figcaption>{caption}</figcaption></figure>\n'
    )


def tiles(items: Iterable[Markup]) -> Markup:
    """Pictures of `tile` in as many columns as the window has space for."""
    return Markup(f'<div class="tiles">\n{join(items)}</div>\n')


def write_page(path: Path, title: str, *parts: object) -> None:
    """Write a page with a title and `section`s, `paragraph`s and the like.

    Raises: UserError when the path is a file that is not a page of this package.
    """
    check_replaceable(path)
    head = (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{PAGE}\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{markup(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
    )
    write_text(path, f"{head}<body>\n<h1>{markup(title)}</h1>\n{join(parts)}</body>\n</html>\n")
