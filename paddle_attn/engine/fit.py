"""Training: from a config to a folder with weights, figures and pictures, through `paddle.Model.fit`."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import numpy as np
import paddle
from rich.console import Console

from .. import ops
from ..complexity import profile
from ..config import Config, dump_config
from ..data.transforms import Preprocess
from ..errors import Stopped, UserError
from ..files import write_text
from ..weights import load_weights
from .average import WeightAverage
from .callbacks import EpochRecorder, ProgressBar
from .checkpoints import STATE, Parts, Within, has_checkpoint, load_run, save_epoch, save_step
from .history import History, Row
from .optim import ClassificationLoss, make_optimizer, make_schedule
from .parts import make_loader, make_network, make_preprocess, set_device
from .signals import StopRequest


def fit(config: Config, console: Console | None = None) -> list[Row]:
    """Train the config's network on its data; everything is written to `train.output`.

    With `train.resume` the run goes on from its newest whole checkpoint; without, an earlier run in the same folder is moved aside.

    Returns: the history, a row an epoch.

    Raises: UserError for what the user can mend, before anything is written where that is possible; Stopped after Ctrl-C or SIGTERM,
    when the step is done and saved.
    """
    # the optimiser's state is kept by names, which must be those of a new process
    with StopRequest() as request, ops.using(config.train.ops), paddle.utils.unique_name.guard():
        return _fit(config, console or Console(markup=False, emoji=False, highlight=False), request)


def _fit(config: Config, console: Console, request: StopRequest) -> list[Row]:
    train, seed = config.train, config.train.seed
    device = set_device(train.device)
    if train.amp and not device.startswith("gpu"):
        raise UserError(f"train.amp is '{train.amp}', but this run is on the {device}, where Paddle has no mixed precision: expected null, or a GPU")
    random.seed(seed), np.random.seed(seed), paddle.seed(seed)
    train_loader, eval_loader = make_loader(config, "train"), make_loader(config, "eval")
    classes = train_loader.dataset.classes
    if eval_loader.dataset.classes != classes:
        differ = sorted(set(classes) ^ set(eval_loader.dataset.classes))
        raise UserError(f"{config.data.root}: train/ and eval/ must have the same class folders, found {differ[0]} in only one of them")

    folder = Path(train.output)
    resuming = train.resume not in (False, "false") and has_checkpoint(folder)
    # a checkpoint has all weights: none to start from are needed
    start = dataclasses.replace(config, model=dataclasses.replace(config.model, pretrained=False, weights=None)) if resuming else config
    net = make_network(start, len(classes))
    schedule = make_schedule(config.optim, train.epochs, len(train_loader))
    optimizer = make_optimizer(config.optim, schedule, net.parameters())
    size = make_preprocess(config).size
    console.print(f"{config.model.name}, attention {config.model.attn or 'none'}, {size} px, {len(classes)} classes, on {device}")
    console.print(str(profile(net, size)), soft_wrap=True)
    if start.model.weights:
        report = load_weights(net, start.model.weights, new_classifier=True)
        anew = f"; the classifier starts anew ({'; '.join(report.mismatched)})" if report.mismatched else ""
        console.print(f"started from {start.model.weights}: {len(report.loaded)} tensors{anew}", soft_wrap=True)
    console.print(f"{len(train_loader.dataset)} images to learn from, {len(eval_loader.dataset)} to test with")

    average = WeightAverage(net, config.optim.ema_decay) if config.optim.ema_decay else None  # starts as the weights that were loaded
    parts = Parts(net, optimizer, average)
    rows, within, damaged = load_run(folder, parts, config) if resuming else ([], None, "")
    if damaged:
        console.print(damaged, soft_wrap=True)
    if resuming:
        console.print(f"going on after {f'step {within.step} of epoch {len(rows) + 1}' if within else f'epoch {len(rows)}'} of {folder}")
    elif has_checkpoint(folder):
        console.print(f"the earlier run in {folder} was moved to {_move_aside(folder)}")
    if len(rows) >= train.epochs or not is_patient(rows, train.patience):
        console.print(f"nothing to do: train.epochs is {train.epochs}, train.patience {train.patience}")
        return rows
    write_text(folder / "config.yaml", dump_config(config))
    write_text(folder / "classes.txt", "".join(f"{name}\n" for name in classes))

    history = History(folder, rows)
    history.add_settings(_settings(config))
    history.add_samples(_samples(train_loader.dataset, make_preprocess(config)))

    def after_epoch(row: Row) -> bool:
        history.add(row)
        best = save_epoch(folder, parts, history.rows, config)
        console.print(
            f"epoch {row.epoch:3d}/{train.epochs}  lr {row.lr:<7.3g}  train loss {row.train_loss:.4f} top1 {100 * row.train_top1:5.2f} %  "
            f"eval loss {row.eval_loss:.4f} top1 {100 * row.eval_top1:5.2f} %  {row.seconds:.1f} s{'  best' if best else ''}",
            soft_wrap=True,
        )
        if not (patient := is_patient(history.rows, train.patience)):
            console.print(f"eval top-1 has not risen for {train.patience} epochs (train.patience): stopped")
        if request.signal and patient and row.epoch < train.epochs:
            raise stopped(f"after epoch {row.epoch}")
        return patient

    def after_step(epoch: int, step: int, within: Within) -> None:
        if request.signal or (train.checkpoint_steps and step % train.checkpoint_steps == 0):
            save_step(folder, parts, history.rows, config, within)
        if request.signal:
            raise stopped(f"after step {step} of epoch {epoch}")

    def stopped(where: str) -> Stopped:
        go_on = f"python tools/train.py -c {folder / 'config.yaml'} --resume"
        return Stopped(f"{request.signal.name} {where}, all is saved; go on with: {go_on}", request.signal)

    def not_a_number(epoch: int, step: int, lr: float) -> None:
        last = f"the last good checkpoint is {folder / STATE}, of epoch {history.rows[-1].epoch}" if history.rows else "there is no checkpoint yet"
        raise UserError(
            f"the loss is no finite number at step {step} of epoch {epoch}, learning rate {lr:.3g}: {last}; try a smaller optim.lr or optim.clip_norm"
        )

    guard = not_a_number if train.stop_on_nan else None
    loss = ClassificationLoss(config.optim.label_smoothing)
    per_epoch = config.optim.schedule_unit == "epoch"
    bar = ProgressBar(console, train.epochs, len(rows))
    callbacks = [
        paddle.callbacks.LRScheduler(by_step=not per_epoch, by_epoch=per_epoch),  # first: the rate has moved when a step is saved
        EpochRecorder(train_loader, loss, seed, len(rows), after_epoch, after_step, within, config.optim.accumulate, average, guard),
        bar,
    ]
    model = paddle.Model(net)
    model.prepare(optimizer, loss, paddle.metric.Accuracy(topk=(1, 5)), amp_configs=train.amp)
    epochs, accumulate = train.epochs - len(rows), config.optim.accumulate
    try:
        model.fit(train_loader, eval_loader, epochs=epochs, verbose=0, callbacks=callbacks, accumulate_grad_batches=accumulate)
    finally:
        bar.progress.stop()
        history.close()
    best = max(history.rows, key=lambda row: row.eval_top1)
    console.print(f"best eval top-1 {100 * best.eval_top1:.2f} % at epoch {best.epoch}: {folder / 'best.pdparams'}", soft_wrap=True)
    return history.rows


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
    return ((images * np.float32(preprocess.std) + np.float32(preprocess.mean)) * 255).round().clip(0, 255).astype("uint8")


def _settings(config: Config) -> dict[str, str | float]:
    """The config as a flat table of numbers and texts."""
    flat: dict[str, str | float] = {}
    for section, values in dataclasses.asdict(config).items():
        for key, value in values.items():
            flat[f"{section}.{key}"] = value if isinstance(value, (int, float)) and not isinstance(value, bool) else str(value)
    return flat
