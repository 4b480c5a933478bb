"""Backbones, one architecture family per file, and `create_model`, which puts an attention into any."""

from __future__ import annotations

import fnmatch
from typing import Any

from paddle import nn

from ..errors import UserError, unknown_name
from ..weights import load_pretrained
from . import mobilenet, preresnet, resnet, towernet, vgg
from .features import FeatureMaps
from .placement import REPLACEMENTS, place
from .spec import ModelSpec

__all__ = ["MODELS", "FeatureMaps", "ModelSpec", "create_model", "list_models", "model_spec"]

MODELS: dict[str, ModelSpec] = {
    **mobilenet.MODELS,
    **preresnet.MODELS,
    **resnet.MODELS,
    **towernet.MODELS,
    **vgg.MODELS,
}


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` takes, sorted; `pattern` is a glob such as `'resnet*'`."""
    return sorted(fnmatch.filter(MODELS, pattern))


def model_spec(name: str) -> ModelSpec:
    """A model's input size, mean, standard deviation and so on. Raises UserError for an unknown name."""
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
        attn: one of `list_attention()`, or None.
        attn_kwargs: the attention's own arguments, such as `{'e_lambda': 0.1}`. A list gives one value for
            each stage, as in ECA's released `{'k_size': [3, 5, 7, 7]}`; `'stages'` lists the stages that get
            one, as in GC's `{'stages': [2, 3, 4]}`; `'every': 2` gives one to every second block of them.
        attn_pos: 'paper', the slot that its authors chose, or one of `model_spec(name).slots`.
        num_classes: of the classifier; None is the published number (1000; 10 for CIFAR's networks, 16 for
            towernet).
        pretrained: load weights into the backbone: Paddle's ImageNet weights, or for towernet those of this
            package, which know 69 categories of Caltech-101. The classifier is loaded when it has as many
            classes as the weights (1000; 69 for towernet).
        features_only: return the maps of strides 4, 8, 16 and 32 instead of logits, for detection and
            segmentation: a FeatureMaps, with `.channels` and `.strides`.

    Raises: UserError (a ValueError) for an unknown name, arguments that do not fit, or weights that are not
    available.
    """
    spec = model_spec(name)
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes must be at least 1, found {num_classes}")
    if pretrained and attn in REPLACEMENTS:
        raise UserError(
            f"'{attn}' replaces the 3x3 convolutions that the pretrained weights belong to: "
            f"expected pretrained=False, or another attention"
        )
    if features_only and spec.feature_strides != FeatureMaps.STRIDES:
        raise UserError(
            f"features_only needs maps of strides 4, 8, 16 and 32, which {name} lacks: "
            f"expected a network for ImageNet"
        )
    net = spec.build(num_classes or spec.num_classes, place(spec, attn, attn_kwargs, attn_pos))
    if pretrained:
        load_pretrained(net, name, spec.weights_source(attn))
    return FeatureMaps(net) if features_only else net
