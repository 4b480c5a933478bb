"""Text of any script in figures: fonts that have the characters, names of a bounded length."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from matplotlib.ft2font import FT2Font

from .mark import PICTURE

# a font that has the characters will do, also in another weight
logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)

MAX_NAME = 30  # characters of a class name
BASE_FONT = "DejaVu Sans"  # comes with matplotlib


def shorten(name: str) -> str:
    """A class name of at most `MAX_NAME` characters."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"


def plain_text(texts: Iterable[str]) -> contextlib.AbstractContextManager[None]:
    """Settings for text in any script: fonts that have its characters, and '$' is no formula."""
    fonts = find_fonts(frozenset("".join(texts)))
    return matplotlib.rc_context({"font.family": [BASE_FONT, *fonts], "text.parse_math": False})


@functools.cache
def find_fonts(characters: frozenset[str]) -> tuple[str, ...]:
    """The families of installed fonts that have the characters which matplotlib's own font lacks.

    Prints a line once per process when no font has them.
    """
    base = FT2Font(font_manager.findfont(BASE_FONT))
    missing = {letter for letter in characters if letter >= " " and not base.get_char_index(ord(letter))}
    families: list[str] = []
    while missing:
        path, found = _best_font(frozenset(missing))
        if not found:
            _say_what_to_install()
            break
        font_manager.fontManager.addfont(path)
        families.append(font_manager.FontProperties(fname=path).get_name())
        missing -= found
    return tuple(families)


@functools.cache
def _say_what_to_install() -> None:
    print(
        "warning: pictures show boxes, because no installed font has all characters of the class names: "
        "install one, such as the package fonts-noto-cjk for Chinese, Japanese and Korean",
        file=sys.stderr,
    )


def _best_font(characters: frozenset[str]) -> tuple[str, set[str]]:
    """The installed font with most of the characters and which it has; if possible regular, sans serif."""
    best, best_rank, best_found = "", (0, False, False), set()
    for path in sorted(font_manager.findSystemFonts()):  # not matplotlib's list, which may be an old one
        try:
            font = FT2Font(path)
            found = {letter for letter in characters if font.get_char_index(ord(letter))}
        except (OSError, RuntimeError):  # a font that FreeType cannot open
            continue
        rank = (len(found), font.style_name in ("Regular", "Book", "Medium"), "Serif" not in font.family_name)
        if "LastResort" not in path and rank > best_rank:  # that font has a box for every character
            best, best_rank, best_found = path, rank, found
    return best, best_found


@contextlib.contextmanager
def missing_glyphs_are_boxes() -> Iterator[None]:
    """Draw a box for a character that no font has, without matplotlib's warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `find_fonts` has said so
        yield


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG with the mark of this package."""
    with missing_glyphs_are_boxes():
        figure.savefig(path, dpi=110, metadata=PICTURE)
