"""Prediction: classify image files with an exported network."""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from ..data.images import list_images, load_image
from ..errors import UserError
from ..runtime import default_threads, this_machine
from .description import read_description
from .formats import FORMATS


class Predictor:
    """A classifier from a folder that `export_model` wrote, with the preprocessing of its training.

    Args:
        model_dir: the folder.
        threads: of the engine; None is OMP_NUM_THREADS if it is set, otherwise all cores.

    Attributes:
        classes: the names of the classes, in the network's order.
        preprocess: the preprocessing, from an RGB image to float32 `[3, size, size]`.

    Raises: UserError when a file is missing, damaged or not the exported one.
    """

    def __init__(self, model_dir: str | os.PathLike, threads: int | None = None):
        folder = Path(model_dir)
        description = read_description(folder)  # refuses damaged files: an engine may run them
        self.classes = description.classes
        self.preprocess = description.preprocess
        threads = threads or default_threads(this_machine(), os.environ)
        self._engine = FORMATS[description.format].engine(folder, threads)

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Run the network on preprocessed images: float32 `[N, 3, H, W]` to `[N, num_classes]`."""
        return self._engine.run(np.ascontiguousarray(images, "float32"))

    def predict(
        self,
        inputs: str | os.PathLike | Sequence[str | os.PathLike],
        topk: int = 5,
        batch_size: int = 8,
        on_error: Callable[[UserError], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Classify image files.

        Args:
            inputs: files, and folders that are searched for images at any depth.
            topk: the number of classes to return for each image, best first.
            batch_size: the number of images that go through the network together.
            on_error: called with the error of each input that cannot be read; the others are classified.
                None raises the first error.

        Returns: for each image `{'path', 'labels', 'class_ids', 'scores'}`, with scores in 0..1.

        Raises: UserError when topk or batch_size is below 1; without on_error also when an input does not
        exist, is a folder without images, or is a file that cannot be decoded.
        """
        if topk < 1:
            raise UserError(f"topk must be at least 1, found {topk}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        results = []
        for batch in _batches(self._load(_find_files(inputs), on_error, ahead=2 * batch_size), batch_size):
            probabilities = self.probabilities(np.stack([image for _, image in batch]))
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
            for (path, _), scores, ids in zip(batch, probabilities, best, strict=True):
                results.append(
                    {
                        "path": str(path),
                        "labels": [self.classes[i] for i in ids],
                        "class_ids": ids.tolist(),
                        "scores": scores[ids].tolist(),
                    }
                )
        return results

    def _load(
        self, files: Iterator[Path | UserError], on_error: Callable[[UserError], None] | None, ahead: int
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """Preprocessed images in order; threads load up to `ahead` of them while the network runs."""
        loading: collections.deque[tuple[Path | UserError, Future[np.ndarray]]] = collections.deque()
        with ThreadPoolExecutor(this_machine().cores) as pool:
            while True:
                for file in itertools.islice(files, ahead - len(loading)):
                    loading.append((file, pool.submit(self._load_one, file)))
                if not loading:
                    return
                file, image = loading.popleft()
                try:
                    yield file, image.result()
                except UserError as error:
                    if on_error is None:
                        pool.shutdown(cancel_futures=True)
                        raise
                    on_error(error)

    def _load_one(self, file: Path | UserError) -> np.ndarray:
        if isinstance(file, UserError):
            raise file
        return self.preprocess(load_image(file))


def _find_files(inputs: str | os.PathLike | Sequence[str | os.PathLike]) -> Iterator[Path | UserError]:
    """The files of all inputs in order, and an error for each input that has none."""
    for path in map(Path, [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs):
        if path.is_dir():
            yield from list_images(path) or [
                UserError(f"the folder {path} contains no images: expected at least one, at any depth")
            ]
        elif path.exists():
            yield path
        else:
            yield UserError(f"{path} does not exist: expected an image or a folder of images")


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
