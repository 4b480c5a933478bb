"""How faithful the class activation maps of a study's networks are, a table for each finished run.

Grad-CAM of the true class of every eval image, at the last layer with a map: the areas under its deletion and
insertion curves (explain/faithfulness.py), and those of a random map of the same resolution.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from .. import ops
from ..builders import load_trained, make_loader, set_device
from ..config import Config
from ..errors import UserError
from ..explain import class_maps, deletion_insertion, random_maps
from ..files import shown
from ..plotting.bar import plain_console
from ..train.predictions import Prediction, image_names
from .plan import PlannedRun, Study, plan_runs, results_folder
from .results import MapScore, Results
from .runner import Outcome, prepare_data

STEPS = 10  # of a curve
TOLERANCE = 0.01  # of a probability: other processors and libraries round differently


def measure_maps(study: Study, console: Console | None = None) -> Outcome:
    """Measure the maps of the finished runs that have no such table yet.

    A run whose weights are not in `output/`, such as one of another machine, is skipped.

    Args:
        study: its options.
        console: where a line about each run is printed; None is the terminal.

    Returns: the measured and the failed runs. A failed run does not stop the others.

    Raises: UserError when no run of the study is finished, or when its results folder holds another study's.
    """
    console = console or plain_console()
    plan, results = plan_runs(study), Results(results_folder(study))
    results.check(study, plan)
    rows, outcome = results.rows(), Outcome()
    if not rows:
        raise UserError(f"{results.folder} holds no finished runs: run the study first")
    left = [run for run in plan if run.name in rows and not results.map_scores_file(run.name).exists()]
    with results.lock():
        elsewhere = _copy_scores(study, results, left, console)
        with_weights = []
        for run in left:
            if run.name in elsewhere:
                outcome.finished.append(run.name)
            elif weights_of(run).exists():
                with_weights.append(run)
            else:
                console.print(f"{run.name}  not measured: no {shown(weights_of(run))}", soft_wrap=True)
        prepare_data(study, with_weights, results)
        for run in with_weights:
            try:
                scores = score_maps(run.config, weights_of(run), results.predictions(run.name))
            except UserError as error:
                outcome.failed[run.name] = str(error)
                console.print(f"{run.name}  not measured: {error}", soft_wrap=True)
                continue
            results.add_map_scores(run.name, scores)
            outcome.finished.append(run.name)
            console.print(f"{run.name}  {_means(scores)}", soft_wrap=True)
    return outcome


def weights_of(run: PlannedRun) -> Path:
    """The weights of a run after its last epoch."""
    return Path(run.config.train.output, "last.pdparams")


def _copy_scores(study: Study, results: Results, left: Sequence[PlannedRun], console: Console) -> set[str]:
    """Copy the tables of runs that were copied from a study in `reuse`. Returns: the names of those runs."""
    rows, finished, copied = results.rows(), results.finished_elsewhere(study), set()
    for run in left:
        row, origin = finished.get((run.config_hash, rows[run.name].data_hash), (None, None))
        if row is None or origin.predictions(row.run) != results.predictions(run.name):
            continue
        if scores := origin.map_scores(row.run):
            results.add_map_scores(run.name, scores)
            copied.add(run.name)
            console.print(f"{run.name}  copied from {origin.folder}: {row.run}", soft_wrap=True)
    return copied


def _means(scores: Sequence[MapScore]) -> str:
    means = map(statistics.mean, zip(*(each.areas for each in scores), strict=True))
    names = ("deletion", "insertion", "random deletion", "random insertion")
    return ", ".join(f"{name} {mean:.3f}" for name, mean in zip(names, means, strict=True))


def score_maps(config: Config, weights: Path, predictions: Sequence[Prediction]) -> list[MapScore]:
    """The scores of each eval image.

    Args:
        config: of the run.
        weights: its weights after the last epoch.
        predictions: of the run, for the same eval images in the same order.

    Raises: UserError when the eval images are others, or when these weights give other probabilities.
    """
    set_device(config.train.device)
    loader = make_loader(config, "eval")
    if image_names(loader.dataset) != [each.image for each in predictions]:
        raise UserError(
            f"{config.data.root} has other eval images than the finished run saw: restore them, "
            f"or move {config.data.root} away and it is made again"
        )
    network, _ = load_trained(config, weights)
    scores: list[MapScore] = []
    for images, labels in loader:
        class_ids = labels.numpy().ravel().tolist()
        numbers = range(len(scores), len(scores) + len(class_ids))
        with ops.using(config.train.ops):
            maps = class_maps(network, images, class_ids=class_ids).maps
            # a generator for each image: the control does not depend on the size of a batch
            control = np.concatenate([random_maps(1, *maps.shape[1:], seed=number) for number in numbers])
            curves = deletion_insertion(network, images, maps, class_ids, STEPS)
            random = deletion_insertion(network, images, control, class_ids, STEPS)
        expected = [predictions[number] for number in numbers]
        _check_probabilities(expected, curves.deletion[:, 0], weights)
        areas = (curves.deletion_area, curves.insertion_area, random.deletion_area, random.insertion_area)
        scores += [
            MapScore(prediction.image, *(round(float(area), 4) for area in values))
            for prediction, *values in zip(expected, *areas, strict=True)
        ]
    return scores


def _check_probabilities(expected: Sequence[Prediction], found: np.ndarray, weights: Path) -> None:
    """Raise UserError when the weights are not those of the finished run."""
    for prediction, probability in zip(expected, found, strict=True):
        # written so that a probability that is not a number is refused
        if not abs(prediction.probability_of_true - probability) <= TOLERANCE:
            raise UserError(
                f"{weights} gives {prediction.image} the probability {probability:.3f}, the finished run "
                f"gave {prediction.probability_of_true:.3f}: expected its weights, move {weights.parent} away"
            )
