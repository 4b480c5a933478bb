"""Backbones, one architecture family a file, and `create_model`, which puts an attention into any of them by one word."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from paddle import nn
from paddle.vision.models import mobilenetv2 as paddle_mobilenetv2
from paddle.vision.models import resnet as paddle_resnet
from paddle.vision.models import vgg as paddle_vgg

from ..errors import UserError, unknown_name
from ..weights import load_pretrained
from .mobilenet import MobileNetV2, mobilenet_v2
from .placement import place
from .resnet import BasicBlock, BottleneckBlock, ResNet, resnet18, resnet34, resnet50, resnet101, resnext50_32x4d
from .towernet import MIN_SIZE, TowerNet, towernet
from .vgg import VGG, vgg19

__all__ = ["MODELS", "VGG", "MobileNetV2", "ModelSpec", "ResNet", "TowerNet", "create_model", "list_models", "model_spec"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# the notebook's figures, in the order R, G, B of what the loader gives (the notebook had them as B, G, R)
NOTEBOOK_MEAN, NOTEBOOK_STD = (0.5740969, 0.5463266, 0.5095035), (0.29220656, 0.26041326, 0.26059777)


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model: how to build it, what it expects, and where Paddle keeps its ImageNet weights."""

    build: Callable[..., nn.Layer]  # (num_classes, placement)
    block: str  # the kind of its blocks, a key of placement.PAPER
    input_size: int = 224
    min_size: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    num_classes: int = 1000
    pretrained: tuple[str, str] | None = None  # Paddle's address and md5


MODELS: dict[str, ModelSpec] = {
    "mobilenet_v2": ModelSpec(mobilenet_v2, "inverted_residual", pretrained=paddle_mobilenetv2.model_urls["mobilenetv2_1.0"]),
    "resnet18": ModelSpec(resnet18, BasicBlock.kind, pretrained=paddle_resnet.model_urls["resnet18"]),
    "resnet34": ModelSpec(resnet34, BasicBlock.kind, pretrained=paddle_resnet.model_urls["resnet34"]),
    "resnet50": ModelSpec(resnet50, BottleneckBlock.kind, pretrained=paddle_resnet.model_urls["resnet50"]),
    "resnet101": ModelSpec(resnet101, BottleneckBlock.kind, pretrained=paddle_resnet.model_urls["resnet101"]),
    "resnext50_32x4d": ModelSpec(resnext50_32x4d, BottleneckBlock.kind, pretrained=paddle_resnet.model_urls["resnext50_32x4d"]),
    "towernet": ModelSpec(towernet, "towernet", 256, MIN_SIZE, NOTEBOOK_MEAN, NOTEBOOK_STD, num_classes=16),
    "vgg19": ModelSpec(vgg19, "vgg", pretrained=paddle_vgg.model_urls["vgg19"]),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, sorted; `pattern` is a glob such as `'resnet*'`."""
    return sorted(fnmatch.filter(MODELS, pattern))


def model_spec(name: str) -> ModelSpec:
    """What is known of a model: its default input size, mean, standard deviation, … Raises UserError for an unknown name."""
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name]


def create_model(
    name: str,
    attn: str | None = None,
    attn_kwargs: dict[str, Any] | None = None,
    attn_pos: str = "paper",
    num_classes: int | None = None,
    pretrained: bool = False,
) -> nn.Layer:
    """A backbone, `[N, 3, H, W] -> [N, num_classes]`, with an attention in every block.

    Args:
        name: one of `list_models()`.
        attn: one of `list_attention()`, or None.
        attn_kwargs: the attention's own arguments, such as `{'e_lambda': 0.1}`.
        attn_pos: where it sits; 'paper' is the place that its authors chose for this family.
        num_classes: of the classifier; None is what the model was published with (1000; 16 for towernet).
        pretrained: load Paddle's own ImageNet weights into the backbone (the classifier too, when it has 1000 classes).

    Raises: UserError (a ValueError) for an unknown name, arguments that do not fit, or weights that cannot be had.
    """
    spec = model_spec(name)
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes must be at least 1, found {num_classes}")
    net = spec.build(num_classes or spec.num_classes, place(spec.block, attn, attn_kwargs, attn_pos))
    if pretrained:
        load_pretrained(net, name, spec.pretrained)
    return net
