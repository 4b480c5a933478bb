"""The folder of a study's results: a row, a history and the predictions of each finished run, as CSV.

    runs.csv               a row for each finished run, in the order of the plan
    history/RUN.csv        the metrics of each epoch
    predictions/RUN.csv    as `eval_predictions.csv` of an evaluation
    map_scores/RUN.csv     how faithful the maps are, when that was measured
    study.yaml             the study that made them

These files are small and meant to be committed. They are all that the report needs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import UserError, quote
from ..files import atomic_write, lock_folder, read_regular, unlock_folder, write_text
from ..strict_yaml import parse
from ..train.predictions import Prediction, read_predictions
from ..train.tables import read_lines, read_rows, to_csv
from .plan import PlannedRun, Study, dump_study


@dataclass(frozen=True)
class Row:
    """A finished run. Accuracies are fractions of 1, after the last epoch."""

    run: str
    variant: str
    fold: int
    seed: int
    top1: float
    top5: float
    loss: float
    images: int  # it was tested on
    parameters: int  # trainable ones
    macs: int  # of one image
    epochs: int
    config_hash: str
    data_hash: str
    version: str  # of paddle_attn
    commit: str  # of its repository; '' without one; with '+' when files were changed
    machine: str
    threads: int
    seconds_per_epoch: float  # the median


@dataclass(frozen=True)
class MapScore:
    """The areas under the deletion and insertion curves of an image, from 0 to 1: with its map, and with a
    random one.
    """

    image: str
    deletion: float
    insertion: float
    random_deletion: float
    random_insertion: float

    @property
    def areas(self) -> tuple[float, float, float, float]:
        return self.deletion, self.insertion, self.random_deletion, self.random_insertion

    @property
    def gain(self) -> float:
        """Insertion minus deletion, less the same of the random map: 0 when the map says nothing."""
        return (self.insertion - self.deletion) - (self.random_insertion - self.random_deletion)


@dataclass(frozen=True)
class Reusable:
    """A finished run of another study that is also one of this study."""

    row: Row  # as it is in this study
    origin: Results
    name: str  # of the run there


class Results:
    """The results in a folder, which `lock` makes if it is missing."""

    def __init__(self, folder: Path):
        self.folder = folder

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Keep other studies from writing here. Yields the lock, to be passed to the runs' processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = lock_folder(self.folder)
        if lock is None:
            raise UserError(
                f"another study is writing to {self.folder}, or its last runs are being saved: "
                "wait for its end, or give this study another name"
            )
        try:
            yield lock
        finally:
            unlock_folder(lock)

    def rows(self) -> dict[str, Row]:
        """The finished runs by name."""
        file = self.folder / "runs.csv"
        rows = {row.run: row for row in read_rows(file, Row)} if file.exists() else {}
        return {
            name: row
            for name, row in rows.items()
            if self.history_file(name).exists() and self.predictions_file(name).exists()
        }

    def history(self, run: str) -> list[dict[str, float]]:
        """The metrics of each epoch of a finished run."""
        return read_history(self.history_file(run))

    def predictions(self, run: str) -> list[Prediction]:
        return read_predictions(self.predictions_file(run))

    def predictions_of(self, row: Row) -> list[Prediction]:
        """The predictions of a finished run, which must give the accuracy in its row.

        Raises: UserError when they do not: one of the two files was damaged or changed.
        """
        found = self.predictions(row.run)
        right = sum(each.is_right for each in found)
        if len(found) != row.images or not abs(right - row.top1 * row.images) < 0.5:
            raise UserError(
                f"{self.predictions_file(row.run)} has {right} right of {len(found)} images, expected "
                f"{row.top1 * row.images:.0f} of {row.images} as in {self.folder / 'runs.csv'}: restore both"
            )
        return found

    def history_file(self, run: str) -> Path:
        return self.folder / "history" / f"{run}.csv"

    def predictions_file(self, run: str) -> Path:
        return self.folder / "predictions" / f"{run}.csv"

    def map_scores(self, run: str) -> list[MapScore]:
        """How faithful the map of each eval image of a finished run is; empty when it was not measured.

        Raises: UserError when the file is damaged.
        """
        file = self.map_scores_file(run)
        if not file.exists():
            return []
        scores = list(read_rows(file, MapScore))
        if [each.image for each in scores] != [each.image for each in self.predictions(run)]:
            raise UserError(
                f"{file} is damaged: expected the images of {self.predictions_file(run)} in their order; "
                "move it away and measure the maps again"
            )
        for number, each in enumerate(scores, 2):
            if not all(0 <= area <= 1 for area in each.areas):  # not a number is refused too
                raise UserError(
                    f"{file} is damaged at line {number}: expected areas from 0 to 1; "
                    "move it away and measure the maps again"
                )
        return scores

    def map_scores_file(self, run: str) -> Path:
        return self.folder / "map_scores" / f"{run}.csv"

    def add_map_scores(self, run: str, scores: Sequence[MapScore]) -> None:
        write_text(self.map_scores_file(run), to_csv(scores, MapScore))

    def check(self, study: Study, plan: Sequence[PlannedRun]) -> None:
        """Raise UserError when a finished run is not one of this study. A study may grow."""
        planned = {run.name: run for run in plan}
        for row in self.rows().values():
            run = planned.get(row.run)
            if run is None:
                problem = f"the finished run {row.run}, which this study does not have"
            elif row.config_hash != run.config_hash:
                problem = f"the run {row.run} with other options{self._difference(study)}"
            else:
                continue
            raise UserError(
                f"{self.folder} holds {problem}: expected results of the same study; "
                "give this study another name, or move that folder away"
            )

    def check_data(self, fold: int, data_hash: str) -> None:
        """Raise UserError when finished runs of a fold saw other photographs."""
        for row in self.rows().values():
            if row.fold == fold and row.data_hash != data_hash:
                raise UserError(
                    f"{self.folder} holds {row.run}, which saw other photographs than fold {fold} has now"
                    f" (checksum {row.data_hash or 'none'}, now {data_hash or 'none'}): "
                    "restore them, or give this study another name"
                )

    def reusable(
        self, study: Study, plan: Sequence[PlannedRun], data_hashes: Mapping[int, str]
    ) -> dict[str, Reusable]:
        """The runs to do that a study in `reuse` has finished with the same options, seed and split.

        Returns: them by the name of the run here.

        Raises: UserError when such a study has damaged results.
        """
        finished, found, rows = self.finished_elsewhere(study), {}, self.rows()
        for run in plan:
            key = run.config_hash, data_hashes[run.fold]
            # without a split there is no checksum, and the weights it started from may have changed
            model = run.config.model
            if run.name in rows or key not in finished or not key[1] or model.weights or model.pretrained:
                continue
            row, origin = finished[key]
            if len(origin.predictions(row.run)) != row.images or len(origin.history(row.run)) != row.epochs:
                raise UserError(
                    f"{origin.folder} is damaged: restore the history and predictions of {row.run}"
                )
            ours = replace(row, run=run.name, variant=run.variant, fold=run.fold, seed=run.seed)
            found[run.name] = Reusable(ours, origin, row.run)
        return found

    def finished_elsewhere(self, study: Study) -> dict[tuple[str, str], tuple[Row, Results]]:
        """The finished runs of the studies in `reuse`, by the checksums of their options and their split."""
        finished: dict[tuple[str, str], tuple[Row, Results]] = {}
        for name in study.reuse:
            origin = Results(self.folder.with_name(name))
            for row in origin.rows().values():
                # two rows of one key differ in an option that decides the time only, such as train.ops
                finished.setdefault((row.config_hash, row.data_hash), (row, origin))
        return finished

    def copy_reusable(
        self, study: Study, plan: Sequence[PlannedRun], data_hashes: Mapping[int, str]
    ) -> Iterator[str]:
        """Copy the runs that `reusable` finds. Yields: a line about each, and each study without runs."""
        for name in study.reuse:
            origin = Results(self.folder.with_name(name))
            if not origin.rows():
                yield f"nothing to copy from the study {name}: {origin.folder} holds no finished run"
        for each in self.reusable(study, plan, data_hashes).values():
            row, origin = each.row, each.origin
            self.add(row, origin.history_file(each.name), origin.predictions_file(each.name), plan)
            made = f", made by {row.commit or row.version}"
            yield f"{row.run}  top-1 {100 * row.top1:.2f} %  copied from {origin.folder}: {each.name}{made}"

    def _difference(self, study: Study) -> str:
        """The first option of the study that differs from the recorded one, in brackets."""
        with contextlib.suppress(OSError, UserError, UnicodeDecodeError):
            text = read_regular(self.folder / "study.yaml").decode()
            recorded, ours = parse(text, "study.yaml"), parse(dump_study(study), "study.yaml")
            for key, value in ours.items():
                if recorded.get(key) != value:
                    return f" ({key} was {quote(recorded.get(key))}, found {quote(value)})"
        return f" (the config {study.base} has changed)"

    def write_study(self, study: Study) -> None:
        write_text(self.folder / "study.yaml", dump_study(study))

    def add(self, row: Row, history: Path, predictions: Path, plan: Sequence[PlannedRun]) -> None:
        """Add a finished run; its row, in the order of the plan, is written last."""
        self.map_scores_file(row.run).unlink(missing_ok=True)  # of an earlier run of this name
        for source, target in (
            (history, self.history_file(row.run)),
            (predictions, self.predictions_file(row.run)),
        ):
            atomic_write(target, lambda part, source=source: shutil.copyfile(source, part))
        rows = self.rows() | {row.run: row}
        ordered = [rows[run.name] for run in plan if run.name in rows]
        write_text(self.folder / "runs.csv", to_csv(ordered, Row))


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a `history.csv`."""
    try:
        rows = [{name: float(value) for name, value in values.items()} for _, values in read_lines(path)]
        if not rows:
            raise ValueError
        return rows
    except (TypeError, ValueError):
        raise UserError(f"{path} is damaged: expected a number in each column; restore the file") from None
