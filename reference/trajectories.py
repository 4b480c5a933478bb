"""Trains our networks as their authors' were trained and compares what the training shows.

`golden/trajectories/public.json` holds twenty steps of SGD of the authors' PyTorch networks in double
precision, from prescribed weights on prescribed batches, with tolerances from PyTorch's float32. Our own
parts make the same steps: `create_model`, the reading of PyTorch's names, the optimiser, the loss and the
training loop. With Paddle's default type float64 they make them in double precision too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
from numpy.typing import ArrayLike
from paddle import nn
from rich.console import Console

from paddle_attn.config import Config, OptimConfig, TrainConfig
from paddle_attn.train.distributed import ProcessGroup
from paddle_attn.train.loop import Run, train_epoch
from paddle_attn.train.loss import ClassificationLoss
from paddle_attn.train.optim import make_optimizer, make_schedule
from paddle_attn.train.signals import StopSignal
from paddle_attn.train.state import TrainState
from paddle_attn.weights import load_state
from paddle_attn.weights.torch_keys import paddle_keys

from .compare import prescribed_state, reference_network

EVAL_BATCH = 1000  # the number of the batch that is evaluated
# the tolerances rest on two or three float32 runs of PyTorch, which may all have been lucky
WIDER = {
    "imagenet/resnet18/simam": (
        5,
        "one input of a ReLU in the first batch is -2.5e-7, closer to 0 than float32 is exact, and has "
        "the other sign in both of our forms; it turns a gradient by a thousandth",
    )
}

Batch = tuple[np.ndarray, np.ndarray]  # images [N, 3, H, W] and labels [N]


@dataclass(frozen=True)
class Recipe:
    """How the authors' network was trained."""

    seed: int  # of the batches
    steps: int
    classes: int
    momentum: float
    weight_decay: float  # of every parameter
    lr: float
    input: tuple[int, ...]  # the shape of a batch

    def batch(self, number: int) -> Batch:
        rng = np.random.default_rng([self.seed, number])
        images = rng.standard_normal(self.input).astype("float32")
        return images.astype(paddle.get_default_dtype()), rng.integers(0, self.classes, self.input[0])


@dataclass(frozen=True)
class Batches:
    """The batches of a recipe, as the training loop reads its loader."""

    recipe: Recipe

    def set_epoch(self, epoch: int, first_step: int) -> None:
        """Every recipe has one epoch."""

    def __iter__(self) -> Iterator[Batch]:
        return map(self.recipe.batch, range(self.recipe.steps))


def trajectories(golden: Path) -> list[str]:
    """The networks that the reference trains, such as 'cifar/resnet20/cbam'."""
    return list(_read(golden)["networks"])


def recipe_of(golden: Path, name: str) -> Recipe:
    """How the reference trains a network."""
    common = _read(golden)
    shared = {key: common[key] for key in ("seed", "steps", "classes", "momentum", "weight_decay")}
    own = common["networks"][name]
    return Recipe(**shared, lr=own["lr"], input=tuple(own["input"]))


def training_differences(
    golden: Path, name: str, change: Callable[[nn.Layer], None] = lambda net: None, lr_factor: float = 1.0
) -> dict[str, float]:
    """The largest `|ours - theirs| / tolerance` of everything that the reference states of a training.

    Args:
        golden: the folder of the reference.
        name: one of `trajectories(golden)`.
        change: makes our network wrong before the training, to see whether the comparison catches it.
        lr_factor: makes the learning rate wrong.

    Returns: shares of the tolerances, so at most 1 for the same training:
        'losses' of the twenty steps; 'first logits' and 'first gradients' (their norms) of the first batch;
        'eval logits after <step>', of a fixed batch; 'parameters', six of them after the training: norm and
        first values; 'norms', of all parameters after the training; 'running statistics' of the first batch
        norm. The reference has the last three kinds for a running variance of either convention: these are
        for Paddle's (the sum of squares divided by n), and 'unbiased eval logits after <step>' for
        PyTorch's (by n - 1).
    """
    recipe, theirs = recipe_of(golden, name), _read(golden)["networks"][name]
    start = prescribed_state(golden, name)
    net = reference_network(golden, name)
    change(net)
    ours = paddle_keys(start, net)
    found = {}

    logits, gradients = first_batch(net, recipe)
    found["first logits"] = share(
        logits, theirs["train_logits_first_batch"], theirs["train_logits_first_batch_tolerance"]
    )
    found["first gradients"] = share_of_norms(
        {key: gradients[ours[key]] for key in theirs["grad_norms_first_batch"]},
        theirs["grad_norms_first_batch"],
        theirs["grad_norms_first_batch_rel_tolerance"],
    )

    load_state(net, start, name, torch_style=True)  # the first batch has moved the running statistics
    losses = []
    for step, loss in enumerate(train(net, recipe, lr_factor), start=1):
        losses.append(loss)
        if allowed := theirs["eval_logits_tolerance"].get(str(step)):
            logits = evaluate(net, recipe.batch(EVAL_BATCH)[0])
            for kind, key in (("", "eval_logits_biased_var"), ("unbiased ", "eval_logits")):
                found[f"{kind}eval logits after {step}"] = share(logits, theirs[key][str(step)], allowed)
    found["losses"] = share(losses, theirs["losses_float64"], theirs["loss_tolerance"])

    state = {key: value.numpy() for key, value in net.state_dict().items()}
    found["parameters"] = max(
        share_of_parameter(state[ours[part["name"]]], part) for part in theirs["params_after"].values()
    )
    found["norms"] = share_of_norms(
        {key: state[ours[key]] for key in theirs["param_norms_after"]},
        theirs["param_norms_after"],
        theirs["param_norms_rel_tolerance"],
    )
    bn = theirs["first_bn"]
    found["running statistics"] = max(
        share(norm(state[ours[f"{bn['name']}.{key}"]]), bn[stated], bn[f"{stated}_tolerance"])
        for key, stated in (("running_mean", "running_mean_norm"), ("running_var", "running_var_norm_biased"))
    )
    return found


def first_batch(net: nn.Layer, recipe: Recipe) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The logits of the first batch in train mode, and the gradient of each parameter."""
    images, labels = map(paddle.to_tensor, recipe.batch(0))
    net.train()
    logits = net(images)
    ClassificationLoss()(logits, labels).backward()
    gradients = {key: value.grad.numpy() for key, value in net.named_parameters() if value.trainable}
    net.clear_gradients(set_to_zero=False)
    return logits.numpy(), gradients


def train(net: nn.Layer, recipe: Recipe, lr_factor: float = 1.0) -> Iterator[float]:
    """Train with the project's loop. Yields the loss of each step, when its update is done."""
    config = Config(
        optim=OptimConfig(
            name="momentum",
            lr=recipe.lr * lr_factor,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            schedule="constant",
        ),
        train=TrainConfig(epochs=1, batch_size=recipe.input[0]),
    )
    schedule = make_schedule(config.optim, config.train.epochs, recipe.steps)
    state = TrainState(net, make_optimizer(config.optim, schedule, net.parameters()))
    model, loss = paddle.Model(net), ClassificationLoss()
    model.prepare(state.optimizer, loss, paddle.metric.Accuracy(topk=(1, 5)))
    yield from train_epoch(
        Run(
            config,
            ProcessGroup("cpu"),
            Console(quiet=True),
            loader=Batches(recipe),
            eval_loader=None,  # nothing is evaluated or saved by the loop
            steps=recipe.steps,
            folder=None,
            state=state,
            model=model,
            loss=loss,
            stop=StopSignal(),
        )
    )


def evaluate(net: nn.Layer, images: np.ndarray) -> np.ndarray:
    """The logits in eval mode."""
    net.eval()
    with paddle.no_grad():
        return net(paddle.to_tensor(images)).numpy()


def norm(value: np.ndarray) -> float:
    return float(np.linalg.norm(value.astype("float64")))


def share(found: ArrayLike, expected: ArrayLike, tolerance: ArrayLike) -> float:
    """The largest difference in units of the tolerance."""
    return float(np.max(np.abs(np.asarray(found) - np.asarray(expected)) / np.asarray(tolerance)))


def share_of_norms(
    found: Mapping[str, np.ndarray], norms: Mapping[str, float], relative_tolerance: float
) -> float:
    """`share` of the norms of tensors, with the reference's tolerance for norms."""
    return max(
        share(norm(found[key]), expected, relative_tolerance * (expected + 1e-6))
        for key, expected in norms.items()
    )


def share_of_parameter(value: np.ndarray, part: Mapping) -> float:
    """`share` of a parameter's norm and first values; a matrix is [in, out] here and [out, in] there."""
    values = value.T if value.ndim == 2 else value
    return max(
        share(norm(values), part["norm"], part["norm_tolerance"]),
        share(values.ravel()[: len(part["first8"])], part["first8"], part["first8_tolerance"]),
    )


def _read(golden: Path) -> dict:
    return json.loads((golden / "trajectories" / "public.json").read_text(encoding="utf-8"))
