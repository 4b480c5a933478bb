"""Training: from a config to a folder with weights, metrics and pictures.

`fit` prepares a run, then goes through its epochs and their steps in the order in which they happen.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import random
import shlex
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from rich.console import Console

from .. import ops
from ..builders import check_model, make_loader, make_network, make_preprocess, set_device
from ..config import Config, TrainConfig
from ..data.base import ImageDataset
from ..data.loader import Loader
from ..data.transforms import Preprocess
from ..errors import Stopped, UserError
from ..models.complexity import profile
from ..plotting.bar import plain_console
from ..weights import load_weights, non_finite
from .distributed import ProcessGroup, check_device, hide_paddle_flags, is_launched
from .ema import ExponentialMovingAverage
from .evaluate import Evaluation, evaluate
from .folder_lock import FolderLock
from .history import RunLog, picture_epochs
from .loss import ClassificationLoss
from .optim import make_optimizer, make_schedule
from .plots import plot_samples
from .progress import ProgressBar, epoch_line
from .run_folder import BEST, LAST, RunFolder
from .signals import StopSignal
from .state import EpochMetrics, EpochProgress, TrainState

OnStep = Callable[[TrainState], None]

# Paddle's seed, names and gradient mode belong to the process: a second run in it would change both
_one_run = threading.Lock()


@dataclass(frozen=True)
class Run:
    """What the loop works with. Only `state` changes, and the network and optimiser in it."""

    config: Config
    processes: ProcessGroup
    console: Console  # quiet in all processes but the main one
    loader: Loader
    eval_loader: Loader
    steps: int  # of an epoch
    folder: RunFolder
    state: TrainState
    model: paddle.Model
    loss: ClassificationLoss
    stop: StopSignal

    @property
    def classes(self) -> list[str]:
        return self.loader.dataset.classes

    def print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)


def fit(config: Config, console: Console | None = None, on_step: OnStep | None = None) -> list[EpochMetrics]:
    """Train the config's network on its data; everything is written to `train.output`.

    With `train.resume` the run continues from its newest intact checkpoint; without, an earlier run in the
    same folder is moved aside. Under `paddle.distributed.launch` each process trains on its shard of every
    step, and the main process writes.

    Args:
        config: of the run.
        console: where progress is printed; None is the terminal or the notebook.
        on_step: called with the state after each update; it may observe, log, or raise to end the run.

    Returns: the metrics of each epoch.

    Raises: UserError for a mistake of the user, if possible before anything is written; Stopped after Ctrl-C
        or SIGTERM, when the step is done and saved.
    """
    train = config.train
    # a checkpoint names the optimiser's tensors as a new process would, hence the guard
    with (
        only_run_of_the_process(),
        StopSignal(is_launched()) as stop,
        ops.using(train.ops),
        paddle.utils.unique_name.guard(),
        FolderLock() as lock,
    ):
        run = prepare(config, console or plain_console(), lock, stop)
        state = run.state
        if is_finished(state, train):
            run.print(f"nothing to do: train.epochs is {train.epochs}, train.patience {train.patience}")
            return state.history
        with open_log(run) as log, progress_bar(run) as bar:
            while not is_finished(state, train):
                for loss in train_epoch(run):
                    bar.advance(state, loss)
                    if log:
                        log.add_step(state.epoch * run.steps + state.step, loss)
                    if on_step and is_update(run, state.step):
                        on_step(state)
                evaluation = evaluate_epoch(run)
                if log:
                    save_epoch(run, log)
                run.print(epoch_line(state, train.epochs))
                if note := not_learning(state, evaluation):
                    run.print(note)
                if not is_finished(state, train) and (number := stop_requested(run)):
                    raise stopped(run, number, f"after epoch {state.epoch}")
        if state.epoch < train.epochs:
            run.print(f"eval top-1 has not risen for {train.patience} epochs (train.patience): stopped")
        weights = run.folder.path / BEST
        run.print(
            f"best eval top-1 {100 * state.best.eval_top1:.2f} % at epoch {state.best.epoch}: {weights}"
        )
        return state.history


@contextlib.contextmanager
def only_run_of_the_process() -> Iterator[None]:
    if not _one_run.acquire(blocking=False):
        raise UserError("another fit() runs in this process: expected one at a time; use a process for each")
    try:
        yield
    finally:
        _one_run.release()


def train_epoch(run: Run) -> Iterator[float]:
    """Train to the end of an epoch, from its start or from the step where a resumed run stopped.

    Yields: the loss of each step, when the step is done and not yet saved.
    """
    state, train, optim = run.state, run.config.train, run.config.optim
    state.progress = state.progress or EpochProgress(lr=state.lr)
    started = time.perf_counter() - state.progress.seconds
    if not run.processes.is_main:  # the main process alone continues the sums of a resumed epoch
        state.progress = EpochProgress(lr=state.progress.lr, step=state.step)
    run.loader.set_epoch(state.epoch, first_step=state.step)
    for step, (images, *targets) in enumerate(run.loader, state.step):
        updates = is_update(run, step + 1)
        run.loss.loss_weight = loss_weight(run, step)
        paddle.seed(step_seed(train.seed, state.epoch, step, run.processes.rank))  # of dropout
        with ops.autocast(train.amp is not None):  # on a CPU; on a GPU it is Paddle that casts
            (loss,), ((top1, top5),) = run.model.train_batch(images, targets, update=updates)
        loss = float(loss) / run.loss.loss_weight
        if optim.schedule_unit == "step":
            state.scheduler.step()
        state.progress = state.progress.after_step(
            len(images), loss, top1, top5, seconds=time.perf_counter() - started
        )
        if train.stop_on_nan and run.processes.all_reduce_max(not math.isfinite(loss)):
            raise not_finite(run, "the loss")
        if updates and state.ema:
            state.ema.update()
        yield loss
        # half of an accumulated gradient cannot be saved; the last step is saved after the evaluation
        if not updates or step + 1 == run.steps:
            continue
        number = stop_requested(run)
        if number or is_checkpoint_step(run.config, step + 1):
            check_weights(run)
            sum_progress(run)
            if run.processes.is_main:
                run.folder.save_checkpoint(state)
        if number:
            raise stopped(run, number, f"after step {step + 1} of epoch {state.epoch + 1}")
    if optim.schedule_unit == "epoch":
        state.scheduler.step()


def evaluate_epoch(run: Run) -> Evaluation:
    """Evaluate the network, or the moving average of its weights; the epoch becomes a row of the history."""
    state, started = run.state, time.perf_counter()
    check_weights(run)
    trained = sum_progress(run)
    with state.averaged():
        run.processes.broadcast_buffers(state.network)  # all evaluate the network that the main process saves
        evaluation = evaluate(state.network, run.eval_loader, run.classes, run.processes)
    metrics = EpochMetrics(
        epoch=state.epoch + 1,
        lr=trained.lr,
        train_loss=trained.loss,
        train_top1=trained.top1,
        train_top5=trained.top5,
        eval_loss=evaluation.loss,
        eval_top1=evaluation.top1,
        eval_top5=evaluation.top5,
        seconds=trained.seconds + time.perf_counter() - started,
    )
    state.history.append(metrics)
    state.progress = None
    return evaluation


def save_epoch(run: Run, log: RunLog) -> None:
    """Save the checkpoint, then what a resumed run can make from it again after a kill."""
    state = run.state
    run.folder.save_checkpoint(state)
    run.folder.save_results(state)
    log.add_epoch(state.history[-1])
    if state.epoch in picture_epochs(run.config.train.epochs):
        log.add_predictions(predictions(run), state.epoch)


def is_finished(state: TrainState, train: TrainConfig) -> bool:
    """Whether all epochs are done, or eval top-1 has not risen for `train.patience` epochs."""
    if train.patience is not None and state.best and state.epoch - state.best.epoch >= train.patience:
        return True
    return state.epoch >= train.epochs


def not_learning(state: TrainState, evaluation: Evaluation) -> str:
    """A sentence after 3, 10 and 30 epochs when the network has learned nothing, else ''."""
    if state.epoch not in (3, 10, 30):
        return ""
    advice = (
        "try another optim.lr, optim.warmup_epochs, or start from weights (model.pretrained, model.weights)"
    )
    loss, chance = state.history[-1].train_loss, math.log(len(evaluation.classes))
    if loss > 0.98 * chance:
        return (
            f"the network is not learning: the training loss is {loss:.3f}, chance is {chance:.3f}; {advice}"
        )
    (predicted,) = np.nonzero(evaluation.confusion.sum(0))
    if len(predicted) == 1 and len(evaluation.classes) > 1:
        name = evaluation.classes[predicted[0]]
        return f"the network is not learning: it predicts '{name}' for every eval image; {advice}"
    return ""


# ---- the parts of a step


def is_update(run: Run, step: int) -> bool:
    """Whether the optimiser updates the weights in this step, counted from 1."""
    return step % run.config.optim.accumulate == 0 or step == run.steps


def is_checkpoint_step(config: Config, step: int) -> bool:
    """Whether the update after this step is the first at or after a multiple of `train.checkpoint_steps`."""
    every, before = config.train.checkpoint_steps, max(0, step - config.optim.accumulate)
    return every is not None and step // every > before // every


def loss_weight(run: Run, step: int) -> float:
    """This batch's part of the images of its update, so that gradients are averaged over images, not over
    batches.
    """
    accumulate, world_size = run.config.optim.accumulate, run.processes.world_size
    if accumulate == 1 and world_size == 1:
        return 1.0
    first = step // accumulate * accumulate
    group = range(first, min(run.steps, first + accumulate))
    images = sum(run.loader.step_length(other) for other in group)
    return (
        world_size * run.loader.shard_length(step) / images
    )  # Paddle divides the sum of gradients by world_size


def step_seed(seed: int, epoch: int, step: int, rank: int) -> int:
    """All randomness of a step comes from these four, so a resumed run continues as it would have."""
    return zlib.crc32(f"{seed} {epoch} {step}{f' {rank}' if rank else ''}".encode())


def sum_progress(run: Run) -> EpochProgress:
    """Add the sums of all processes up and move them to the main process. Returns them, in every process."""
    progress = run.state.progress
    sums = [progress.images, progress.loss_sum, progress.top1_hits, progress.top5_hits]
    images, loss_sum, top1_hits, top5_hits = run.processes.all_reduce_sum(sums)
    total = dataclasses.replace(
        progress, images=int(images), loss_sum=loss_sum, top1_hits=int(top1_hits), top5_hits=int(top5_hits)
    )
    is_main = run.processes.is_main
    run.state.progress = total if is_main else EpochProgress(lr=progress.lr, step=progress.step)
    return total


def stop_requested(run: Run) -> int:
    """The number of the signal that any process received, or 0; so all stop after the same step."""
    return run.processes.all_reduce_max(run.stop.received or 0)


def stopped(run: Run, number: int, where: str) -> Stopped:
    """The exception that ends a run which a signal stopped and which is saved."""
    run.processes.barrier()  # the main process has saved: the launcher ends all when one of them ends
    launcher = "" if run.processes.world_size == 1 else "python -m paddle.distributed.launch … "
    config = shlex.quote(str(run.folder.path / "config.yaml"))
    command = f"{launcher}paddle-attn train -c {config} --resume"
    name = signal.Signals(number).name
    return Stopped(f"{name} {where}, all is saved; continue with: {command}", number)


def check_weights(run: Run) -> None:
    """With `train.stop_on_nan` weights that are not finite are never saved: they would replace good ones."""
    if not run.config.train.stop_on_nan:
        return
    if run.processes.all_reduce_max(bool(non_finite(run.state.network.state_dict()))):
        raise not_finite(run, "a weight")


def not_finite(run: Run, what: str) -> UserError:
    state = run.state
    saved = "no checkpoint was written yet"
    if state.history:
        saved = f"the last good checkpoint is {run.folder.path / LAST}, of epoch {state.epoch}"
    return UserError(
        f"{what} is not a finite number at step {state.step} of epoch {state.epoch + 1}, "
        f"learning rate {state.lr:.3g}: {saved}; try a smaller optim.lr or optim.clip_norm"
    )


# ---- before the first step


def prepare(
    config: Config, console: Console, lock: FolderLock | None = None, stop: StopSignal | None = None
) -> Run:
    """Data, network and optimiser: as they start, or as the run's checkpoint has them."""
    train, optim = config.train, config.optim
    check_device(train.device)
    device = set_device(train.device)
    check_device_options(train, device)
    check_model(config)
    check_output(config)
    processes = ProcessGroup(device)
    if not processes.is_main:
        console = Console(quiet=True)
    random.seed(train.seed), np.random.seed(train.seed), paddle.seed(train.seed)

    with processes.main_process_first():  # it downloads for all
        loader, eval_loader = (
            make_loader(config, split, processes.rank, processes.world_size, processes.first_error)
            for split in ("train", "eval")
        )
    classes = loader.dataset.classes
    check_same_classes(config, classes, eval_loader.dataset.classes)

    images = len(loader.dataset), len(eval_loader.dataset)
    folder = RunFolder(config, classes, images, processes.world_size, lock)
    wanted = train.resume not in (False, "false")
    resume = wanted and folder.has_checkpoint()
    network = make_start_network(config, len(classes), resume)
    schedule = make_schedule(optim, train.epochs, len(loader), processes.world_size)
    optimizer = make_optimizer(optim, schedule, network.parameters())
    print_setup(console, config, device, processes.world_size, network, loader, eval_loader)
    if config.model.weights and not resume:
        load_start_weights(config, network, console)
    paddle_amp = train.amp if device.startswith("gpu") else None
    state = TrainState(
        network,
        optimizer,
        ema=ExponentialMovingAverage(network, optim.ema_decay) if optim.ema_decay else None,
        scaler=paddle.amp.GradScaler() if paddle_amp else None,  # bfloat16 has the range of float32
    )
    if wanted and not resume:
        console.print(f"{folder.path} has no checkpoint: training starts from the beginning", soft_wrap=True)
    resume_or_start(folder, state, resume, processes, console)

    loss = ClassificationLoss(optim.label_smoothing)
    with hide_paddle_flags():
        model = paddle.Model(network)
    model.prepare(optimizer, loss, paddle.metric.Accuracy(topk=(1, 5)), amp_configs=paddle_amp)
    model._scaler = state.scaler  # Paddle would create another at the first step
    return Run(
        config,
        processes,
        console,
        loader,
        eval_loader,
        len(loader),
        folder,
        state,
        model,
        loss,
        stop or StopSignal(),
    )


def check_device_options(train: TrainConfig, device: str) -> None:
    if device.startswith("gpu"):
        return
    if train.sync_bn:
        raise UserError(
            f"train.sync_bn is {train.sync_bn!r}, but this run is on the {device}, where Paddle lacks "
            "batch norm over processes: expected the default, or a GPU"
        )
    if train.amp == "O2":
        raise UserError(
            f"train.amp is 'O2', but this run is on the {device}, where weights stay float32: "
            "expected 'O1', null, or a GPU"
        )
    if train.amp and (problem := ops.bfloat16_problem()):
        raise UserError(
            f"train.amp is {train.amp!r}, but this run is on the {device}, where it needs bfloat16, and "
            f"{problem}: expected null, or a GPU"
        )


def check_output(config: Config) -> None:
    """The folder of a run is renamed when another run starts in it: nothing else may be in it."""
    if "\0" in config.train.output + config.data.root:
        raise UserError("train.output and data.root must be paths, found a NUL character in one of them")
    paths = Path(config.train.output), Path(config.data.root), Path.cwd()
    for real in (Path.absolute, Path.resolve):  # as written, and where links lead
        output, data, working = map(real, paths)
        if output in (data, *data.parents, working, *working.parents):
            raise UserError(
                f"train.output is '{config.train.output}', which holds data.root ({config.data.root}) "
                "or the working directory: expected a folder of its own"
            )
        if data in output.parents:
            raise UserError(
                f"train.output is '{config.train.output}', inside data.root ({config.data.root}): "
                "expected a folder outside the data"
            )


def check_same_classes(config: Config, classes: list[str], eval_classes: list[str]) -> None:
    if different := sorted(set(classes) ^ set(eval_classes)):
        raise UserError(
            f"{config.data.root}: train/ and eval/ must have the same class folders, "
            f"found {different[0]} in only one of them"
        )


def make_start_network(config: Config, num_classes: int, resume: bool) -> nn.Layer:
    """The network before training; a resumed run gets all weights from its checkpoint."""
    if resume:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=False))
    network = make_network(config, num_classes)
    return nn.SyncBatchNorm.convert_sync_batchnorm(network) if config.train.sync_bn else network


def load_start_weights(config: Config, network: nn.Layer, console: Console) -> None:
    report = load_weights(network, config.model.weights, new_classifier=True)
    note = f"; the classifier starts untrained ({'; '.join(report.mismatched)})" if report.mismatched else ""
    line = f"started from {config.model.weights}: {len(report.loaded)} tensors{note}"
    console.print(line, soft_wrap=True)


def resume_or_start(
    folder: RunFolder,
    state: TrainState,
    resume: bool,
    processes: ProcessGroup,
    console: Console,
) -> None:
    """Lock the run's folder, then restore its checkpoint, or move an earlier run aside."""
    if error := processes.first_error(folder.lock() if processes.is_main else ""):
        raise UserError(error)
    if resume:
        for note in folder.restore(state):
            console.print(note, soft_wrap=True)
        where = f"step {state.step} of epoch {state.epoch + 1}" if state.step else f"epoch {state.epoch}"
        console.print(f"resuming after {where} of {folder.path}", soft_wrap=True)
    # the comparison is also a barrier: the folder is moved only when all processes have looked for a
    # checkpoint
    if not processes.all_equal(state.epoch * 10**9 + state.step):
        raise UserError(
            f"the processes found different checkpoints: "
            f"expected {folder.path} to be the same folder for all of them"
        )
    if resume and processes.is_main:
        folder.restore_best(state)
        if state.history and not state.progress:
            folder.save_results(state)  # a kill after the checkpoint may have prevented it
    if not resume and processes.is_main and folder.has_run():
        console.print(f"the earlier run in {folder.path} was moved to {folder.move_aside()}", soft_wrap=True)
        if error := folder.lock():
            raise UserError(error)


# ---- what a run shows


def print_setup(
    console: Console,
    config: Config,
    device: str,
    world_size: int,
    network: nn.Layer,
    loader: Loader,
    eval_loader: Loader,
) -> None:
    model, size = config.model, make_preprocess(config).size
    classes = len(loader.dataset.classes)
    place = device if world_size == 1 else f"{device} in {world_size} processes"
    console.print(f"{model.name}, attention {model.attn or 'none'}, {size} px, {classes} classes, on {place}")
    console.print(str(profile(network, size)))
    console.print(f"{len(loader.dataset)} training images, {len(eval_loader.dataset)} eval images")
    console.print("each epoch: mean loss and top-1 of train and eval, its time, the time left")


def progress_bar(run: Run) -> ProgressBar:
    train, state = run.config.train, run.state
    done = state.epoch * run.steps + state.step
    return ProgressBar(
        run.console, train.epochs, run.steps, train.batch_size * run.processes.world_size, done
    )


@contextlib.contextmanager
def open_log(run: Run) -> Iterator[RunLog | None]:
    """Write the files that a run's folder has from the start and open its log; None in other processes."""
    if not run.processes.is_main:
        yield None
        return
    run.folder.write_config()
    state, dataset = run.state, run.loader.dataset
    log = RunLog(run.folder.path, state.history, state.epoch * run.steps + state.step)
    try:
        log.add_hyperparameters(run.config, dataset.preprocess.size)
        images, names = sample_images(dataset, 16)
        log.add_samples(plot_samples(pixels(images, dataset.preprocess), names))
        yield log
    finally:
        log.close()


def predictions(run: Run) -> np.ndarray:
    """A picture of some eval images with their classes and predictions, uint8 `[H, W, 3]`."""
    dataset = run.eval_loader.dataset
    images, names = sample_images(dataset, min(16, run.config.train.batch_size))
    with run.state.averaged(), paddle.no_grad():
        predicted = run.state.network(paddle.to_tensor(images)).argmax(1).tolist()
    return plot_samples(
        pixels(images, dataset.preprocess), names, [run.classes[index] for index in predicted]
    )


def sample_images(dataset: ImageDataset, count: int) -> tuple[np.ndarray, list[str]]:
    """Evenly spread images as the network sees them, float32 `[N, 3, H, W]`, and their classes."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int).tolist()
    names = [dataset.classes[int(dataset.label(index))] for index in chosen]
    return np.stack([dataset.load(index) for index in chosen]), names


def pixels(images: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """The inverse of `Preprocess.normalise`: float32 `[N, 3, H, W]` to uint8 `[N, H, W, 3]`."""
    values = images.transpose(0, 2, 3, 1) * np.float32(preprocess.std) + np.float32(preprocess.mean)
    return (values * 255).round().clip(0, 255).astype("uint8")
