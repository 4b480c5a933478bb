"""Sixteen classes of synthetic images, for a first run without photographs: shapes, textures and strokes.

Colour, size, position, rotation and noise vary, so the average image of a class says little about the class.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDE = 160  # of the image, in pixels
SCALE = 2  # the image is drawn this many times larger and reduced, for smooth edges

Point = tuple[float, float]
Draw = Callable[[ImageDraw.ImageDraw, tuple, random.Random], None]


def write_synthetic(target: Path, per_class: int = 100, seed: int = 0) -> None:
    """Write `<target>/<class>/synthetic_NNNN.png`, `per_class` of each; a seed gives the same images."""
    for name, draw in CLASSES.items():
        folder = target / name
        folder.mkdir(parents=True)
        for index in range(1, per_class + 1):
            rng = random.Random(f"{seed} {name} {index}")
            draw_image(draw, rng).save(folder / f"synthetic_{index:04d}.png", compress_level=1)


def draw_image(draw: Draw, rng: random.Random) -> Image.Image:
    """One image of a class: a figure on a ground of another colour, with a few specks and noise."""
    side = SIDE * SCALE
    ground, figure = _two_colours(rng)
    image = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(image)
    for _ in range(rng.randint(0, 6)):  # specks, in images of every class
        x, y, r = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(2, 7)
        pen.ellipse((x - r, y - r, x + r, y + r), fill=_colour(rng))
    draw(pen, figure, rng)
    image = image.resize((SIDE, SIDE), Image.Resampling.BOX)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(2, 18), (SIDE, SIDE, 3))
    return Image.fromarray((np.asarray(image) + noise).clip(0, 255).astype("uint8"))


def _colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randint(0, 255), rng.randint(0, 255), rng.randint(0, 255)


def _two_colours(rng: random.Random) -> tuple[tuple, tuple]:
    """The colours of ground and figure, of any hue; the figure is clearly lighter."""
    while True:
        ground, figure = _colour(rng), _colour(rng)
        if sum(figure) - sum(ground) > 200:
            return ground, figure


def _place(rng: random.Random, low: float = 0.26, high: float = 0.44) -> tuple[float, float, float, float]:
    """Centre x and y, radius and angle of a figure inside the image."""
    side = SIDE * SCALE
    radius = side * rng.uniform(low, high)
    x, y = (rng.uniform(radius, side - radius) for _ in range(2))
    return x, y, radius, math.radians(rng.uniform(-30, 30))


def _transformed(points: list[Point], place: tuple[float, float, float, float]) -> list[Point]:
    """Points around the origin, scaled, rotated and moved to a place."""
    x, y, radius, angle = place
    cos, sin = math.cos(angle) * radius, math.sin(angle) * radius
    return [(x + px * cos - py * sin, y + px * sin + py * cos) for px, py in points]


def _polygon(radii: list[float]) -> list[Point]:
    count = len(radii)
    return [
        (r * math.cos(2 * math.pi * i / count), r * math.sin(2 * math.pi * i / count))
        for i, r in enumerate(radii)
    ]


def _filled(points: Callable[[random.Random], list[Point]]) -> Draw:
    return lambda pen, fill, rng: pen.polygon(_transformed(points(rng), _place(rng)), fill=fill)


def _stroked(points: Callable[[random.Random], list[Point]]) -> Draw:
    def draw(pen: ImageDraw.ImageDraw, fill: tuple, rng: random.Random) -> None:
        pen.line(
            _transformed(points(rng), _place(rng, 0.32, 0.46)),
            fill=fill,
            width=rng.randint(10, 20),
            joint="curve",
        )

    return draw


def _textured(inside: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Draw:
    """A texture over the whole image: `inside` says where the figure is, from coordinates in periods."""

    def draw(pen: ImageDraw.ImageDraw, fill: tuple, rng: random.Random) -> None:
        side, period, angle = SIDE * SCALE, rng.uniform(40, 76), math.radians(rng.uniform(-30, 30))
        y, x = np.mgrid[0:side, 0:side]
        u = (x * math.cos(angle) + y * math.sin(angle)) / period + rng.random()
        v = (y * math.cos(angle) - x * math.sin(angle)) / period + rng.random()
        pen.bitmap((0, 0), Image.fromarray((inside(u, v) * 255).astype("uint8"), "L"), fill=fill)

    return draw


def _circle(pen: ImageDraw.ImageDraw, fill: tuple, rng: random.Random) -> None:
    x, y, r, _ = _place(rng)
    pen.ellipse((x - r, y - r, x + r, y + r), fill=fill)


def _ring(pen: ImageDraw.ImageDraw, fill: tuple, rng: random.Random) -> None:
    x, y, r, _ = _place(rng)
    pen.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=round(r * rng.uniform(0.15, 0.35)))


def _crescent(rng: random.Random) -> list[Point]:
    bite = rng.uniform(0.35, 0.55)  # the inner arc passes through (bite, 0), the outer arc through (1, 0)
    outer = [(math.cos(t), math.sin(t)) for t in np.linspace(-math.pi / 2, math.pi / 2, 30)]
    return outer + [(bite * math.cos(t), math.sin(t)) for t in np.linspace(math.pi / 2, -math.pi / 2, 30)]


def _heart(rng: random.Random) -> list[Point]:
    angles = np.linspace(0, 2 * math.pi, 60)
    return [
        (
            math.sin(t) ** 3,
            (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in angles
    ]


def _cross(rng: random.Random) -> list[Point]:
    w = rng.uniform(0.18, 0.3)
    return [
        (w, 1),
        (w, w),
        (1, w),
        (1, -w),
        (w, -w),
        (w, -1),
        (-w, -1),
        (-w, -w),
        (-1, -w),
        (-1, w),
        (-w, w),
        (-w, 1),
    ]


def _arrow(rng: random.Random) -> list[Point]:
    w, neck = rng.uniform(0.12, 0.2), rng.uniform(0.0, 0.3)
    return [(1, 0), (neck, 0.7), (neck, w), (-1, w), (-1, -w), (neck, -w), (neck, -0.7)]


def _zigzag(rng: random.Random) -> list[Point]:
    count = rng.randint(5, 8)
    return [(2 * i / count - 1, 0.35 * (-1) ** i) for i in range(count + 1)]


def _wave(rng: random.Random) -> list[Point]:
    periods = rng.uniform(1.5, 2.5)
    return [(t, 0.35 * math.sin(math.pi * periods * t)) for t in np.linspace(-1, 1, 80)]


def _spiral(rng: random.Random) -> list[Point]:
    turns = rng.uniform(2, 3)
    return [
        (t * math.cos(2 * math.pi * turns * t), t * math.sin(2 * math.pi * turns * t))
        for t in np.linspace(0.05, 1, 120)
    ]


CLASSES: dict[str, Draw] = {
    "arrow": _filled(_arrow),
    "checkerboard": _textured(lambda u, v: (np.floor(u) + np.floor(v)) % 2 == 0),
    "circle": _circle,
    "crescent": _filled(_crescent),
    "cross": _filled(_cross),
    "dots": _textured(lambda u, v: (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.08),
    "grid": _textured(lambda u, v: (u % 1 < 0.2) | (v % 1 < 0.2)),
    "heart": _filled(_heart),
    "ring": _ring,
    "spiral": _stroked(_spiral),
    "square": _filled(lambda rng: _polygon([1.0] * 4)),
    "star": _filled(lambda rng: _polygon([1.0, rng.uniform(0.35, 0.45)] * 5)),
    "stripes": _textured(lambda u, v: u % 1 < 0.5),
    "triangle": _filled(lambda rng: _polygon([1.0] * 3)),
    "wave": _stroked(_wave),
    "zigzag": _stroked(_zigzag),
}
