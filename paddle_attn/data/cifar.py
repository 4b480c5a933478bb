"""CIFAR-10 and CIFAR-100, read by Paddle's own data sets.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import ClassVar

from paddle.vision import datasets
from PIL import Image

from ..errors import UserError
from ..files import checksum
from ..weights import safe_pickle
from .base import DataNotFoundError, ImageDataset
from .transforms import Augment, Preprocess


class Cifar10(ImageDataset):
    """The 32x32 images of CIFAR-10: 50,000 for training, 10,000 for evaluation, ten classes.

    The archive is read from `root`; without one there, Paddle downloads it into its own cache and checks it.

    Args:
        root: the folder that may hold the archive, `cifar-10-python.tar.gz`.
        split: 'train', or 'eval' for the archive's test images.
        preprocess, augment, seed, cache: see ImageDataset.

    Raises: DataNotFoundError when there is no archive and the download fails; UserError when the archive is
    not the official one.
    """

    reader: ClassVar[type] = datasets.Cifar10
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    md5: ClassVar[str] = datasets.cifar.CIFAR10_MD5

    def __init__(
        self,
        root: str | Path,
        split: str,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: int = 0,
    ):
        super().__init__(preprocess, augment, seed, cache)
        path, mode = Path(root, self.archive), "train" if split == "train" else "test"
        if path.exists() and (found := checksum(path, "md5")) != self.md5:  # Paddle unpickles what is in it
            raise UserError(f"{path} is not the official archive: expected the MD5 {self.md5}, found {found}")
        try:
            self._data = self.reader(str(path) if path.exists() else None, mode, backend="pil")
        except RuntimeError as error:
            raise DataNotFoundError(
                f"there is no {path}, and Paddle could not download it ({error}): "
                f"download {self.archive} elsewhere and copy it there"
            ) from None
        self.root = str(Path(self._data.data_file).parent)
        self.classes = self._read_classes(Path(self._data.data_file))

    def _read_classes(self, archive: Path) -> list[str]:
        return ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

    def __len__(self) -> int:
        return len(self._data)

    def image(self, index: int) -> Image.Image:
        pixels = self._data.data[index][0].reshape(3, 32, 32).transpose(1, 2, 0)
        return Image.fromarray(pixels.astype("uint8"))

    def label(self, index: int) -> int:
        return int(self._data.data[index][1])

    def name(self, index: int) -> str:
        return f"{index} of {self.archive}"


class Cifar100(Cifar10):
    """The 32x32 images of CIFAR-100: as CIFAR-10, with a hundred classes, in `cifar-100-python.tar.gz`."""

    reader = datasets.Cifar100
    archive = "cifar-100-python.tar.gz"
    md5 = datasets.cifar.CIFAR100_MD5

    def _read_classes(self, archive: Path) -> list[str]:
        """The names of the fine classes, from the archive's `meta` file when it has one."""
        with tarfile.open(archive) as opened:
            for member in opened:
                if member.isfile() and member.name.endswith("/meta"):
                    meta = safe_pickle.load(io.BytesIO(opened.extractfile(member).read()), {})
                    return meta["fine_label_names"]
        return [f"class_{index:02d}" for index in range(100)]
