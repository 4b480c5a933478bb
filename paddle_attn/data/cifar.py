"""CIFAR-10 and CIFAR-100 by Paddle's own data sets.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from paddle.vision.datasets import Cifar10, Cifar100, cifar
from PIL import Image

from ..errors import UserError
from ..files import checksum
from ..weights import safe_pickle
from .dataset import SeededImages
from .transforms import Augment, Preprocess

ARCHIVES = {  # the reader, the archive and its md5, as Paddle pins it
    "cifar10": (Cifar10, "cifar-10-python.tar.gz", cifar.CIFAR10_MD5),
    "cifar100": (Cifar100, "cifar-100-python.tar.gz", cifar.CIFAR100_MD5),
}
CIFAR10_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


class CifarImages(SeededImages):
    """The 32x32 images of CIFAR's archive: the one in `root` where there is one, else Paddle fetches it once, with its checksum.

    Args:
        dataset: 'cifar10' or 'cifar100'.
        root: where `cifar-10-python.tar.gz` or `cifar-100-python.tar.gz` may lie.
        part: 'train' or 'eval' (the archive's test images).
        preprocess, augment, seed, cache: as of ImageFolder.

    Raises: UserError when the archive can be neither found nor fetched, or is not the official one.
    """

    def __init__(
        self,
        dataset: str,
        root: str | Path,
        part: str,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: int = 0,
    ):
        reader, name, md5 = ARCHIVES[dataset]
        archive = Path(root) / name
        if (
            archive.exists() and (found := checksum(archive, "md5")) != md5
        ):  # Paddle unpickles it: only the official one is opened
            raise UserError(f"{archive} is not the official archive: MD5 {md5} expected, {found} found")
        mode = "train" if part == "train" else "test"
        try:
            self._archive = reader(
                data_file=str(archive) if archive.exists() else None, mode=mode, backend="pil"
            )
        except RuntimeError as error:
            raise UserError(
                f"there is no {archive} and Paddle could not fetch it ({error}): download {name} elsewhere and put it there"
            ) from None
        self.classes = (
            CIFAR10_CLASSES if dataset == "cifar10" else _fine_labels(Path(self._archive.data_file))
        )
        self._dataset = dataset
        self.prepare(preprocess, augment, seed, cache)

    def __len__(self) -> int:
        return len(self._archive)

    def image(self, index: int) -> Image.Image:
        return Image.fromarray(
            self._archive.data[index][0].reshape(3, 32, 32).transpose(1, 2, 0).astype("uint8")
        )

    def label(self, index: int) -> int:
        return int(self._archive.data[index][1])

    def name(self, index: int) -> str:
        return f"{self._dataset} image {index}"


def _fine_labels(archive: Path) -> list[str]:
    """The names of CIFAR-100's classes, which stand in the archive's `meta`."""
    with tarfile.open(archive) as opened:
        for member in opened:
            if member.isfile() and member.name.endswith("/meta"):
                return safe_pickle.load(io.BytesIO(opened.extractfile(member).read()), {})["fine_label_names"]
    return [f"class_{index:02d}" for index in range(100)]
