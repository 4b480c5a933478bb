"""How long a study takes: from its finished runs, or from one timed step of each variant."""

from __future__ import annotations

import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import paddle

from .. import ops
from ..builders import make_loader, make_network, make_preprocess, set_device
from ..config import Config
from ..data.prepare.sources import locate
from ..data.prepare.split import make_split
from ..errors import UserError
from ..train.progress import duration
from .plan import PlannedRun, Study, data_hash, plan_runs, results_folder
from .results import Results, Row

EVAL_COST = 1 / 3  # of an image, relative to training: the forward pass of three


def describe(study: Study, jobs: int = 1) -> Iterator[str]:
    """The runs of a study in their order, which are finished, and an estimate of the time that is left.

    The lines of the runs come at once, that of the estimate when a step of each variant is timed.

    Raises: UserError for a mistake in the study, before the first line.
    """
    check_jobs(jobs)
    plan = plan_runs(study)
    results = Results(results_folder(study))
    results.check(study, plan)
    roots = {run.fold: run.config.data.root for run in plan}  # all runs of a fold use one split
    hashes = {fold: data_hash(root) for fold, root in roots.items()}
    copied = {name: each.row for name, each in results.reusable(study, plan, hashes).items()}
    return _describe(study, plan, results.rows() | copied, set(copied), jobs)


def _describe(
    study: Study, plan: list[PlannedRun], rows: dict[str, Row], copied: set[str], jobs: int
) -> Iterator[str]:
    """`rows` are those of the finished runs; the names in `copied` are of another study."""
    for run in plan:
        yield f"{'copy' if run.name in copied else 'done' if run.name in rows else 'to do':5s}  {run.name}"
    left = [run for run in plan if run.name not in rows]
    others = f", {len(copied)} of them by another study" if copied else ""
    yield f"{len(plan)} runs, {len(rows)} finished{others}; {jobs} at a time"
    if not left:
        return
    how, by_variant = "from the finished runs", seconds_by_variant(rows.values())
    if not by_variant:
        yield "counting the images and timing a training step of each variant, up to a minute …"
        try:
            how, by_variant = "from one timed training step of each variant", time_variants(study, left)
        except UserError as error:
            yield f"no estimate: {error}"
            return
    yield f"about {duration(seconds_left(left, {}, by_variant, jobs))} on this machine, {how}"


def check_jobs(jobs: int) -> None:
    """Raise UserError unless it is the number of runs that can be done at a time."""
    if jobs < 1:
        raise UserError(f"--jobs must be at least 1, found {jobs}")


def seconds_by_variant(rows: Iterable[Row]) -> dict[str, float]:
    """The median seconds per epoch of each variant that has finished runs."""
    measured: dict[str, list[float]] = {}
    for row in rows:
        measured.setdefault(row.variant, []).append(row.seconds_per_epoch)
    return {variant: statistics.median(seconds) for variant, seconds in measured.items()}


def seconds_left(
    plan: Sequence[PlannedRun], epochs_done: dict[str, int], by_variant: dict[str, float], jobs: int
) -> float | None:
    """The time for the epochs that are left; None when no epoch was timed yet.

    A variant without finished runs counts as the mean of the others.
    """
    if not by_variant:
        return None
    mean = statistics.mean(by_variant.values())
    return (
        sum(
            (run.config.train.epochs - epochs_done.get(run.name, 0)) * by_variant.get(run.variant, mean)
            for run in plan
        )
        / jobs
    )


def time_variants(study: Study, plan: Sequence[PlannedRun]) -> dict[str, float]:
    """The estimated seconds per epoch of each variant, from one training step on random images.

    Raises: UserError when the photographs have to be downloaded first, so their number is unknown.
    """
    seconds: dict[str, float] = {}
    images: dict[int | None, tuple[int, int]] = {}
    for run in plan:
        if run.variant not in seconds:
            part = run.config.data.per_class
            images[part] = train, evaluation = images.get(part) or count_images(study, run)
            per_image = time_step(run.config) / run.config.train.batch_size
            seconds[run.variant] = per_image * (train + EVAL_COST * evaluation)
    return seconds


def count_images(study: Study, run: PlannedRun) -> tuple[int, int]:
    """The number of training and eval images of a run."""
    root = Path(run.config.data.root)
    if study.folds and not root.exists():
        if study.source is None and not locate(None, Path("datasets")).exists():
            raise UserError("the photographs are not on this machine yet: `paddle-attn split` loads them")
        with tempfile.TemporaryDirectory() as folder:
            split = make_split(
                study.source, Path(folder, "split"), list(study.classes) or None, fold=run.fold, report=False
            )
            most = run.config.data.per_class or split.total("train")
            return sum(min(most, count["train"]) for count in split.counts.values()), split.total("eval")
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, cache=0))
    return len(make_loader(config, "train").dataset), len(make_loader(config, "eval").dataset)


def time_step(config: Config) -> float:
    """The seconds of a training step on random images, after one that is not timed."""
    set_device(config.train.device)
    size, batch = make_preprocess(config).size, config.train.batch_size
    classes = config.model.num_classes or 16
    model = dataclasses.replace(config.model, pretrained=False, weights=None)
    with ops.using(config.train.ops), paddle.utils.unique_name.guard():
        network = make_network(dataclasses.replace(config, model=model), classes)
        network.train()
        images = paddle.to_tensor(np.random.default_rng(0).random([batch, 3, size, size], "float32"))
        labels = paddle.to_tensor(np.arange(batch) % classes)
        for _ in range(2):
            started = time.perf_counter()
            paddle.nn.functional.cross_entropy(network(images), labels).backward()
            float(network.parameters()[0].sum())  # waits for a GPU
            network.clear_gradients()
    return time.perf_counter() - started
