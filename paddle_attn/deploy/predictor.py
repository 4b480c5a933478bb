"""Prediction: classify images with an exported network."""

from __future__ import annotations

import collections
import itertools
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..data.images import find_images, load_image, to_rgb
from ..errors import UserError
from ..runtime import default_threads, this_machine
from .description import DESCRIPTION, read_description
from .formats import FORMATS, choose_engine

Input = str | os.PathLike | Image.Image | np.ndarray  # a file or folder, or an image in memory
Source = Path | Image.Image | UserError  # one image, or why an input has none


class Predictor:
    """A classifier from a folder that `export_model` wrote, with the preprocessing of its training.

    Threads may share it. They load images at the same time, and the network runs for one of them at a time.

    Args:
        model_dir: the folder.
        threads: of the engine; None is OMP_NUM_THREADS if it is set, otherwise all cores.
        engine: 'paddle', 'onnxruntime', 'openvino', or 'auto': the fastest one that is installed and runs the
            format of the export.
        precision: 'fp32'; 'bf16', for OpenVINO on a CPU that computes in it; 'int8', for an export with
            `--int8`.

    Attributes:
        classes: the names of the classes, in the network's order.
        preprocess: the preprocessing, from an RGB image to float32 `[3, size, size]`.
        engine, precision: the ones in use; `engine` is never 'auto'.
        path: of the file that the engine runs.

    Raises: UserError when a file is missing, damaged or not the exported one, or when the export, the engine
    or the CPU does not support the precision; ModuleNotFoundError when the package of an engine is missing.
    """

    def __init__(
        self,
        model_dir: str | os.PathLike,
        threads: int | None = None,
        engine: str = "auto",
        precision: str = "fp32",
    ):
        folder = Path(model_dir)
        description = read_description(folder)  # refuses damaged files: an engine may run them
        self._description_path = folder / DESCRIPTION
        self.classes = description.classes
        self.preprocess = description.preprocess
        threads = threads or default_threads(this_machine(), os.environ)
        format = FORMATS[description.format]
        self.engine, self.precision = choose_engine(description.format, engine, precision), precision
        if precision == "int8" and not description.has_int8:
            raise UserError(f"{folder} has no int8 form: export with --format onnx --int8")
        self.path = folder / (format.int8_file if precision == "int8" else format.files[0])
        self._engine = format.engines[self.engine].create(self.path, threads, precision)
        self._engine_lock = threading.Lock()  # an engine keeps its input and its output

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Run the network on preprocessed images: float32 `[N, 3, H, W]` to `[N, num_classes]`.

        Raises: UserError for another shape, and when the network has another number of classes than
            `inference.yml`.
        """
        images = np.ascontiguousarray(images, "float32")
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:  # the engine would crash
            raise UserError(f"expected images [N, 3, H, W], found an array of shape {list(images.shape)}")
        with self._engine_lock:
            probabilities = self._engine.run(images)
        if probabilities.shape[1] != len(self.classes):
            raise UserError(
                f"{self._description_path} names {len(self.classes)} classes, but the network has "
                f"{probabilities.shape[1]}: export again"
            )
        return probabilities

    def predict(
        self,
        inputs: Input | Sequence[Input],
        topk: int = 5,
        batch_size: int = 8,
        on_error: Callable[[UserError], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Classify images.

        Args:
            inputs: files; folders, searched for images at any depth; PIL images; uint8 arrays `[H, W, 3]` of
                RGB. One of these or a list.
            topk: the number of classes to return for each image, best first.
            batch_size: the number of images that go through the network together.
            on_error: called with the error of each input that cannot be read; the others are classified.
                None raises the first error.

        Returns: for each image `{'path', 'labels', 'class_ids', 'scores'}`, with scores in 0..1. Images in
            memory have the path None.

        Raises: UserError when topk or batch_size is below 1; without on_error also when an input does not
        exist, is a folder without images, is a file that cannot be decoded, or is another array.
        """
        if topk < 1:
            raise UserError(f"topk must be at least 1, found {topk}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        results = []
        for batch in _batches(self._load(_find_images(inputs), on_error, ahead=2 * batch_size), batch_size):
            probabilities = self.probabilities(np.stack([image for _, image in batch]))
            best = np.argsort(-probabilities, axis=1, kind="stable")[:, :topk]
            for (source, _), scores, ids in zip(batch, probabilities, best, strict=True):
                results.append(
                    {
                        "path": str(source) if isinstance(source, Path) else None,
                        "labels": [self.classes[i] for i in ids],
                        "class_ids": ids.tolist(),
                        "scores": scores[ids].tolist(),
                    }
                )
        return results

    def _load(
        self, sources: Iterator[Source], on_error: Callable[[UserError], None] | None, ahead: int
    ) -> Iterator[tuple[Source, np.ndarray]]:
        """Preprocessed images in order; threads load up to `ahead` of them while the network runs."""
        loading: collections.deque[tuple[Source, Future[np.ndarray]]] = collections.deque()
        with ThreadPoolExecutor(this_machine().cores) as pool:
            while True:
                for source in itertools.islice(sources, ahead - len(loading)):
                    loading.append((source, pool.submit(self._load_one, source)))
                if not loading:
                    return
                source, image = loading.popleft()
                try:
                    yield source, image.result()
                except UserError as error:
                    if on_error is None:
                        pool.shutdown(cancel_futures=True)
                        raise
                    on_error(error)

    def _load_one(self, source: Source) -> np.ndarray:
        if isinstance(source, UserError):
            raise source
        return self.preprocess(load_image(source) if isinstance(source, Path) else source)


def _find_images(inputs: Input | Sequence[Input]) -> Iterator[Source]:
    """The images of all inputs in order, and an error for each input that has none."""
    single = isinstance(inputs, (str, os.PathLike, Image.Image, np.ndarray))
    for number, item in enumerate([inputs] if single else inputs, 1):
        if isinstance(item, (str, os.PathLike)):
            yield from find_images(Path(item))
        else:
            yield _from_memory(item, number)


def _from_memory(image: Any, number: int) -> Image.Image | UserError:
    """A PIL image or an array as RGB; `number` counts the inputs from 1."""
    if isinstance(image, Image.Image):
        try:
            return to_rgb(ImageOps.exif_transpose(image))
        except Exception as error:  # a file opened by `Image.open` is decoded only now
            return UserError(f"cannot decode input {number}: {error}")
    if not isinstance(image, np.ndarray):
        kind = type(image).__name__
        return UserError(f"input {number} is a {kind}, expected a path, a PIL image or an array")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        return UserError(
            f"input {number} is an array of {image.dtype} with shape {list(image.shape)}, "
            "expected uint8 [H, W, 3]"
        )
    return Image.fromarray(image)


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch
