"""Training: from a config to a folder with weights, figures and pictures, through `paddle.Model.fit`."""

from __future__ import annotations

import dataclasses
import random
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from paddle import nn
from rich.console import Console

from .. import ops
from ..builders import make_loader, make_network, make_preprocess, set_device
from ..config import Config, dump_config
from ..data.dataset import Loader
from ..data.transforms import Preprocess
from ..errors import Stopped, UserError
from ..files import write_text
from ..models.complexity import profile
from ..weights import load_weights
from .callbacks import EpochRecorder, ProgressBar
from .checkpoints import STATE, Parts, Within, has_checkpoint, load_run, save_epoch, save_step
from .ema import WeightAverage
from .history import History, Row
from .optim import Accuracy, ClassificationLoss, make_optimizer, make_schedule
from .processes import Processes, check_device, without_flags
from .signals import StopRequest


@dataclass(frozen=True)
class Run:
    """All that training works with."""

    config: Config
    folder: Path
    processes: Processes
    console: Console  # silent in all processes but the first
    loader: Loader
    eval_loader: Loader
    parts: Parts
    rows: list[Row]  # of the epochs that are done; grows
    within: Within | None  # where to begin inside the next epoch, after a resume


def fit(config: Config, console: Console | None = None) -> list[Row]:
    """Train the config's network on its data; everything is written to `train.output`.

    With `train.resume` the run goes on from its newest whole checkpoint; without, an earlier run in the same folder is moved aside.
    Under `paddle.distributed.launch` each process takes its share of every step, and the first one writes.

    Returns: the history, a row an epoch.

    Raises: UserError for what the user can mend, before anything is written where that is possible; Stopped after Ctrl-C or SIGTERM,
    when the step is done and saved.
    """
    # the optimiser's state is kept by names, which must be those of a new process
    in_job = paddle.distributed.ParallelEnv().nranks > 1
    with StopRequest(in_job) as request, ops.using(config.train.ops), paddle.utils.unique_name.guard():
        run = _prepare(config, console or Console(markup=False, emoji=False, highlight=False))
        train = config.train
        if len(run.rows) >= train.epochs or not is_patient(run.rows, train.patience):
            run.console.print(
                f"nothing to do: train.epochs is {train.epochs}, train.patience {train.patience}"
            )
        else:
            _train(run, request)
        return run.rows


def _prepare(config: Config, console: Console) -> Run:
    """Data, network and optimiser, as they start or as the run's checkpoint has them."""
    train, seed = config.train, config.train.seed
    check_device(train.device)
    device = set_device(train.device)
    for key, value, wish in (
        ("amp", train.amp, "mixed precision"),
        ("sync_bn", train.sync_bn, "batch norm over processes"),
    ):
        if value and not device.startswith("gpu"):
            raise UserError(
                f"train.{key} is {value!r}, but this run is on the {device}, where Paddle has no {wish}: expected null, or a GPU"
            )
    processes = Processes(device)
    if not processes.is_first:
        console = Console(quiet=True)
    random.seed(seed), np.random.seed(seed), paddle.seed(seed)
    with processes.first_alone():
        loader, eval_loader = (make_loader(config, part, processes) for part in ("train", "eval"))
    classes = loader.dataset.classes
    if eval_loader.dataset.classes != classes:
        differ = sorted(set(classes) ^ set(eval_loader.dataset.classes))
        raise UserError(
            f"{config.data.root}: train/ and eval/ must have the same class folders, found {differ[0]} in only one of them"
        )

    folder = Path(train.output)
    resuming = train.resume not in (False, "false") and has_checkpoint(folder)
    # a checkpoint has all weights: none to start from are needed
    start = (
        dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=False, weights=None))
        if resuming
        else config
    )
    net = make_network(start, len(classes))
    if train.sync_bn:
        net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
    schedule = make_schedule(config.optim, train.epochs, len(loader), processes.count)
    optimizer = make_optimizer(config.optim, schedule, net.parameters())
    size = make_preprocess(config).size
    console.print(
        f"{config.model.name}, attention {config.model.attn or 'none'}, {size} px, {len(classes)} classes, on {device}",
        end="",
    )
    console.print(f" in {processes.count} processes" if processes.count > 1 else "")
    console.print(str(profile(net, size)), soft_wrap=True)
    if start.model.weights:
        report = load_weights(net, start.model.weights, new_classifier=True)
        anew = f"; the classifier starts anew ({'; '.join(report.mismatched)})" if report.mismatched else ""
        console.print(
            f"started from {start.model.weights}: {len(report.loaded)} tensors{anew}", soft_wrap=True
        )
    console.print(f"{len(loader.dataset)} images to learn from, {len(eval_loader.dataset)} to test with")

    average = (
        WeightAverage(net, config.optim.ema_decay) if config.optim.ema_decay else None
    )  # starts as the weights that were loaded
    parts = Parts(net, optimizer, average)
    rows, within, damaged = load_run(folder, parts, config, processes.count) if resuming else ([], None, "")
    if damaged:
        console.print(damaged, soft_wrap=True)
    if resuming:
        console.print(
            f"going on after {f'step {within.step} of epoch {len(rows) + 1}' if within else f'epoch {len(rows)}'} of {folder}"
        )
    if not processes.agrees(
        len(rows) * 10**9 + (within.step if within else 0)
    ):  # and all have looked at the folder
        raise UserError(
            f"the processes would go on from different checkpoints: expected {folder} to be the same folder for all of them"
        )
    if not resuming and processes.is_first and has_checkpoint(folder):
        console.print(f"the earlier run in {folder} was moved to {_move_aside(folder)}")
    return Run(config, folder, processes, console, loader, eval_loader, parts, rows, within)


def _train(run: Run, request: StopRequest) -> None:
    """Train to the end of the run; its rows grow, its folder is written by the first process."""
    config, train, folder, processes, console, rows = (
        run.config,
        run.config.train,
        run.folder,
        run.processes,
        run.console,
        run.rows,
    )
    if processes.is_first:
        write_text(folder / "config.yaml", dump_config(config))
        write_text(folder / "classes.txt", "".join(f"{name}\n" for name in run.loader.dataset.classes))
    history = History(folder, rows) if processes.is_first else None
    if history:
        history.add_settings(_settings(config))
        history.add_samples(_samples(run.loader.dataset, make_preprocess(config)))

    def after_epoch(row: Row) -> bool:
        rows.append(row)
        if history:
            history.add(row)
            best = save_epoch(folder, run.parts, rows, config, processes.count)
            console.print(
                f"epoch {row.epoch:3d}/{train.epochs}  lr {row.lr:<7.3g}  train loss {row.train_loss:.4f} top1 {100 * row.train_top1:5.2f} %  "
                f"eval loss {row.eval_loss:.4f} top1 {100 * row.eval_top1:5.2f} %  {row.seconds:.1f} s{'  best' if best else ''}",
                soft_wrap=True,
            )
        if not (patient := is_patient(rows, train.patience)):
            console.print(f"eval top-1 has not risen for {train.patience} epochs (train.patience): stopped")
        number = processes.largest(request.signal or 0)
        if number and patient and row.epoch < train.epochs:
            processes.wait()  # until the first has saved: the launcher kills the job when one of them has ended
            raise stopped(number, f"after epoch {row.epoch}")
        return patient

    def after_step(epoch: int, step: int, within: Callable[[], Within]) -> None:
        number = processes.largest(request.signal or 0)  # all stop after the same step
        if number or (train.checkpoint_steps and step % train.checkpoint_steps == 0):
            reached = within()
            if processes.is_first:
                save_step(folder, run.parts, rows, config, processes.count, reached)
        if number:
            processes.wait()
            raise stopped(number, f"after step {step} of epoch {epoch}")

    def stopped(number: int, where: str) -> Stopped:
        go_on = f"tools/train.py -c {folder / 'config.yaml'} --resume"
        command = (
            f"python {go_on}" if processes.count == 1 else f"python -m paddle.distributed.launch … {go_on}"
        )
        return Stopped(f"{signal.Signals(number).name} {where}, all is saved; go on with: {command}", number)

    def not_a_number(epoch: int, step: int, lr: float) -> None:
        last = (
            f"the last good checkpoint is {folder / STATE}, of epoch {rows[-1].epoch}"
            if rows
            else "there is no checkpoint yet"
        )
        raise UserError(
            f"the loss is no finite number at step {step} of epoch {epoch}, learning rate {lr:.3g}: {last}; try a smaller optim.lr or optim.clip_norm"
        )

    loss = ClassificationLoss(config.optim.label_smoothing)
    per_epoch, first_epoch, accumulate = (
        config.optim.schedule_unit == "epoch",
        len(rows),
        config.optim.accumulate,
    )
    recorder = EpochRecorder(
        run.loader,
        run.eval_loader,
        loss,
        train.seed,
        first_epoch,
        after_epoch,
        after_step,
        within=run.within,
        accumulate=accumulate,
        average=run.parts.average,
        processes=processes,
        not_a_number=not_a_number if train.stop_on_nan else None,
    )
    bar = ProgressBar(console, train.epochs, first_epoch)
    # the schedule is first: the rate has moved when a step is saved
    callbacks = [paddle.callbacks.LRScheduler(by_step=not per_epoch, by_epoch=per_epoch), recorder, bar]
    with without_flags():
        model = paddle.Model(run.parts.net)
    model.prepare(run.parts.optimizer, loss, Accuracy(), amp_configs=train.amp)
    epochs = train.epochs - first_epoch
    try:
        model.fit(
            run.loader,
            run.eval_loader,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
            accumulate_grad_batches=accumulate,
        )
    finally:
        bar.progress.stop()
        if history:
            history.close()
    best = max(rows, key=lambda row: row.eval_top1)
    console.print(
        f"best eval top-1 {100 * best.eval_top1:.2f} % at epoch {best.epoch}: {folder / 'best.pdparams'}",
        soft_wrap=True,
    )


def is_patient(rows: list[Row], patience: int | None) -> bool:
    """Whether the best eval top-1 was reached within the last `patience` epochs; always without one."""
    best = max(rows, key=lambda row: row.eval_top1, default=None)  # the first of equals
    return patience is None or best is None or rows[-1].epoch - best.epoch < patience


def _move_aside(folder: Path) -> Path:
    number = 1
    while (aside := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def _samples(dataset, preprocess: Preprocess, count: int = 16) -> np.ndarray:
    """Evenly spread training images as the network gets them, turned back into pixels: uint8 `[N, H, W, 3]`."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    images = np.stack([dataset.load(int(index)) for index in chosen]).transpose(0, 2, 3, 1)
    return (
        ((images * np.float32(preprocess.std) + np.float32(preprocess.mean)) * 255)
        .round()
        .clip(0, 255)
        .astype("uint8")
    )


def _settings(config: Config) -> dict[str, str | float]:
    """The config as a flat table of numbers and texts."""
    flat: dict[str, str | float] = {}
    for section, values in dataclasses.asdict(config).items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = (
                value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
            )
    return flat
