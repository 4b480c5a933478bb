"""Attention for any Paddle network, without changes to its code or to the names of its parameters."""

from __future__ import annotations

import fnmatch
from typing import Any

from paddle import Tensor, nn

from ..attention import create_attention
from ..errors import UserError, unknown_name
from .dry_run import dry_run

NAME = "attn"  # of the sublayer that holds the attention, in the layer that it follows
MAX_SIDE = 8192  # of the image of the dry run, and of its number of channels
MAX_LISTED = 40  # sublayers that an error lists


def insert_attention(
    net: nn.Layer, name: str, after: str, size: int = 224, in_channels: int = 3, **attn_kwargs: Any
) -> list[str]:
    """Insert an attention after every sublayer whose name matches a pattern.

    The attention becomes the sublayer `attn` of the layer that it follows, so every existing parameter keeps
    its name. State dicts, `paddle.Model`, export and `copy.deepcopy` work as before.

    Args:
        net: any network that takes `[N, in_channels, H, W]`; it is changed in place.
        name: one of `list_attention()`.
        after: a glob over sublayer names, such as `'layer3.*.conv2'`; `*` matches any text without a dot.
        size: side in px of the image for the dry run that finds the channels.
        in_channels: of that image, 1 for a network that takes grayscale images.
        attn_kwargs: the attention's own arguments.

    Returns: the names of the sublayers that an attention now follows, in the network's order.

    Raises: UserError when no sublayer matches, one has an attention already, is not called exactly once, or
    returns no map `[N, C, H, W]` that fits the attention, or when the network fails on that image. It is
    unchanged then.
    """
    for key, value in (("size", size), ("in_channels", in_channels)):
        if type(value) is not int or not 1 <= value <= MAX_SIDE:
            raise UserError(f"{key} must be a whole number from 1 to {MAX_SIDE:,}, found {value!r}")
    layers = dict(net.named_sublayers())
    places = [path for path in layers if _matches(path, after)]
    if not places:
        similar = [path for path in layers if path.count(".") == after.count(".")]
        raise unknown_name("sublayer pattern", after, similar[:MAX_LISTED])
    for path in places:
        if getattr(layers[path], NAME, None) is not None:
            raise UserError(
                f"the sublayer '{path}' has an '{NAME}' already: expected a pattern of layers without one"
            )
    shapes = _output_shapes(net, {path: layers[path] for path in places}, [1, in_channels, size, size])
    attentions = {}
    for path in places:
        if len(shapes[path]) != 1:
            raise UserError(
                f"a forward pass calls the sublayer '{path}' {len(shapes[path])} times, expected once: "
                f"choose another layer"
            )
        (shape,) = shapes[path]
        if len(shape) != 4:
            raise UserError(
                f"the sublayer '{path}' gives no map [N, C, H, W]: found an output of shape {shape}"
            )
        try:
            attentions[path] = create_attention(name, shape[1], **attn_kwargs)
        except UserError as error:
            raise UserError(f"{error} (behind the sublayer '{path}')") from None
    for path, attention in attentions.items():
        _attach(layers[path], attention)
    return places


def _attach(layer: nn.Layer, attention: nn.Layer) -> None:
    if not layer.training:
        attention.eval()
    if NAME in layer.__dict__:  # this zoo's own blocks have a plain None there
        delattr(layer, NAME)
    layer.add_sublayer(NAME, attention)
    if type(layer).forward is not nn.Sequential.forward:  # a Sequential calls its last sublayer itself
        layer.register_forward_post_hook(_attend)


def _attend(layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
    return getattr(layer, NAME)(output)


def _matches(path: str, pattern: str) -> bool:
    names, globs = path.split("."), pattern.split(".")
    return len(names) == len(globs) and all(map(fnmatch.fnmatchcase, names, globs))


def _output_shapes(
    net: nn.Layer, layers: dict[str, nn.Layer], image: list[int]
) -> dict[str, list[list[int]]]:
    """The output shapes of the layers, one per call; [] for an output that is not a tensor."""
    names = {id(layer): path for path, layer in layers.items()}
    shapes: dict[str, list[list[int]]] = {path: [] for path in layers}

    def record(layer: nn.Layer, inputs: tuple, output: Tensor) -> None:
        shapes[names[id(layer)]].append(list(output.shape) if isinstance(output, Tensor) else [])

    try:
        dry_run(net, image, layers.values(), record)
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"the network fails on an image of shape {image}: pass its size and in_channels, "
            f"such as size=224, in_channels=3 ({_reason(error)})"
        ) from None
    return shapes


def _reason(error: Exception) -> str:
    """The sentence of Paddle's error, without the stack and the hint about source lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if "Error:" in line or line.startswith("(")), " ".join(lines[:1]))
