"""Prediction: an exported folder and pictures in, classes and scores out, by Paddle Inference."""

from __future__ import annotations

import collections
import contextlib
import csv
import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from paddle import inference
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..data.images import images_below, load_image
from ..data.transforms import Preprocess
from ..errors import UserError
from ..files import checksum, write_text
from ..runtime import default_threads, this_machine

GRAPH, PARAMETERS, DESCRIPTION = "inference.json", "inference.pdiparams", "inference.yml"


class Predictor:
    """A classifier from a folder that `export_model` wrote, with the very preprocessing of its training.

    Args:
        model_dir: the folder, with `inference.json`, `.pdiparams` and `.yml`.
        threads: of the math library; None is the user's OMP_NUM_THREADS, else all cores.

    Raises: UserError when a file is missing or is not the one that was exported (size, SHA-256): Paddle would take a damaged
    one and answer nonsense.
    """

    def __init__(self, model_dir: str | os.PathLike, threads: int | None = None):
        folder = Path(model_dir)
        described = _read_description(folder)
        self.classes: list[str] = described["PostProcess"]["Topk"]["label_list"]
        self.preprocess = Preprocess.from_ops(described["PreProcess"]["transform_ops"])
        config = inference.Config(str(folder / GRAPH), str(folder / PARAMETERS))
        config.disable_gpu()
        config.set_cpu_math_library_num_threads(threads or default_threads(this_machine(), os.environ))
        config.enable_new_ir()
        config.enable_new_executor()
        config.disable_glog_info()
        self._engine = inference.create_predictor(config)
        self._has_run = False

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """Run the network on preprocessed images: float32 `[N, 3, H, W] -> [N, num_classes]`, rows that sum to 1."""
        (name,) = self._engine.get_input_names()
        self._engine.get_input_handle(name).copy_from_cpu(np.ascontiguousarray(images, "float32"))
        with contextlib.nullcontext() if self._has_run else _native_stdout_hidden():
            self._engine.run()
        self._has_run = True
        (name,) = self._engine.get_output_names()
        return self._engine.get_output_handle(name).copy_to_cpu()

    def predict(
        self,
        inputs: str | os.PathLike | Sequence[str | os.PathLike],
        topk: int = 5,
        batch_size: int = 8,
        on_error: Callable[[UserError], None] | None = None,
    ) -> list[dict[str, Any]]:
        """Classify images.

        Args:
            inputs: files, and folders that are searched for images to any depth.
            topk: how many classes to name, best first.
            batch_size: images that go through the network together.
            on_error: called for a file that is no image, and the rest goes on; without it the error is raised.

        Returns: for each image `{'path', 'labels', 'class_ids', 'scores'}`, scores in 0..1.

        Raises: UserError for a missing path or a folder without images, and for the first file that is no image, unless on_error
        takes them.
        """
        if topk < 1:
            raise UserError(f"topk must be at least 1, found {topk}")
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, found {batch_size}")
        results = []
        for batch in _batches(self._images(_files(inputs), on_error, ahead=2 * batch_size), batch_size):
            scores = self.probabilities(np.stack([image for _, image in batch]))
            order = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
            for (path, _), row, ids in zip(batch, scores, order, strict=True):
                labels = [self.classes[i] for i in ids]
                results.append(
                    {
                        "path": str(path),
                        "labels": labels,
                        "class_ids": ids.tolist(),
                        "scores": [float(row[i]) for i in ids],
                    }
                )
        return results

    def _images(
        self, files: Iterable[Path | UserError], on_error: Callable[[UserError], None] | None, ahead: int
    ) -> Iterator[tuple[Path, np.ndarray]]:
        """The preprocessed images in their order; threads make up to `ahead` of them while the network runs."""
        files = iter(files)
        waiting: collections.deque[tuple[Path | UserError, Future[np.ndarray]]] = collections.deque()
        with ThreadPoolExecutor(this_machine().cores) as pool:
            while True:
                waiting.extend(
                    (file, pool.submit(self._sample, file))
                    for file in itertools.islice(files, ahead - len(waiting))
                )
                if not waiting:
                    return
                file, image = waiting.popleft()
                try:
                    yield file, image.result()
                except UserError as error:
                    if on_error is None:
                        pool.shutdown(cancel_futures=True)
                        raise
                    on_error(error)

    def _sample(self, file: Path | UserError) -> np.ndarray:
        if isinstance(file, UserError):
            raise file
        return self.preprocess(load_image(file))


@contextlib.contextmanager
def _native_stdout_hidden() -> Iterator[None]:
    """Paddle 3.3's engine prints a debugging word for each mean in the graph at its first run; keep it out of our output."""
    sys.stdout.flush()
    kept, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(null)


def _files(inputs: str | os.PathLike | Sequence[str | os.PathLike]) -> Iterator[Path | UserError]:
    """The files that are meant, in order; in the place of what is not there, its error."""
    for given in [inputs] if isinstance(inputs, (str, os.PathLike)) else inputs:
        path = Path(given)
        if path.is_dir():
            found = images_below(path)
            yield from found
            if not found:
                yield UserError(f"the folder {path} holds no images: expected some, at any depth")
        elif path.exists():
            yield path
        else:
            yield UserError(f"there is no {path}: expected an image or a folder of images")


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _read_description(folder: Path) -> dict:
    """`inference.yml`, when the files beside it are the ones that it describes."""
    try:
        described = yaml.safe_load((folder / DESCRIPTION).read_text(encoding="utf-8"))
        files = described["paddle_attn"]["files"]
        described["PreProcess"]["transform_ops"], described["PostProcess"]["Topk"]["label_list"]
    except OSError as error:
        raise UserError(
            f"{folder} is no exported model: cannot read {folder / DESCRIPTION} ({error.strerror}); make one with tools/export.py"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise UserError(
            f"{folder / DESCRIPTION} is damaged: expected what tools/export.py writes; export again"
        ) from None
    for name in (GRAPH, PARAMETERS):
        path, said = folder / name, files.get(name, {})
        if not path.is_file():
            raise UserError(f"{folder} is no whole exported model: {name} is missing; export again")
        if path.stat().st_size != said.get("size") or checksum(path) != said.get("sha256"):
            raise UserError(
                f"{path} is not the file that was exported: {said.get('size')} bytes with a certain SHA-256 were expected, "
                f"{path.stat().st_size} bytes found; export again"
            )
    return described


def print_results(results: Sequence[dict[str, Any]]) -> None:
    """A table: a line for each image, its classes with their scores, best first."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for title in ("image", "class", "score", "then"):
        table.add_column(title, overflow="fold", justify="right" if title == "score" else "left")
    for result in results:
        others = ", ".join(
            f"{label} {score:.3f}"
            for label, score in list(zip(result["labels"], result["scores"], strict=True))[1:]
        )
        table.add_row(*map(Text, (result["path"], result["labels"][0], f"{result['scores'][0]:.3f}", others)))
    Console(width=None if sys.stdout.isatty() else 200).print(
        table
    )  # in a file or a pipe hardly a line is folded


def write_results(results: Sequence[dict[str, Any]], csv_path: str | None, json_path: str | None) -> None:
    """Write the results as CSV (a line for each image and class) and as JSON (as they are), each where a path is given."""
    if csv_path:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["path", "rank", "class_id", "label", "score"])
        for result in results:
            for rank, row in enumerate(
                zip(result["class_ids"], result["labels"], result["scores"], strict=True), 1
            ):
                writer.writerow([result["path"], rank, *row])
        write_text(Path(csv_path), text.getvalue())
    if json_path:
        write_text(Path(json_path), json.dumps(list(results), indent=2, ensure_ascii=False) + "\n")
