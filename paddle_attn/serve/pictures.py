"""The bytes of an upload as a picture; the pictures that the page offers as examples."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..data.images import (
    MAX_PIXELS,
    ImageError,
    NotAnImage,
    TooManyPixels,
    decode_image,
    find_images,
    in_turn,
    load_image,
)
from ..errors import UserError
from .texts import Refused

THUMBNAIL = 320  # pixels, the longer side
MEGAPIXELS = MAX_PIXELS // 1_000_000


def decode(content: bytes) -> Image.Image:
    """The picture as RGB, decoded as training and prediction do. Raises Refused."""
    if not content:
        raise Refused(400, "empty")
    try:
        return decode_image(io.BytesIO(content), "upload")
    except NotAnImage:
        raise Refused(415, "kind") from None
    except TooManyPixels:
        raise Refused(413, "pixels_many", megapixels=MEGAPIXELS) from None
    except ImageError:
        raise Refused(400, "damaged") from None


@dataclass(frozen=True)
class Example:
    """A picture that the page offers."""

    path: Path
    thumbnail: Image.Image


def find_examples(inputs: Sequence[str], limit: int) -> list[Example]:
    """At most `limit` pictures of files and folders, one of each folder in turn.

    Raises: UserError for an input that does not exist, has no pictures, or is a file that is not one; files
        in a folder that are not pictures are skipped.
    """
    files: list[tuple[Path, bool]] = []  # and whether the file itself is an input
    for item in map(Path, inputs):
        for found in find_images(item):
            if isinstance(found, UserError):
                raise found
            files.append((found, not item.is_dir()))
    examples: list[Example] = []
    for place in in_turn(path.parent for path, _ in files):
        path, is_input = files[place]
        if len(examples) == limit:
            break
        try:
            image = load_image(path)
        except ImageError:
            if is_input:
                raise
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)
        examples.append(Example(path, image))
    return examples
