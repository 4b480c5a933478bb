"""Optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import paddle
from paddle import Tensor
from paddle.nn import ClipGradByGlobalNorm
from paddle.optimizer import Optimizer
from paddle.optimizer.lr import LambdaDecay, LRScheduler

from .. import ops
from ..config import OptimConfig
from ..ops.table import Fused


def make_schedule(optim: OptimConfig, epochs: int, steps_per_epoch: int, world_size: int = 1) -> LRScheduler:
    """The learning rate over the run, in the unit of `optim.schedule_unit`; `optim.scale_lr` multiplies it by
    `world_size`.
    """
    units = 1 if optim.schedule_unit == "epoch" else steps_per_epoch  # in an epoch
    if optim.schedule == "multistep":
        drops = [epoch * units for epoch in optim.milestones]
    else:
        drops = [epoch * units for epoch in range(optim.step_epochs, epochs, optim.step_epochs)]
    factor = lr_factor(
        optim.schedule, epochs * units, optim.warmup_epochs * units, drops, optim.step_gamma, optim.t_max
    )
    return LambdaDecay(optim.lr * world_size if optim.scale_lr else optim.lr, factor)


def lr_factor(
    schedule: str,
    total: int,
    warmup: int = 0,
    drops: Sequence[int] = (),
    gamma: float = 0.1,
    t_max: int | None = None,
) -> Callable[[int], float]:
    """The factor of the base rate after `t` units (epochs or steps).

    Args:
        schedule: 'cosine' falls to 0 at `total`; 'step' and 'multistep' multiply by `gamma` at each of
            `drops`; 'constant' stays.
        warmup: the factor rises linearly and reaches 1 at this unit.
        t_max: of the cosine, which then falls to 0 over so many units and rises again, as
            `paddle.optimizer.lr.CosineAnnealingDecay` does.
    """

    def factor(t: int) -> float:
        if t < warmup:
            return (t + 1) / (warmup + 1)
        if schedule == "cosine" and t_max:
            return 0.5 * (1 + math.cos(math.pi * (t - warmup) / t_max))
        if schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * min((t - warmup) / max(total - warmup, 1), 1)))
        return 1.0 if schedule == "constant" else gamma ** sum(drop <= t for drop in drops)

    return factor


class DropsGradients:
    """An optimiser whose `minimize` drops the gradients: the next backward writes new ones.

    `paddle.Model` would fill them with zeros, to which the next backward adds: two more passes over them.
    """

    def minimize(self, *arguments, **keywords):
        result = super().minimize(*arguments, **keywords)
        self.clear_grad(set_to_zero=False)
        return result


class FusedUpdate(DropsGradients):
    """An optimiser that clips, decays and updates all parameters in one fused operator when it is supported.

    Its state has the names and the content of Paddle's class, and the formula is Paddle's: a checkpoint of
    one form continues in the other. Without clipping both give the same bits; the norm that clipping uses is
    rounded less here.
    """

    operator: str  # its name in the table of `ops`
    states: tuple[str, ...]  # Paddle's names for a parameter's state, in the order of the operator's inputs

    def _apply_optimize(self, loss, startup_program, params_grads, param_group_idx=0):
        fused = self._fused(params_grads)
        if fused is None:
            return super()._apply_optimize(loss, startup_program, params_grads, param_group_idx)
        parameters = [parameter for parameter, _ in params_grads]
        self._create_accumulators(paddle.static.default_main_program().global_block(), parameters)
        lr = self.get_lr()
        fused(
            parameters,
            [gradient.contiguous() for _, gradient in params_grads],
            *(
                [self._accumulators[state][parameter.name] for parameter in parameters]
                for state in self.states
            ),
            [lr * parameter.optimize_attr["learning_rate"] for parameter in parameters],
            *self._attributes(parameters),
            self._grad_clip.clip_norm if self._grad_clip else 0.0,
        )
        return []

    def _fused(self, params_grads: list[tuple[Tensor, Tensor]]) -> Fused | None:
        """The fused operator, when it supports all parameters and everything that Paddle's class would do."""
        if not isinstance(params_grads, list):  # groups of parameters
            return None
        supported = all(
            value.dtype == paddle.float32 and value.place.is_cpu_place()
            for pair in params_grads
            for value in pair
        ) and all(
            parameter.is_contiguous()
            and parameter.need_clip
            and isinstance(parameter.regularizer, (paddle.regularizer.L2Decay, type(None)))
            for parameter, _ in params_grads
        )
        plain = type(self._grad_clip) in (ClipGradByGlobalNorm, type(None)) and not (
            getattr(self, "_use_nesterov", False) or getattr(self, "_amsgrad", False)
        )
        if not params_grads or not supported or not plain or self._get_auxiliary_var("found_inf") is not None:
            return None  # the last is of AMP
        return ops.find(self.operator, params_grads[0][0])

    def _attributes(self, parameters: list[Tensor]) -> tuple[list[float] | float, ...]:
        """The operator's attributes between the learning rates and the norm."""
        raise NotImplementedError


class SGD(DropsGradients, paddle.optimizer.SGD):
    """Paddle's SGD."""


class Momentum(FusedUpdate, paddle.optimizer.Momentum):
    """Paddle's Momentum with a fused update."""

    operator, states = "momentum", ("velocity",)

    def _attributes(self, parameters: list[Tensor]) -> tuple[list[float] | float, ...]:
        return decays(parameters, self._regularization_coeff), self._momentum


class Adam(FusedUpdate, paddle.optimizer.Adam):
    """Paddle's Adam with a fused update."""

    operator, states = "adam", ("moment1", "moment2", "beta1_pow_acc", "beta2_pow_acc")

    def _attributes(self, parameters: list[Tensor]) -> tuple[list[float] | float, ...]:
        shrinks = [0.0] * len(parameters)
        return (
            decays(parameters, self.regularization._coeff),
            shrinks,
            self._beta1,
            self._beta2,
            self._epsilon,
        )


class AdamW(FusedUpdate, paddle.optimizer.AdamW):
    """Paddle's AdamW with a fused update."""

    operator, states = Adam.operator, Adam.states

    def _attributes(self, parameters: list[Tensor]) -> tuple[list[float] | float, ...]:
        shrinks = [
            self._weight_decay * self._apply_decay_param_fun(parameter.name) for parameter in parameters
        ]
        return decays(parameters, 0.0), shrinks, self._beta1, self._beta2, self._epsilon


def decays(parameters: list[Tensor], default: float) -> list[float]:
    """The coefficient of each parameter's own L2 regulariser, else the default."""
    return [
        default if parameter.regularizer is None else parameter.regularizer._coeff for parameter in parameters
    ]


def make_optimizer(
    optim: OptimConfig, learning_rate: LRScheduler | float, parameters: list[Tensor]
) -> Optimizer:
    """The optimiser of a config over these parameters."""
    # AdamW ignores a parameter's own regulariser, by which some authors exempt parameters from weight decay
    exempt = {parameter.name for parameter in parameters if parameter.regularizer is not None}
    optimizers = {
        "momentum": partial(Momentum, momentum=optim.momentum),
        "sgd": SGD,
        "adam": Adam,
        "adamw": partial(AdamW, apply_decay_param_fun=lambda name: name not in exempt),
    }
    return optimizers[optim.name](
        learning_rate=learning_rate,
        parameters=parameters,
        weight_decay=optim.weight_decay,
        grad_clip=ClipGradByGlobalNorm(optim.clip_norm) if optim.clip_norm else None,
    )
