"""From a file to an RGB image, the one way used everywhere: split, training, evaluation, prediction."""

from __future__ import annotations

import os
import stat
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError

MAX_PIXELS = 89_478_485  # of an image; Pillow warns of more. Decoding takes at most 1 GB of memory then
KINDS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "TIFF",
    "GIF",
    "PPM",
)  # Pillow has more, and one of them starts a program
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def is_image_name(path: str | os.PathLike) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    path = Path(path)
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS


def list_images(folder: Path) -> list[Path]:
    """What has an image's name in a folder and below, sorted; what is hidden is skipped, and links to folders are not followed."""
    return list_images_and_links(folder)[0]


def list_images_and_links(folder: Path) -> tuple[list[Path], list[Path]]:
    """`list_images`, and the links to folders, which are not followed: they may lead round in a circle."""
    images, links = [], []
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_clutter(name)]
        images += [os.path.join(at, name) for name in files if is_image_name(name)]
        links += [path for name in folders if os.path.islink(path := os.path.join(at, name))]
    return sorted(map(Path, images)), sorted(map(Path, links))


def check_class_name(name: str, folder: Path) -> None:
    """Raises UserError when a class folder's name cannot stand in a list of names, one in a line."""
    if {unicodedata.category(character) for character in name} & {
        "Cc",
        "Zl",
        "Zp",
        "Cs",
    }:  # control, breaks, what is no UTF-8
        raise UserError(
            f"the class folder {name!r} in {folder} has a line break or another character that is no text: rename it"
        )


def is_clutter(name: str) -> bool:
    """Whether a name is hidden or what an archiver of another system leaves behind."""
    return name.startswith(".") or name == "__MACOSX"


def load_image(path: str | os.PathLike) -> Image.Image:
    """Decode an image file wholly into RGB, turned as its EXIF orientation says.

    Grayscale, palette, RGBA and CMYK become RGB; 16-bit grayscale is scaled to 8; of an animation the first frame is taken.

    Raises: UserError that names the file when it cannot be decoded, or would take too much memory (`MAX_PIXELS`).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise UserError(f"cannot decode the image {path}: it is no plain file")
        with Image.open(path, formats=KINDS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UserError(
                    f"cannot decode the image {path}: {image.width}x{image.height} pixels, expected at most {MAX_PIXELS / 1e6:.0f} million"
                )
            image.load()
            image = ImageOps.exif_transpose(image)
    except UserError:
        raise
    except OSError as error:  # Pillow's UnidentifiedImageError is one too
        reason = error.strerror or ("it is no image" if "cannot identify" in str(error) else str(error))
        raise UserError(f"cannot decode the image {path}: {reason}") from None
    except Exception as error:  # decoders raise what they like on damaged files
        raise UserError(f"cannot decode the image {path}: {str(error) or type(error).__name__}") from None
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype("uint8"))
    return image if image.mode == "RGB" else image.convert("RGB")
