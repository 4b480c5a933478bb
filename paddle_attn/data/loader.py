"""Batches: which images each step gets in each process, and the loader that reads them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from multiprocessing.util import register_after_fork

import numpy as np
import paddle
from paddle.io import BatchSampler, DataLoader

from ..errors import UserError
from .base import ImageDataset
from .transforms import Mix


class ShardedBatchSampler(BatchSampler):
    """The batches of an epoch as lists of indices; with several processes, this process's shard of each step.

    A shuffled order depends on the seed and the data set's epoch. Every process takes the same number of
    steps, and the shards of a step do not overlap. With `shuffle`, a last step of fewer images than processes
    is dropped. Without it, every image is used, and the shorter shards of the last step are padded with its
    first image; `shard_length` is the length without the padding.
    """

    def __init__(
        self, dataset: ImageDataset, batch_size: int, shuffle: bool, seed: int, rank: int, world_size: int
    ):
        super().__init__(dataset=dataset, batch_size=batch_size)
        self.dataset, self.shuffle, self.seed = dataset, shuffle, seed
        self.rank, self.world_size = rank, world_size
        self.first_step = 0  # after a resume, the first step that is still to be done
        full_steps, rest = divmod(len(dataset), batch_size * world_size)
        self.steps = full_steps + (rest >= world_size if shuffle else rest > 0)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(len(self.dataset))
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.dataset.epoch]).permutation(len(self.dataset))
        for step in range(self.first_step, self.steps):
            start, length = step * self.batch_size * self.world_size, self.step_length(step)
            shard = order[start : start + length][self.rank :: self.world_size].tolist()
            padding = 0 if self.shuffle else -(-length // self.world_size) - len(shard)
            yield shard + padding * [int(order[start])]

    def __len__(self) -> int:
        return self.steps - self.first_step

    def step_length(self, step: int) -> int:
        """The number of images of a step in all processes together."""
        full = self.batch_size * self.world_size
        return min(full, len(self.dataset) - step * full)

    def shard_length(self, step: int) -> int:
        """The number of images of a step in this process, without the padding."""
        return len(range(self.rank, self.step_length(step), self.world_size))


class Loader:
    """Batches `(images [N, 3, size, size], labels [N])` of a data set, read by Paddle's DataLoader.

    Args:
        dataset: the images.
        batch_size: of each process; the last batch of an epoch may be smaller.
        shuffle: a new order every epoch, from `seed` and the epoch.
        seed: of the order and of `mix`.
        workers: the number of loading processes; 0 loads in a thread.
        mix: blends the images of a batch; batches are then `(images, labels, other labels, lam)`, see Mix.
        rank, world_size: this process's number and the number of processes; each gets its shard of a step.
        first_error: called at every step with this process's error or ''; returns the error of any process or
            '', so that all processes stop at the same step.

    Raises: UserError when there are fewer images than processes; while iterating, UserError with the name of
    an image that cannot be loaded.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
        workers: int = 0,
        mix: Mix | None = None,
        rank: int = 0,
        world_size: int = 1,
        first_error: Callable[[str], str] = str,
    ):
        if len(dataset) < world_size:
            raise UserError(
                f"{len(dataset)} images cannot be divided among {world_size} processes: "
                "expected at least one for each"
            )
        self.dataset, self.seed, self.mix, self._first_error = dataset, seed, mix, first_error
        self._sampler = ShardedBatchSampler(dataset, batch_size, shuffle, seed, rank, world_size)
        self._loader = DataLoader(dataset, batch_sampler=self._sampler, num_workers=workers)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Choose the next epoch, on which order and augmentation depend, and the step that it starts with.

        Raises: UserError when the epoch has no such step, as the data has fewer images than before a resume.
        """
        steps = self._sampler.steps
        if first_step >= steps:
            raise UserError(
                f"cannot continue after step {first_step} of an epoch: expected a longer epoch, found "
                f"{len(self.dataset)} images, which make {steps} steps; restore the images that are missing"
            )
        self.dataset.epoch = epoch
        self._sampler.first_step = first_step

    def __len__(self) -> int:
        """The number of batches that the next epoch yields, from its first step on."""
        return len(self._sampler)

    def step_length(self, step: int) -> int:
        """The number of images of a step in all processes together."""
        return self._sampler.step_length(step)

    def shard_length(self, step: int) -> int:
        """The number of images of a step in this process, without the padding."""
        return self._sampler.shard_length(step)

    def __iter__(self) -> Iterator[tuple[paddle.Tensor, ...]]:
        for step, (images, labels) in enumerate(self._batches(), self._sampler.first_step):
            lowest = int(labels.min())
            if error := self._first_error(self._find_error(-1 - lowest) if lowest < 0 else ""):
                raise UserError(error)
            rng = np.random.default_rng([self.seed, self.dataset.epoch, step, self._sampler.rank])
            yield self.mix(images, labels, rng) if self.mix else (images, labels)

    def _batches(self) -> Iterator[tuple[paddle.Tensor, paddle.Tensor]]:
        """The DataLoader's batches. Its workers leave the process group before they do anything else.

        Ctrl-C and a launcher's SIGTERM go to the whole group: training still needs the workers to finish the
        step.
        """
        start = _Start()
        register_after_fork(start, _leave_process_group)
        batches = iter(self._loader)  # starts the workers
        del start  # ends the registration, for processes of others
        return batches

    def _find_error(self, index: int) -> str:
        """Load an image that failed in the DataLoader once more and return the message of its error."""
        name = self.dataset.name(index)
        try:
            self.dataset.load(index)
        except UserError as error:
            return str(error)
        except Exception as error:
            return f"cannot load the image {name}: {str(error) or type(error).__name__}"
        return f"the image {name} could not be loaded at first, but can be now: start again"


class _Start:
    """Exists while workers start."""


def _leave_process_group(start: _Start) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
