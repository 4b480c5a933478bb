"""The modules and the networks in PyTorch, with the names of our parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
import torch._inductor.compile_fx  # otherwise the compiler counts as memory of the first compiled step
import torch.nn.functional as F
from torch import Tensor, nn

from . import pytorch_attention


class SimAM(nn.Module):
    def __init__(self, channels: int, e_lambda: float = 1e-4):
        super().__init__()
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        others = x.shape[2] * x.shape[3] - 1
        d = (x - x.mean([2, 3], keepdim=True)).pow(2)
        v = d.sum([2, 3], keepdim=True) / max(others, 1)
        return x * torch.sigmoid(d / (4 * (v + self.e_lambda)) + 0.5)


class SE(nn.Module):
    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction, bias=False),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.fc(x.mean([2, 3])))[:, :, None, None]


class CBAM(nn.Module):
    def __init__(self, channels: int, reduction: int = 16):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(channels, channels // reduction), nn.ReLU(), nn.Linear(channels // reduction, channels)
        )
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.sigmoid(self.mlp(x.mean([2, 3])) + self.mlp(x.amax([2, 3])))[:, :, None, None]
        pooled = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.bn(self.conv(pooled)))


class SGE(nn.Module):
    def __init__(self, channels: int, groups: int = 64):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        grouped = x.reshape(x.shape[0], self.groups, -1, x.shape[2] * x.shape[3])
        score = (grouped * grouped.mean(3, keepdim=True)).sum(2, keepdim=True)
        score = score - score.mean(3, keepdim=True)
        score = score / (score.std(3, keepdim=True) + 1e-5)
        return (grouped * torch.sigmoid(score * self.weight + self.bias)).view_as(x)


MODULES: dict[str, Callable[[int], nn.Module]] = {
    "simam": SimAM,
    "se": SE,
    "cbam": CBAM,
    "sge": SGE,
    **pytorch_attention.MODULES,
    "batch_norm": nn.BatchNorm2d,
    "relu": lambda channels: nn.ReLU(),
}


def conv_bn(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels, eps=1e-3)
    )


class Inception(nn.Module):
    def __init__(self, in_channels: int):
        super().__init__()
        self.route1x1_1 = nn.Conv2d(in_channels, 64, 1)
        self.route1x1_2 = nn.Conv2d(in_channels, 64, 1)
        self.route3x3_2 = nn.Conv2d(64, 128, 3, padding=1)
        self.route1x1_3 = nn.Conv2d(in_channels, 16, 1)
        self.route5x5_3 = nn.Conv2d(16, 32, 5, padding=2)
        self.route1x1_4 = nn.Conv2d(in_channels, 32, 1)

    def forward(self, x: Tensor) -> Tensor:
        second = F.relu(self.route3x3_2(F.relu(self.route1x1_2(x))))
        third = F.relu(self.route5x5_3(F.relu(self.route1x1_3(x))))
        return torch.cat(
            [F.relu(self.route1x1_1(x)), second, third, F.relu(self.route1x1_4(F.max_pool2d(x, 3, 1, 1)))], 1
        )


class TowerNet(nn.Module):
    def __init__(self, num_classes: int, attention: Callable[[int], nn.Module]):
        super().__init__()
        self.b1, self.b2 = nn.Sequential(conv_bn(3, 64, 2)), nn.Sequential(conv_bn(64, 128))
        self.b3, self.b4 = nn.Sequential(conv_bn(128, 256)), nn.Sequential(conv_bn(256, 256))
        self.b5 = nn.ModuleDict({"0": Inception(256), "3": Inception(256), "6": Inception(256)})
        self.attn = nn.ModuleDict({str(site): attention(256) for site in range(4)})
        self.b6 = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        for block in (self.b1, self.b2):
            x = F.max_pool2d(F.relu(block(x)), 2)
        for site, block in enumerate((self.b3, self.b4)):
            x = self.attn[str(site)](F.max_pool2d(F.relu(block(x)), 2))
        for site, name in ((2, "0"), (3, "3")):
            x = self.attn[str(site)](F.max_pool2d(self.b5[name](x), 2))
        return self.b6(self.b5["6"](x).mean([2, 3]))


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, attention: Callable[[int], nn.Module]):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.attn = attention(width)
        self.downsample = downsample(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.attn(self.conv2(x))) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, attention: Callable[[int], nn.Module]):
        super().__init__()
        out_channels = 4 * width
        self.conv1, self.bn1 = nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.attn = attention(width)
        self.conv3, self.bn3 = nn.Conv2d(width, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        self.downsample = downsample(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = F.relu(self.bn2(self.attn(self.conv2(x))), inplace=True)
        return F.relu(self.bn3(self.conv3(x)) + shortcut, inplace=True)


def downsample(in_channels: int, out_channels: int, stride: int) -> nn.Module | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class ResNet(nn.Module):
    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: Sequence[int],
        num_classes: int,
        attention: Callable[[int], nn.Module],
        width: int = 64,
        small_images: bool = False,
    ):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, *((3, 1, 1) if small_images else (7, 2, 3)), bias=False)
        self.bn1, self.small_images = nn.BatchNorm2d(width), small_images
        channels, stages = width, []
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(block(channels, width << stage, stride, attention))
                channels = (width << stage) * block.expansion
            stages.append(f"layer{stage + 1}")
            setattr(self, stages[-1], nn.Sequential(*blocks))
        self.stages = stages
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        if not self.small_images:
            x = F.max_pool2d(x, 3, 2, 1)
        for stage in self.stages:
            x = getattr(self, stage)(x)
        return self.fc(x.mean([2, 3]))


class VGG19(nn.Module):
    def __init__(self, num_classes: int, attention: Callable[[int], nn.Module]):
        super().__init__()
        layers: list[nn.Module] = []
        self.attn = nn.ModuleDict()
        channels = 3
        for stage, (width, depth) in enumerate(((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            layers.append(nn.MaxPool2d(2))
            self.attn[str(stage)] = attention(width)
        self.features = nn.Sequential(*layers)
        hidden = [
            nn.Linear(channels * 49, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(),
        ]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        stage = 0
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d):
                x = self.attn[str(stage)](x)
                stage += 1
            x = layer(x)
        return self.classifier(F.adaptive_avg_pool2d(x, 7).flatten(1))


def conv_bn_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int, groups: int
) -> nn.Sequential:
    convolution = nn.Conv2d(
        in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
    )
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU6(inplace=True))


class InvertedResidual(nn.Module):
    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        expansion: int,
        attention: Callable[[int], nn.Module],
    ):
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [conv_bn_relu(in_channels, hidden, 1, 1, 1)]
        project = [nn.Conv2d(hidden, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)]
        self.conv = nn.Sequential(*expand, conv_bn_relu(hidden, hidden, 3, stride, hidden), *project)
        self.attn = attention(hidden)
        self.has_shortcut = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        *expand, depthwise, project, project_bn = self.conv
        for layer in expand:
            x = layer(x)
        convolution, bn, relu = depthwise
        x = project_bn(project(relu(bn(self.attn(convolution(x))))))
        return x + shortcut if self.has_shortcut else x


class MobileNetV2(nn.Module):
    def __init__(self, num_classes: int, attention: Callable[[int], nn.Module]):
        super().__init__()
        layers: list[nn.Module] = [conv_bn_relu(3, 32, 3, 2, 1)]
        channels = 32
        stages = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expansion, width, depth, stride in stages:
            for index in range(depth):
                layers.append(
                    InvertedResidual(channels, width, stride if index == 0 else 1, expansion, attention)
                )
                channels = width
        self.features = nn.Sequential(*layers, conv_bn_relu(channels, 1280, 1, 1, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "towernet": TowerNet,
    "resnet18": functools.partial(ResNet, BasicBlock, (2, 2, 2, 2)),
    "resnet50": functools.partial(ResNet, Bottleneck, (3, 4, 6, 3)),
    "cifar_resnet20": functools.partial(ResNet, BasicBlock, (3, 3, 3), width=16, small_images=True),
    "cifar_resnet56": functools.partial(ResNet, BasicBlock, (9, 9, 9), width=16, small_images=True),
    "vgg19": VGG19,
    "mobilenet_v2": MobileNetV2,
}


def network(model: str, attn: str | None, num_classes: int) -> nn.Module:
    attention = MODULES[attn] if attn else lambda channels: nn.Identity()
    return NETWORKS[model](num_classes=num_classes, attention=attention)


def configured(
    module: nn.Module, tensors: Sequence[Tensor], channels_last: bool, compiled: bool
) -> tuple[nn.Module, list[Tensor]]:
    """The module and its tensors in the memory layout, and the module compiled at its first step."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module, tensors = module.to(memory_format=layout), [x.contiguous(memory_format=layout) for x in tensors]
    # a module that comes in several sizes is compiled for each, as the first one is
    return torch.compile(module, dynamic=False) if compiled else module, tensors


def module_step(
    name: str, shape: list[int], mode: str, channels_last: bool = False, compiled: bool = False
) -> Callable[[], object]:
    maps = torch.randn(shape), torch.randn(shape)
    attn, (x, gradient) = configured(MODULES[name](shape[1]), maps, channels_last, compiled)
    if mode == "forward":
        return torch.no_grad()(lambda: attn(x))
    x.requires_grad_()

    def step() -> None:
        x.grad = None
        attn.zero_grad()
        attn(x).backward(gradient)

    return step


def train_step(
    model: str,
    attn: str | None,
    size: int,
    batch: int,
    channels_last: bool = False,
    compiled: bool = False,
    bfloat16: bool = False,
) -> Callable[[], object]:
    images, labels = torch.randn(batch, 3, size, size), torch.randint(0, 16, (batch,))
    net, (images,) = configured(network(model, attn, 16), [images], channels_last, compiled)
    optimizer = torch.optim.SGD(net.parameters(), 0.01, 0.9, weight_decay=1e-4, fused=True)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def infer_step(model: str, attn: str | None, size: int, batch: int) -> Callable[[], object]:
    net, images = network(model, attn, 16).eval(), torch.randn(batch, 3, size, size)
    return torch.inference_mode()(lambda: torch.softmax(net(images), 1).numpy())
