"""Folders of images, one folder per class."""

from __future__ import annotations

import shlex
from pathlib import Path

import paddle
from paddle.vision.datasets import DatasetFolder
from PIL import Image

from ..errors import UserError
from .base import DataNotFoundError, ImageDataset
from .images import EXTENSIONS, check_class_name, is_clutter, list_images, load_image
from .transforms import Augment, Preprocess


class ImageFolder(ImageDataset, DatasetFolder):
    """The images `root/<class>/**` as a `paddle.vision.datasets.DatasetFolder`.

    Hidden folders and files are skipped, and so are links to folders inside a class folder.

    Args:
        root: the folder that holds the class folders.
        preprocess, augment, seed, cache: see ImageDataset.

    Attributes:
        classes: the names of the class folders, sorted.
        class_to_idx: the label of each class name.
        samples: `(path, label)` of each image, sorted by class, then by path.
        targets: the label of each image.

    Raises: DataNotFoundError when there is no `root`; UserError when it has no class folders, or an empty
    one.
    """

    def __init__(
        self,
        root: str | Path,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: int = 0,
    ):
        super().__init__(preprocess, augment, seed, cache)
        # DatasetFolder's constructor follows links and enters hidden folders, so its attributes are set here.
        self.root, self.loader, self.extensions, self.transform = str(root), load_image, EXTENSIONS, None
        self.dtype = paddle.get_default_dtype()
        self.classes, self.class_to_idx = self._find_classes(self.root)
        self.samples = [
            (path, label) for name, label in self.class_to_idx.items() for path in self._find_images(name)
        ]
        self.targets = [label for _, label in self.samples]

    @classmethod
    def from_split(
        cls,
        root: str | Path,
        split: str,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: int = 0,
    ) -> ImageFolder:
        """The images of `root/train` or `root/eval`; copies of ImageNet call the latter `root/val`."""
        folder, val = Path(root, split), Path(root, "val")
        if split == "eval" and not folder.exists() and val.exists():
            folder = val
        return cls(folder, preprocess, augment, seed, cache)

    def _find_classes(self, root: str) -> tuple[list[str], dict[str, int]]:
        """The names of the class folders, sorted, and the label of each."""
        folder = Path(root)
        if not folder.is_dir():
            raise DataNotFoundError(
                f"there is no data directory {root}: expected class folders of images in it, "
                f"as `{_command_for(folder)}` makes them"
            )
        classes = sorted(
            entry.name for entry in folder.iterdir() if entry.is_dir() and not is_clutter(entry.name)
        )
        if not classes:
            raise UserError(f"{root} has no class folders: expected <class>/<image> in it")
        for name in classes:
            check_class_name(name, folder)
        return classes, {name: label for label, name in enumerate(classes)}

    def _find_images(self, class_name: str) -> list[str]:
        """The paths of a class's images, sorted."""
        folder = Path(self.root, class_name)
        images = list_images(folder)
        if not images:
            raise UserError(
                f"the class folder {folder} has no images: add at least one, or remove the folder"
            )
        return [str(image) for image in images]

    def image(self, index: int) -> Image.Image:
        return self.loader(self.samples[index][0])

    def label(self, index: int) -> int:
        return self.samples[index][1]

    def name(self, index: int) -> str:
        return self.samples[index][0]


def _command_for(folder: Path) -> str:
    """The command that makes a missing folder of a split."""
    root = folder.parent if folder.name in ("train", "eval") else folder
    if root.name == "caltech101-16":
        return "paddle-attn split"
    source = "demo" if root.name == "demo" else "FOLDER_OR_ARCHIVE"
    return f"paddle-attn split --source {source} --out {shlex.quote(str(root))}"
