"""The work of this project, as its tools do it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn
from rich.console import Console

from paddle_attn import Predictor, create_attention, create_model, ops
from paddle_attn.config import AugmentConfig, Config, DataConfig, ModelConfig, TrainConfig
from paddle_attn.data.folder import ImageFolder
from paddle_attn.data.loader import Loader
from paddle_attn.data.transforms import Augment, Preprocess
from paddle_attn.deploy.description import read_description
from paddle_attn.deploy.export import export_model
from paddle_attn.deploy.formats import FORMATS
from paddle_attn.ops.layers import BatchNorm2D, Conv2D, MaxPool2D, ReLU
from paddle_attn.train.optim import Momentum

from .gradient import backward

Step = Callable[[], object]


def in_form(form: str, step: Step) -> Step:
    """The step with the fused operators ('on') or the reference forms ('off')."""

    def formed() -> object:
        with ops.using(form):
            return step()

    return formed


LAYERS: dict[str, Callable[[int], nn.Layer]] = {  # parts of networks that are not attention
    "conv3x3": lambda channels: Conv2D(channels, channels, 3, padding=1, bias_attr=False),
    "depthwise": lambda channels: Conv2D(channels, channels, 3, padding=1, groups=channels, bias_attr=False),
    "max_pool": lambda channels: MaxPool2D(2, 2),
    "batch_norm": BatchNorm2D,
    "relu": lambda channels: ReLU(),
}


def module_step(name: str, shape: list[int], mode: str, form: str = "on") -> Step:
    """A module, forward and backward ('train') or 'forward'; 'elementwise' passes once over the map."""
    module = LAYERS[name](shape[1]) if name in LAYERS else create_attention(name, shape[1])
    x = paddle.randn(shape)
    gradient = paddle.randn(module(x).shape)
    if mode == "elementwise":
        return paddle.no_grad()(lambda: paddle.scale(x, 2.0))
    if mode == "forward":
        return in_form(form, paddle.no_grad()(lambda: module(x)))
    x.stop_gradient = False

    def step() -> None:
        x.clear_gradient(False)  # Paddle ignores set_to_zero as a keyword
        module.clear_gradients(set_to_zero=False)
        backward(module(x), gradient)

    return in_form(form, step)


class Training:
    """A network, its optimiser and one batch."""

    def __init__(self, model: str, attn: str | None, size: int, batch: int):
        self.net = create_model(model, attn, num_classes=16)
        self.optimizer = Momentum(0.01, 0.9, self.net.parameters(), weight_decay=1e-4)
        self.batch = paddle.randn([batch, 3, size, size]), paddle.randint(0, 16, [batch])

    def step(self, images: paddle.Tensor, labels: paddle.Tensor) -> float:
        loss = F.cross_entropy(self.net(images), labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.clear_grad(set_to_zero=False)  # as in `minimize`
        return float(loss)


def train_step(
    model: str, attn: str | None, size: int, batch: int, form: str = "on", bfloat16: bool = False
) -> Step:
    """A training step on a batch in memory."""
    training = Training(model, attn, size, batch)

    def step() -> float:
        with ops.autocast(bfloat16):
            return training.step(*training.batch)

    return in_form(form, step)


def infer_step(model: str, attn: str | None, size: int, batch: int, folder: str) -> Step:
    """The exported model on a batch; exports it into the folder if this does not exist."""
    if not Path(folder).exists():
        net, classes = create_model(model, attn, num_classes=16), [f"class {index}" for index in range(16)]
        export_model(net, folder, preprocess_to(size), classes, np.zeros([1, 3, size, size], "float32"))
    predictor = Predictor(folder)
    images = np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32")
    return lambda: predictor.probabilities(images)


def engine_step(model: str, attn: str | None, size: int, batch: int, folder: str, precision: str) -> Step:
    """The export to ONNX in the fastest engine; exports it, with its int8 form, if there is none."""
    if not Path(folder).exists():
        net, classes = create_model(model, attn, num_classes=16), [f"class {index}" for index in range(16)]
        images = np.random.default_rng(0).standard_normal([4, 3, size, size]).astype("float32")
        export_model(net, folder, preprocess_to(size), classes, images, format="onnx")
        FORMATS["onnx"].quantise(Path(folder), [images])
        read_description(Path(folder)).write(Path(folder))
    predictor = Predictor(folder, precision=precision)
    images = np.random.default_rng(0).standard_normal([batch, 3, size, size]).astype("float32")
    return lambda: predictor.probabilities(images)


def preprocess_to(size: int) -> Preprocess:
    return Preprocess(size, "stretch", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def make_loader(root: str, size: int, batch: int, cache: int) -> Loader:
    images = ImageFolder(root, preprocess_to(size), Augment(AugmentConfig(rotation=10.0)), cache=cache)
    return Loader(images, batch, shuffle=True)


def load_step(root: str, size: int, batch: int, cache: int = 512) -> Step:
    """An epoch of loading."""
    loader = make_loader(root, size, batch, cache)
    return lambda: sum(len(labels) for _, labels in loader)


def epoch_step(root: str, size: int, batch: int, how: str) -> Callable[[], float]:
    """An epoch of TowerNet-SimAM; the step returns the seconds for which it waited for batches.

    Args:
        how: 'loaded' from the images by a bare loop; or with as many batches in memory, 'bare' by a bare
            loop, or 'loop' by the training loop of the project.
    """
    loader = make_loader(root, size, batch, 512)
    training = Training("towernet", "simam", size, batch)
    if how == "loaded":
        return lambda: train_epoch_bare(training, loader)
    batches = BatchesInMemory([training.batch] * len(loader))
    if how == "bare":
        return lambda: train_epoch_bare(training, batches)
    return training_loop(batches, root, size, batch)


def train_epoch_bare(training: Training, batches: Iterable[tuple[paddle.Tensor, paddle.Tensor]]) -> float:
    """Train on the batches; returns the seconds for which it waited for them."""
    waited, asked = 0.0, time.perf_counter()
    for images, labels in batches:
        waited += time.perf_counter() - asked
        training.step(images, labels)
        asked = time.perf_counter()
    return waited


class BatchesInMemory(list):
    """A list of batches with the interface of a Loader in one process."""

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        pass

    def shard_length(self, step: int) -> int:
        return len(self[step][1])

    step_length = shard_length


def training_loop(batches: BatchesInMemory, root: str, size: int, batch: int) -> Callable[[], float]:
    """An epoch of `paddle_attn.train` on batches in memory, without evaluation and checkpoint."""
    from paddle_attn.train.loop import prepare, train_epoch

    with tempfile.TemporaryDirectory() as folder:  # prepare makes the run's folder, nothing writes there
        config = Config(
            model=ModelConfig("towernet", "simam"),
            data=DataConfig(root=str(Path(root).parent), size=size),
            train=TrainConfig(batch_size=batch, epochs=1, device="cpu", output=folder),
        )
        run = prepare(config, Console(quiet=True))
    classes = len(run.classes)
    batches = BatchesInMemory((images, labels % classes) for images, labels in batches)
    run = dataclasses.replace(run, loader=batches)

    def step() -> float:
        run.state.progress = None  # the epoch starts again
        return sum(0.0 for _ in train_epoch(run))

    return step
