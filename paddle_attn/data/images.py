"""Find image files and decode them into RGB, for the split, training, evaluation and prediction alike."""

from __future__ import annotations

import os
import stat
from collections.abc import Hashable, Iterable
from itertools import zip_longest
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import UserError, one_line
from ..files import fits_on_a_line

MAX_PIXELS = 89_478_485  # of an image; Pillow warns above it. Decoding one takes up to 1 GB of memory
# the formats that Pillow may open; it knows others, one of which starts a program
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF", "PPM")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


class ImageError(UserError):
    """An image file that cannot be decoded; `reason` says why, without the file's name."""

    def __init__(self, path: str | os.PathLike, reason: str):
        super().__init__(f"cannot decode the image {path}: {reason}")
        self.reason = one_line(reason)


class NotAnImage(ImageError):
    """A file of another kind, or of a format that this package does not open."""

    def __init__(self, path: str | os.PathLike):
        super().__init__(path, "it is not an image")


class TooManyPixels(ImageError):
    """An image with more than `MAX_PIXELS` pixels. It is not decoded."""

    def __init__(self, path: str | os.PathLike, size: str = "too many"):
        super().__init__(path, f"{size} pixels, expected at most {MAX_PIXELS / 1e6:.0f} million")


def is_image_name(path: str | os.PathLike) -> bool:
    """Whether the name of a file is an image's: a known extension, and not hidden."""
    path = Path(path)
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS


def is_clutter(name: str) -> bool:
    """Whether a name is hidden, or a folder that macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def list_images(folder: Path) -> list[Path]:
    """The files with an image's name in a folder and its subfolders, sorted.

    Skips hidden files and folders, and does not follow links to folders.
    """
    return list_images_and_links(folder)[0]


def list_images_and_links(folder: Path) -> tuple[list[Path], list[Path]]:
    """`list_images`, and the links to folders; following them could lead round in a circle."""
    images, links = [], []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_clutter(name)]
        images += [os.path.join(parent, name) for name in files if is_image_name(name)]
        links += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
    return sorted(map(Path, images)), sorted(map(Path, links))


def find_images(path: Path) -> list[Path | UserError]:
    """The images of an input, a file or a folder searched at any depth; else the error to report."""
    if path.is_dir():
        return list_images(path) or [
            UserError(f"the folder {path} contains no images: expected at least one, at any depth")
        ]
    if path.exists():
        return [path]
    return [UserError(f"{path} does not exist: expected an image or a folder of images")]


def in_turn(keys: Iterable[Hashable]) -> list[int]:
    """The places in a list of keys such as classes: the first of each key, then the second of each key.

    The beginning of the result is a sample that shows all keys.
    """
    places: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return [place for turn in zip_longest(*places.values()) for place in turn if place is not None]


def check_class_name(name: str, folder: Path) -> None:
    """Raises UserError for the name of a class folder that does not fit on a line of a text file."""
    if not fits_on_a_line(name):
        raise UserError(
            f"the class folder {name!r} in {folder} has a line break or another character that is not text: "
            "rename it"
        )


def load_image(path: str | os.PathLike) -> Image.Image:
    """Decode an image file into RGB, rotated by its EXIF orientation.

    Grayscale, palette, RGBA and CMYK become RGB. 16-bit grayscale is scaled to 8 bits. An animation gives its
    first frame.

    Raises: ImageError when the file cannot be decoded, or has more than `MAX_PIXELS` pixels.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would block
            raise ImageError(path, "it is not a regular file")
        with open(path, "rb") as file:
            return decode_image(file, path)
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # a missing file; a null in the path
        raise ImageError(path, getattr(error, "strerror", None) or str(error)) from None


def decode_image(file: IO[bytes], name: str | os.PathLike) -> Image.Image:
    """Decode an open file, or bytes in a `BytesIO`, as `load_image` does; `name` stands in the errors.

    Raises: NotAnImage, TooManyPixels, or ImageError for a damaged file.
    """
    try:
        with Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise TooManyPixels(name, f"{image.width}x{image.height}")
            image.load()
            ImageOps.exif_transpose(image, in_place=True)  # a copy would double the memory
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise NotAnImage(name) from None
    except Image.DecompressionBombError:
        raise TooManyPixels(name) from None
    except Exception as error:  # decoders raise any kind of error for damaged files
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ImageError(name, reason) from None
    return to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as RGB, see `load_image`."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype("uint8"))
    return image if image.mode == "RGB" else image.convert("RGB")
