"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import paddle
from paddle import Tensor
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LambdaDecay, LRScheduler

from ..config import OptimConfig


def make_schedule(optim: OptimConfig, epochs: int, steps_per_epoch: int, world_size: int = 1) -> LRScheduler:
    """The learning rate over the run, in the unit of `optim.schedule_unit`; `optim.scale_lr` multiplies it by
    `world_size`.
    """
    units = 1 if optim.schedule_unit == "epoch" else steps_per_epoch  # in an epoch
    if optim.schedule == "multistep":
        drops = [epoch * units for epoch in optim.milestones]
    else:
        drops = [epoch * units for epoch in range(optim.step_epochs, epochs, optim.step_epochs)]
    factor = lr_factor(optim.schedule, epochs * units, optim.warmup_epochs * units, drops, optim.step_gamma)
    return LambdaDecay(optim.lr * world_size if optim.scale_lr else optim.lr, factor)


def lr_factor(
    schedule: str, total: int, warmup: int = 0, drops: Sequence[int] = (), gamma: float = 0.1
) -> Callable[[int], float]:
    """The factor of the base rate after `t` units (epochs or steps).

    Args:
        schedule: 'cosine' falls to 0 at `total`; 'step' and 'multistep' multiply by `gamma` at each of
            `drops`; 'constant' stays.
        warmup: the factor rises linearly and reaches 1 at this unit.
    """

    def factor(t: int) -> float:
        if t < warmup:
            return (t + 1) / (warmup + 1)
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min((t - warmup) / max(total - warmup, 1), 1)))
        return 1.0 if schedule == "constant" else gamma ** sum(drop <= t for drop in drops)

    return factor


def make_optimizer(
    optim: OptimConfig, learning_rate: LRScheduler | float, parameters: list[Tensor]
) -> Optimizer:
    """The optimiser of a config over these parameters."""
    # AdamW ignores a parameter's own regulariser, by which SRM's parameters are exempt from weight decay
    exempt = {parameter.name for parameter in parameters if parameter.regularizer is not None}
    optimizers = {
        "momentum": partial(paddle.optimizer.Momentum, momentum=optim.momentum),
        "sgd": paddle.optimizer.SGD,
        "adam": paddle.optimizer.Adam,
        "adamw": partial(paddle.optimizer.AdamW, apply_decay_param_fun=lambda name: name not in exempt),
    }
    return optimizers[optim.name](
        learning_rate=learning_rate,
        parameters=parameters,
        weight_decay=optim.weight_decay,
        grad_clip=paddle.nn.ClipGradByGlobalNorm(optim.clip_norm) if optim.clip_norm else None,
    )
