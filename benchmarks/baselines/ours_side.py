"""The same work by this project, as its tools do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from rich.console import Console

from paddle_attn import Predictor, create_attention, create_model, ops
from paddle_attn.config import AugmentConfig
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.loader import Loader
from paddle_attn.data.transforms import Augment, Preprocess
from paddle_attn.deploy.export import export_model
from paddle_attn.models.layers import Conv2D, MaxPool2D
from paddle_attn.train.callbacks import EpochRecorder, ProgressBar
from paddle_attn.train.optim import ClassificationLoss

Step = Callable[[], object]


def in_form(form: str, step: Step) -> Step:
    """The step with the compiled operators ('on') or without ('off')."""

    def formed() -> object:
        with ops.using(form):
            return step()

    return formed


LAYERS: dict[str, Callable[[int], nn.Layer]] = {  # what networks have beside attention
    "conv3x3": lambda channels: Conv2D(channels, channels, 3, padding=1, bias_attr=False),
    "depthwise": lambda channels: Conv2D(channels, channels, 3, padding=1, groups=channels, bias_attr=False),
    "max_pool": lambda channels: MaxPool2D(2, 2),
    "batch_norm": nn.BatchNorm2D,
    "relu": lambda channels: nn.ReLU(),
}


def module_step(name: str, shape: list[int], mode: str, form: str = "on") -> Step:
    attn = LAYERS[name](shape[1]) if name in LAYERS else create_attention(name, shape[1])
    x = paddle.randn(shape)
    gradient = paddle.randn(attn(x).shape)
    if mode == "elementwise":
        return paddle.no_grad()(lambda: paddle.scale(x, 2.0))
    if mode == "forward":
        return in_form(form, paddle.no_grad()(lambda: attn(x)))
    x.stop_gradient = False

    def step() -> None:
        x.clear_gradient()
        attn.clear_gradients()
        attn(x).backward(gradient)

    return in_form(form, step)


class Training:
    """A network, its optimiser and one batch."""

    def __init__(self, model: str, attn: str | None, size: int, batch: int):
        self.net = create_model(model, attn, num_classes=16)
        self.optimizer = paddle.optimizer.Momentum(0.01, 0.9, self.net.parameters(), weight_decay=1e-4)
        self.batch = paddle.randn([batch, 3, size, size]), paddle.randint(0, 16, [batch])

    def step(self, images: paddle.Tensor, labels: paddle.Tensor) -> float:
        loss = F.cross_entropy(self.net(images), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad()
        return float(loss)


def train_step(model: str, attn: str | None, size: int, batch: int, form: str = "on") -> Step:
    training = Training(model, attn, size, batch)
    return in_form(form, lambda: training.step(*training.batch))


def infer_step(model: str, attn: str | None, size: int, batch: int, folder: str) -> Step:
    if not Path(folder).exists():
        preprocess, classes = (
            Preprocess(size, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
            [f"class {index}" for index in range(16)],
        )
        export_model(
            create_model(model, attn, num_classes=16),
            folder,
            preprocess,
            classes,
            np.zeros([1, 3, size, size], "float32"),
        )
    predictor, images = (
        Predictor(folder),
        np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32"),
    )
    return lambda: predictor.probabilities(images)


def loader_of(root: str, size: int, batch: int, cache: int) -> Loader:
    preprocess = Preprocess(size, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    images = ImageFolder(root, preprocess, Augment(AugmentConfig(rotation=10.0)), cache=cache)
    return Loader(images, batch, shuffle=True)


def load_step(root: str, size: int, batch: int, cache: int = 512) -> Step:
    """An epoch over the images, nothing else."""
    loader = loader_of(root, size, batch, cache)
    return lambda: sum(len(labels) for _, labels in loader)


def epoch_step(root: str, size: int, batch: int, how: str) -> Step:
    """An epoch of TowerNet-SimAM over as many batches: 'loaded' from the images, 'fixed' in memory, or by paddle.Model.'fit' in memory.

    The step returns the seconds that it waited for batches.
    """
    loader, training = loader_of(root, size, batch, 512), Training("towernet", "simam", size, batch)
    fixed = FixedBatches([training.batch] * len(loader))
    if how != "fit":
        return lambda: trained(training, loader if how == "loaded" else fixed)
    loss = ClassificationLoss(0.0)
    model = paddle.Model(training.net)
    model.prepare(training.optimizer, loss, paddle.metric.Accuracy(topk=(1, 5)))

    def step() -> float:
        callbacks = [
            EpochRecorder(fixed, None, loss, 0, 0, lambda row: True),
            ProgressBar(Console(), 1, 0),
            paddle.callbacks.LRScheduler(),
        ]
        model.fit(fixed, epochs=1, verbose=0, callbacks=callbacks)
        return 0.0

    return step


def trained(training: Training, batches: Iterable[tuple[paddle.Tensor, paddle.Tensor]]) -> float:
    """Train on the batches; returns the seconds that it waited for them."""
    waited, asked = 0.0, time.perf_counter()
    for images, labels in batches:
        waited += time.perf_counter() - asked
        training.step(images, labels)
        asked = time.perf_counter()
    return waited


class FixedBatches(list):
    """Batches that are there already, as a loader."""

    def shard_length(self, step: int) -> int:
        return len(self[step][1])

    def set_epoch(self, epoch: int, first_step: int) -> None:
        pass
