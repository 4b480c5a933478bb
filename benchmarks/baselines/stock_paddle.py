"""The same work in stock Paddle: SimAM's published formula, the notebook's TowerNet, paddle.vision."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import Tensor, nn
from PIL import Image

from .gradient import backward


class SimAM(nn.Layer):
    def __init__(self, e_lambda: float = 1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        others = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean([2, 3], keepdim=True)).pow(2)
        v = d.sum([2, 3], keepdim=True) / max(others, 1)
        return x * F.sigmoid(d / (4 * (v + self.e_lambda)) + 0.5)


class Inception(nn.Layer):
    def __init__(self, in_channels: int):
        super().__init__()
        self.route1 = nn.Sequential(nn.Conv2D(in_channels, 64, 1), nn.ReLU())
        self.route2 = nn.Sequential(
            nn.Conv2D(in_channels, 64, 1), nn.ReLU(), nn.Conv2D(64, 128, 3, padding=1), nn.ReLU()
        )
        self.route3 = nn.Sequential(
            nn.Conv2D(in_channels, 16, 1), nn.ReLU(), nn.Conv2D(16, 32, 5, padding=2), nn.ReLU()
        )
        self.route4 = nn.Sequential(nn.MaxPool2D(3, 1, 1), nn.Conv2D(in_channels, 32, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return paddle.concat([self.route1(x), self.route2(x), self.route3(x), self.route4(x)], axis=1)


def notebook_towernet(num_classes: int = 16) -> nn.Layer:
    """The notebook's network: biases before the batch norms, ReLU before the pools."""
    stem = []
    for in_channels, out_channels, stride in ((3, 64, 2), (64, 128, 1), (128, 256, 1), (256, 256, 1)):
        convolution = nn.Conv2D(in_channels, out_channels, 3, stride, padding=1)
        stem += [convolution, nn.BatchNorm2D(out_channels, epsilon=1e-3), nn.ReLU(), nn.MaxPool2D(2, 2)]
        if out_channels == 256:
            stem.append(SimAM())
    blocks = [
        Inception(256),
        nn.MaxPool2D(2, 2),
        SimAM(),
        Inception(256),
        nn.MaxPool2D(2, 2),
        SimAM(),
        Inception(256),
    ]
    return nn.Sequential(*stem, *blocks, nn.AvgPool2D(2), nn.Flatten(), nn.Linear(256, num_classes))


def network(model: str) -> nn.Layer:
    """A network with SimAM at the places where ours has it."""
    if model == "towernet":
        return notebook_towernet()
    net = getattr(paddle.vision.models, model)(num_classes=16)
    if model == "vgg19":
        net.features = nn.Sequential(
            *(
                nn.Sequential(SimAM(), layer) if isinstance(layer, nn.MaxPool2D) else layer
                for layer in net.features
            )
        )
    elif model == "mobilenet_v2":
        for block in net.features[1:-1]:
            depthwise = len(block.conv) - 3  # assigning to [-3] would add a layer
            convolution, bn, relu = block.conv[depthwise]
            block.conv[depthwise] = nn.Sequential(convolution, SimAM(), bn, relu)
    else:
        for stage in (net.layer1, net.layer2, net.layer3, net.layer4):
            for block in stage:
                block.conv2 = nn.Sequential(block.conv2, SimAM())
    return net


def module_step(name: str, shape: list[int], mode: str) -> Callable[[], object]:
    if name != "simam":
        raise ValueError(f"expected simam, the only module of this baseline, found {name}")
    attn, x, gradient = SimAM(), paddle.randn(shape), paddle.randn(shape)
    x.stop_gradient = False

    def step() -> None:
        x.clear_gradient(False)  # Paddle ignores set_to_zero as a keyword
        backward(attn(x), gradient)

    return step


def train_step(model: str, attn: str, size: int, batch: int) -> Callable[[], object]:
    net = network(model)
    optimizer = paddle.optimizer.Momentum(0.01, 0.9, net.parameters(), weight_decay=1e-4)
    images, labels = paddle.randn([batch, 3, size, size]), paddle.randint(0, 16, [batch, 1])

    def step() -> float:
        loss = F.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.clear_grad()
        return float(loss)

    return step


class NotebookImages(paddle.io.Dataset):
    """The notebook's data set: it decodes and resizes a sample for the image, and again for the label."""

    def __init__(self, root: str, size: int):
        super().__init__()
        classes = sorted(folder for folder in Path(root).iterdir() if folder.is_dir())
        self.samples = [
            (path, label) for label, folder in enumerate(classes) for path in sorted(folder.iterdir())
        ]
        self.size = size

    def _sample(self, index: int) -> tuple[np.ndarray, int]:
        path, label = self.samples[index]
        image = Image.open(path).convert("RGB").resize((self.size, self.size), Image.BILINEAR)
        image = np.asarray(image.rotate(random.uniform(-10, 10)), "float32") / 255
        image = (image - np.float32([0.5095035, 0.5463266, 0.5740969])) / np.float32(
            [0.26059777, 0.26041326, 0.29220656]
        )
        return image.transpose(2, 0, 1), label

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._sample(index)[0], self._sample(index)[1]

    def __len__(self) -> int:
        return len(self.samples)


def load_step(root: str, size: int, batch: int) -> Callable[[], object]:
    """An epoch over the images, nothing else."""
    loader = paddle.io.DataLoader(NotebookImages(root, size), batch_size=batch, shuffle=True)
    return lambda: sum(len(labels) for _, labels in loader)
