"""From a file to an RGB image, the one way used everywhere: split, training, evaluation, prediction."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from ..errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")


def is_image_name(path: str | os.PathLike) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    path = Path(path)
    return not path.name.startswith(".") and path.suffix.lower() in EXTENSIONS


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and below, sorted; what is hidden is skipped."""
    below = (path for path in folder.rglob("*") if not any(is_clutter(part) for part in path.relative_to(folder).parts))
    return sorted(path for path in below if is_image_name(path) and path.is_file())


def is_clutter(name: str) -> bool:
    """Whether a name is hidden or what an archiver of another system leaves behind."""
    return name.startswith(".") or name == "__MACOSX"


def load_image(path: str | os.PathLike) -> Image.Image:
    """Decode an image file wholly into RGB, turned as its EXIF orientation says.

    Grayscale, palette, RGBA and CMYK become RGB; 16-bit grayscale is scaled to 8; of an animation the first frame is taken.

    Raises: UserError that names the file when it cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
    except OSError as error:  # Pillow's UnidentifiedImageError is one too
        reason = error.strerror or ("it is no image" if "cannot identify" in str(error) else str(error))
        raise UserError(f"cannot decode the image {path}: {reason}") from None
    except Exception as error:  # decoders raise what they like on damaged files
        raise UserError(f"cannot decode the image {path}: {str(error) or type(error).__name__}") from None
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 256).astype("uint8"))
    return image if image.mode == "RGB" else image.convert("RGB")
