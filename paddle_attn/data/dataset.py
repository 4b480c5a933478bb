"""The folders that training reads, and the loader that feeds it."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader, Dataset
from PIL import Image

from ..errors import UserError
from .images import check_class_name, images_below, is_clutter, load_image
from .transforms import Augment, Mix, Preprocess


class SeededImages(Dataset):
    """What every data set here does with an image: cache, augment, normalise; a sample is `(float32 [3, size, size], class index)`.

    A data set says how many it has (`__len__`), and `image(index)`, `label(index)` and `name(index)` of each. Augmentation depends
    on seed, epoch and index alone.

    A sample that cannot be had comes as a black image with the class `-1 - index`, because Paddle's loader hangs for ever when a
    data set raises; `Loader` turns it into the error that names it.
    """

    classes: list[str]

    def prepare(self, preprocess: Preprocess, augment: Augment | None, seed: int, cache: int) -> None:
        """Set what the samples go through; `cache` is in megabytes."""
        self.preprocess = preprocess
        self.augment = augment
        self.seed = seed
        self.epoch = 0
        self._room = cache << 20
        self._cache: dict[int, np.ndarray] = {}

    def image(self, index: int) -> Image.Image:
        """The decoded image, RGB. Raises UserError that names it."""
        raise NotImplementedError

    def label(self, index: int) -> int:
        raise NotImplementedError

    def name(self, index: int) -> str:
        raise NotImplementedError

    def load(self, index: int) -> np.ndarray:
        """Sample `index` as float32 `[3, size, size]`. Raises UserError that names it when it cannot be decoded."""
        if self.augment is None:
            return self.preprocess.normalise(self._pixels(index))
        rng = random.Random(f"{self.seed} {self.epoch} {index}")
        if self.augment.crop_scale is None:
            pixels = self._pixels(index)
        else:
            pixels = self.preprocess.stretch(self.augment.crop(self.image(index), rng))
        return self.preprocess.normalise(np.asarray(self.augment(Image.fromarray(pixels), rng)))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        try:
            return self.load(index), np.int64(self.label(index))
        except Exception:  # whatever it is: raised here, it would hang
            return np.zeros([3, self.preprocess.size, self.preprocess.size], "float32"), np.int64(-1 - index)

    def _pixels(self, index: int) -> np.ndarray:
        pixels = self._cache.get(index)
        if pixels is None:
            pixels = self.preprocess.fit(self.image(index))
            if pixels.nbytes <= self._room:
                self._cache[index] = pixels
                self._room -= pixels.nbytes
        return pixels


class ImageFolder(SeededImages):
    """`root/<class>/**`, each file decoded once for a sample. (Paddle's DatasetFolder follows links round in circles.)

    Args:
        root: the directory of class folders; hidden ones are skipped, an empty one is an error.
        preprocess: what every image goes through.
        augment: random changes before it, for training.
        seed: of the augmentation.
        cache: megabytes of decoded and resized images to keep in memory.

    Raises: UserError when root is missing, has no class folder, or has one without images.
    """

    def __init__(
        self,
        root: str | Path,
        preprocess: Preprocess,
        augment: Augment | None = None,
        seed: int = 0,
        cache: int = 0,
    ):
        root = Path(root)
        if not root.is_dir():
            raise UserError(
                f"there is no data directory {root}: expected class folders of images there, as `python tools/split.py` makes them"
            )
        self.classes = sorted(
            entry.name for entry in root.iterdir() if entry.is_dir() and not is_clutter(entry.name)
        )
        if not self.classes:
            raise UserError(f"{root} has no class folders: expected <class>/<image> there")
        self.samples: list[tuple[str, int]] = []
        for label, name in enumerate(self.classes):
            check_class_name(name, root)
            files = images_below(root / name)
            if not files:
                raise UserError(
                    f"the class folder {root / name} has no images: expected at least one, or no such folder"
                )
            self.samples += [(str(file), label) for file in files]
        self.prepare(preprocess, augment, seed, cache)

    def __len__(self) -> int:
        return len(self.samples)

    def image(self, index: int) -> Image.Image:
        return load_image(self.samples[index][0])

    def label(self, index: int) -> int:
        return self.samples[index][1]

    def name(self, index: int) -> str:
        return self.samples[index][0]


NO_LABEL = -100  # of an image that fills up a share; the loss and the metrics leave it out


class EpochBatches(BatchSampler):
    """The batches of an epoch as lists of indices; of several processes, this one's share of each.

    The order is a permutation drawn from seed and epoch, or the plain one. Every process takes the same number of steps. In a shuffled
    epoch the shares of a step do not overlap, and a rest of fewer images than processes is left out. In a plain one every image comes, and
    the shares of a step are filled up to the same length.
    """

    def __init__(
        self, dataset: SeededImages, batch_size: int, shuffle: bool, seed: int, rank: int, ranks: int
    ):
        super().__init__(dataset=dataset, batch_size=batch_size)
        self.dataset, self.shuffle, self.seed, self.rank, self.ranks = dataset, shuffle, seed, rank, ranks
        self.first_step = 0  # those before it were done before a resume
        whole, rest = divmod(len(dataset), batch_size * ranks)
        self.steps = whole + (rest >= ranks if shuffle else rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        count = len(self.dataset)
        order = (
            np.random.default_rng([self.seed, self.dataset.epoch]).permutation(count)
            if self.shuffle
            else np.arange(count)
        )
        for step in range(self.first_step, self.steps):
            start, length = step * self.batch_size * self.ranks, self.length(step)
            share = order[start : start + length][self.rank :: self.ranks].tolist()
            fill = 0 if self.shuffle else -(-length // self.ranks) - len(share)
            yield share + fill * [int(order[start])]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def length(self, step: int) -> int:
        """The images of a step, of all processes."""
        size = self.batch_size * self.ranks
        return min(size, len(self.dataset) - step * size)

    def own_length(self, step: int) -> int:
        """The images of a step in this process, without those that fill it up."""
        return len(range(self.rank, self.length(step), self.ranks))


def _leave_the_group(worker: int) -> None:
    """Ctrl-C, and SIGTERM of a launcher, reach a group of processes; the one that trains still needs its loaders to end its step."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)


class Loader:
    """Batches `(images [N, 3, size, size], labels [N])` of a data set, through Paddle's DataLoader.

    Args:
        dataset: an ImageFolder or CifarImages.
        batch_size: of each process; the last batch of an epoch may be smaller.
        shuffle: a new order every epoch, from `seed` and the epoch.
        workers: processes; 0 is a thread.
        mix: blends the images of a batch; then batches are `(images, labels, labels of the others, part of the first)`.
        rank, ranks: which process this is, of how many; it gets its share of each step (see `EpochBatches`).
        agree_on: told each step what went wrong here, or '', it answers what went wrong in any process.

    Raises: UserError when there are fewer images than processes; and, while it is iterated, that names the first file that could
    not be decoded.
    """

    def __init__(
        self,
        dataset: SeededImages,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        mix: Mix | None = None,
        rank: int = 0,
        ranks: int = 1,
        agree_on: Callable[[str], str] = str,
    ):
        if len(dataset) < ranks:
            raise UserError(
                f"{len(dataset)} images cannot be shared by {ranks} processes: expected at least one for each"
            )
        self.dataset, self.seed, self.mix, self.agree_on = dataset, seed, mix, agree_on
        self._batches = EpochBatches(dataset, batch_size, shuffle, seed, rank, ranks)
        self._loader = DataLoader(
            dataset, batch_sampler=self._batches, num_workers=workers, worker_init_fn=_leave_the_group
        )
        self.length, self.own_length = self._batches.length, self._batches.own_length

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Say which epoch comes next: the order and the augmentation depend on it. Its steps before `first_step` are left out."""
        self.dataset.epoch = epoch
        self._batches.first_step = first_step

    def __len__(self) -> int:
        """The batches of an epoch, less those that are left out."""
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, ...]]:
        for step, (images, labels) in enumerate(self._loader, self._batches.first_step):
            lowest = int(labels.min())
            if error := self.agree_on(self._error_of(-1 - lowest) if lowest < 0 else ""):
                raise UserError(error)
            if (own := self.own_length(step)) < len(labels):
                labels[own:] = NO_LABEL
            rng = np.random.default_rng([self.seed, self.dataset.epoch, step, self._batches.rank])
            yield self.mix(images, labels, rng) if self.mix else (images, labels)

    def _error_of(self, index: int) -> str:
        """Meet a sample's failure again, here where it can be caught."""
        path = self.dataset.name(index)
        try:
            self.dataset.load(index)
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"the image {path} cannot be used: {str(error) or type(error).__name__}"
        return f"the image {path} could not be read for a moment; please start again"
