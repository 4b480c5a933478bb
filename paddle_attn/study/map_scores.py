"""How faithful the class activation maps of a study's networks are, a table for each finished run.

Grad-CAM of the true class of every eval image, at the last layer with a map: the areas under its deletion and
insertion curves (explain/faithfulness.py), and those of a random map of the same resolution.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from .. import ops
from ..builders import load_trained, make_loader, set_device
from ..config import Config
from ..errors import UserError
from ..explain import class_maps, deletion_insertion, random_maps
from ..files import shown
from ..train.predictions import Prediction
from .plan import Study, plan_runs, results_folder
from .results import MapScore, Results
from .runner import prepare_data

STEPS = 10  # of a curve
TOLERANCE = 0.01  # of a probability: other processors and libraries round differently
AREAS = ("deletion", "insertion", "random_deletion", "random_insertion")


def measure_maps(study: Study) -> Iterator[str]:
    """Measure the maps of the finished runs that have no such table yet. Yields: a line about each.

    A run whose weights are not in `output/`, such as one of another machine, is left out.

    Raises: UserError when weights there are not those of the finished run.
    """
    plan, results = plan_runs(study), Results(results_folder(study))
    results.check(study, plan)
    with results.lock():
        prepare_data(study, plan, results)
        rows = results.rows()
        for run in plan:
            if run.name not in rows or results.map_scores_file(run.name).exists():
                continue
            weights = Path(run.config.train.output, "last.pdparams")
            if not weights.exists():
                yield f"{run.name}  not measured: there is no {shown(weights)}"
                continue
            scores = score_maps(run.config, weights, results.predictions(run.name))
            results.add_map_scores(run.name, scores)
            means = (
                f"{name.replace('_', ' ')} {statistics.mean(getattr(score, name) for score in scores):.3f}"
                for name in AREAS
            )
            yield f"{run.name}  {', '.join(means)}"


def score_maps(config: Config, weights: Path, predictions: Sequence[Prediction]) -> list[MapScore]:
    """The scores of each eval image.

    Args:
        config: of the run.
        weights: its weights after the last epoch.
        predictions: what the run said about the eval images.

    Raises: UserError when the weights say something else.
    """
    set_device(config.train.device)
    loader = make_loader(config, "eval")
    network, _ = load_trained(config, weights)
    scores: list[MapScore] = []
    for images, labels in loader:
        class_ids, recorded = labels.numpy().ravel().tolist(), predictions[len(scores) :]
        with ops.using(config.train.ops):
            maps = class_maps(network, images, class_ids=class_ids).maps
            curves = deletion_insertion(network, images, maps, class_ids, STEPS)
            control = random_maps(*maps.shape, seed=len(scores))
            random = deletion_insertion(network, images, control, class_ids, STEPS)
        for line, said in zip(recorded, curves.deletion[:, 0], strict=False):
            if abs(line.probability_of_true - said) > TOLERANCE:
                raise UserError(
                    f"{weights} gives {line.image} the probability {said:.3f}, the finished run gave "
                    f"{line.probability_of_true:.3f}: expected its weights, remove {weights.parent}"
                )
        areas = (curves.deletion_area, curves.insertion_area, random.deletion_area, random.insertion_area)
        scores += [
            MapScore(line.image, *(round(float(value), 4) for value in values))
            for line, *values in zip(recorded, *areas, strict=False)
        ]
    return scores
