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
from . import mobilenet, preresnet, resnet, towernet, vgg
from .features import FeatureMaps
from .placement import REPLACEMENTS, place

__all__ = ["MODELS", "FeatureMaps", "ModelSpec", "create_model", "list_models", "model_spec"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
# the notebook's figures, in the order R, G, B of what the loader gives (the notebook had them as B, G, R)
NOTEBOOK_MEAN, NOTEBOOK_STD = (0.5740969, 0.5463266, 0.5095035), (0.29220656, 0.26041326, 0.26059777)


@dataclass(frozen=True)
class ModelSpec:
    """What is known of a model: how to build it, what it expects, and where Paddle keeps its ImageNet weights."""

    build: Callable[..., nn.Layer]  # (num_classes, placements)
    block: str  # the kind of its blocks, a key of placement.PAPER
    stages: int = 4  # of them, or of places for an attention
    input_size: int = 224
    min_size: int = 32
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    num_classes: int = 1000
    pretrained: tuple[str, str] | None = None  # Paddle's address and md5


def _cifar(build: Callable[..., nn.Layer], block: str, stages: int = 3) -> ModelSpec:
    return ModelSpec(build, block, stages, 32, 32, CIFAR_MEAN, CIFAR_STD, num_classes=10)


_resnet_urls = paddle_resnet.model_urls
_mobilenet_url = paddle_mobilenetv2.model_urls["mobilenetv2_1.0"]
MODELS: dict[str, ModelSpec] = {
    "cifar_mobilenetv2": _cifar(mobilenet.cifar_mobilenetv2, "inverted_residual", stages=7),
    "cifar_preresnet20": _cifar(preresnet.cifar_preresnet20, "preact_basic"),
    "cifar_preresnet32": _cifar(preresnet.cifar_preresnet32, "preact_basic"),
    "cifar_preresnet56": _cifar(preresnet.cifar_preresnet56, "preact_basic"),
    "cifar_preresnet110": _cifar(preresnet.cifar_preresnet110, "preact_basic"),
    "cifar_preresnet164": _cifar(preresnet.cifar_preresnet164, "preact_bottleneck"),
    "cifar_resnet20": _cifar(resnet.cifar_resnet20, "basic"),
    "cifar_resnet32": _cifar(resnet.cifar_resnet32, "basic"),
    "cifar_resnet56": _cifar(resnet.cifar_resnet56, "basic"),
    "cifar_resnet110": _cifar(resnet.cifar_resnet110, "basic"),
    "cifar_resnet164": _cifar(resnet.cifar_resnet164, "bottleneck"),
    "cifar_wideresnet28x10": _cifar(preresnet.cifar_wideresnet28x10, "preact_basic"),
    "cifar_wideresnet40x10": _cifar(preresnet.cifar_wideresnet40x10, "preact_basic"),
    "mobilenet_v2": ModelSpec(
        mobilenet.mobilenet_v2, "inverted_residual", stages=7, pretrained=_mobilenet_url
    ),
    "resnet18": ModelSpec(resnet.resnet18, "basic", pretrained=_resnet_urls["resnet18"]),
    "resnet34": ModelSpec(resnet.resnet34, "basic", pretrained=_resnet_urls["resnet34"]),
    "resnet50": ModelSpec(resnet.resnet50, "bottleneck", pretrained=_resnet_urls["resnet50"]),
    "resnet101": ModelSpec(resnet.resnet101, "bottleneck", pretrained=_resnet_urls["resnet101"]),
    "resnet152": ModelSpec(resnet.resnet152, "bottleneck", pretrained=_resnet_urls["resnet152"]),
    "resnext50_32x4d": ModelSpec(
        resnet.resnext50_32x4d, "bottleneck", pretrained=_resnet_urls["resnext50_32x4d"]
    ),
    "towernet": ModelSpec(
        towernet.towernet, "towernet", 4, 256, towernet.MIN_SIZE, NOTEBOOK_MEAN, NOTEBOOK_STD, num_classes=16
    ),
    "vgg19": ModelSpec(vgg.vgg19, "vgg", stages=5, pretrained=paddle_vgg.model_urls["vgg19"]),
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
    features_only: bool = False,
) -> nn.Layer:
    """A backbone, `[N, 3, H, W] -> [N, num_classes]`, with an attention in every block.

    Args:
        name: one of `list_models()`.
        attn: one of `list_attention()`, 'sk' for networks of bottlenecks, or None.
        attn_kwargs: the attention's own arguments, such as `{'e_lambda': 0.1}`; a list gives one value for each stage, as ECA's
            released `{'k_size': [3, 5, 7, 7]}`, and `'stages'` the stages that get one, as GC's `{'stages': [2, 3, 4]}`.
        attn_pos: where it sits; 'paper' is the place that its authors chose for this family, others are in `placement.SLOTS`.
        num_classes: of the classifier; None is what the model was published with (1000; 16 for towernet).
        pretrained: load Paddle's own ImageNet weights into the backbone (the classifier too, when it has 1000 classes).
        features_only: the maps of strides 4, 8, 16 and 32 instead of logits, for detection and segmentation: a FeatureMaps,
            with `.channels` and `.strides`.

    Raises: UserError (a ValueError) for an unknown name, arguments that do not fit, or weights that cannot be had.
    """
    spec = model_spec(name)
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes must be at least 1, found {num_classes}")
    if pretrained and attn in REPLACEMENTS:
        raise UserError(
            f"'{attn}' replaces the 3x3 convolutions that the ImageNet weights are for: expected pretrained=False, or another attention"
        )
    if features_only and name.startswith("cifar_"):
        raise UserError(
            f"features_only needs maps of strides 4, 8, 16 and 32, which {name} has not: expected an ImageNet network"
        )
    net = spec.build(
        num_classes or spec.num_classes, place(spec.block, spec.stages, attn, attn_kwargs, attn_pos)
    )
    if pretrained:
        load_pretrained(net, name, spec.pretrained)
    return FeatureMaps(net) if features_only else net
