"""The device and the network of a config, untrained or trained."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import paddle
from paddle import nn

from ..config import Config, load_config
from ..errors import UserError
from ..models import create_model, model_spec
from ..models.placement import place
from ..weights import class_names, load_weights
from .data import make_loader, make_preprocess


def set_device(name: str) -> str:
    """Select Paddle's device: 'auto', 'cpu', 'gpu' or 'gpu:N'. Returns its name.

    Raises: UserError when this Paddle or this machine lacks it.
    """
    gpus = paddle.device.cuda.device_count() if paddle.device.is_compiled_with_cuda() else 0
    if name == "auto":
        name = "gpu" if gpus else "cpu"
    if name.startswith("gpu"):
        if not paddle.device.is_compiled_with_cuda():
            raise UserError(
                f"train.device is '{name}', but the installed Paddle supports only the CPU: "
                "expected 'cpu' or 'auto', or install Paddle's GPU wheel"
            )
        if int(name.partition(":")[2] or 0) >= gpus:
            raise UserError(
                f"train.device is '{name}', but Paddle sees {gpus} GPUs: "
                "expected a smaller number, 'cpu' or 'auto'"
            )
    paddle.device.set_device(name)
    return paddle.device.get_device()


def check_model(config: Config) -> None:
    """Check the names of model and attention, and where it sits, before any data is needed.

    Raises: UserError as `make_network` does, but for arguments that depend on the number of channels.
    """
    model = config.model
    place(model_spec(model.name), model.attn, model.attn_kwargs, model.attn_pos)


def make_network(config: Config, num_classes: int) -> nn.Layer:
    """The network of a config for this number of classes.

    Raises: UserError when model.num_classes is another number, or the model's options do not fit.
    """
    model = config.model
    if model.num_classes not in (None, num_classes):
        raise UserError(
            f"model.num_classes is {model.num_classes}, but there are {num_classes} classes: "
            "expected the same, or null"
        )
    return create_model(
        model.name, model.attn, model.attn_kwargs, model.attn_pos, num_classes, model.pretrained
    )


def load_trained(config: Config, weights: str | Path) -> tuple[nn.Layer, list[str]]:
    """A trained network in eval mode, and the names of its classes.

    The names come from the weights or from what training wrote beside them (`weights.class_names`), else from
    the data's folders.

    Raises: UserError when the weights are missing or damaged, do not fit, or were trained with another model
    or image size, or when `classes.txt` was changed.
    """
    weights = Path(weights)
    if not weights.is_file():
        raise UserError(
            f"there is no weights file {weights}: "
            "expected one that paddle-attn train wrote, such as best.pdparams"
        )
    _check_trained_config(config, weights)
    classes = class_names(weights) or make_loader(config, "eval").dataset.classes
    without_pretrained = dataclasses.replace(config.model, pretrained=False)
    network = make_network(dataclasses.replace(config, model=without_pretrained), len(classes))
    load_weights(network, weights)
    network.eval()
    return network, classes


def _check_trained_config(config: Config, weights: Path) -> None:
    """Compare with the `config.yaml` beside the weights: they alone do not show a SimAM or the image size."""
    path = weights.with_name("config.yaml")
    if not path.is_file():
        return
    trained = _decisive_options(load_config(path))
    for key, value in _decisive_options(config).items():
        if value != trained[key]:
            raise UserError(
                f"{weights} was trained with {key} {trained[key]!r}, expected the same, found {value!r}: "
                f"pass -c {shlex.quote(str(path))}, or set it with -o"
            )


def _decisive_options(config: Config) -> dict[str, Any]:
    """The options with which trained weights give the trained function."""
    model, preprocess = config.model, make_preprocess(config)
    return {
        "model.name": model.name,
        "model.attn": model.attn,
        "model.attn_kwargs": model.attn_kwargs,
        "model.attn_pos": model.attn_pos,
        "data.size": preprocess.size,
        "data.resize": preprocess.resize_mode,
        "data.mean": preprocess.mean,
        "data.std": preprocess.std,
    }
