"""Attention for networks that are not ours: any Paddle network, without touching its code or its parameters' names."""

from __future__ import annotations

import fnmatch
from typing import Any

from paddle import Tensor, nn

from ..attention import create_attention
from ..errors import UserError, unknown_name
from .dry_run import dry_run

NAME = "attn"  # the sublayer under which the attention lives in the layer that it follows


def insert_attention(net: nn.Layer, name: str, after: str, size: int = 224, **attn_kwargs: Any) -> list[str]:
    """Put an attention behind every sublayer whose name matches a pattern.

    The attention becomes the sublayer `attn` of the layer it follows, so every existing parameter keeps its name; state dicts,
    `paddle.Model`, export and `copy.deepcopy` work as before.

    Args:
        net: any network that takes `[N, 3, H, W]`; it is changed in place.
        name: one of `list_attention()`.
        after: a glob over sublayer names, such as `'layer3.*.conv2'`; a `*` stands for any text without a dot.
        size: side of the image of the dry run that finds the channels.
        attn_kwargs: the attention's own arguments.

    Returns: the names of the sublayers that were followed, in the network's order.

    Raises: UserError when no sublayer matches, one has an attention already, or its output is no map `[N, C, H, W]`; nothing is
    changed then.
    """
    layers = dict(net.named_sublayers())
    places = [path for path in layers if _matches(path, after)]
    if not places:
        raise unknown_name(
            "sublayer pattern", after, [path for path in layers if path.count(".") == after.count(".")][:40]
        )
    taken = [path for path in places if getattr(layers[path], NAME, None) is not None]
    if taken:
        raise UserError(
            f"the sublayer '{taken[0]}' has an '{NAME}' already: expected a pattern of layers without one"
        )
    shapes = _output_shapes(net, {path: layers[path] for path in places}, size)
    modules = {}
    for path in places:
        found = shapes.get(path, [])
        if len(found) != 1:
            raise UserError(
                f"a forward pass calls the sublayer '{path}' {len(found)} times, expected once: choose another layer"
            )
        if len(found[0]) != 4:
            raise UserError(
                f"the sublayer '{path}' gives no map [N, C, H, W]: found an output of shape {found[0]}"
            )
        modules[path] = create_attention(name, found[0][1], **attn_kwargs)
    for path, module in modules.items():
        layer = layers[path]
        if not layer.training:
            module.eval()
        if (
            getattr(layer, NAME, None) is None and NAME in layer.__dict__
        ):  # this zoo's own blocks have a plain None there
            delattr(layer, NAME)
        layer.add_sublayer(NAME, module)
        if (
            type(layer).forward is not nn.Sequential.forward
        ):  # a Sequential runs what it is given last by itself
            layer.register_forward_post_hook(_attend)
    return places


def _attend(layer: nn.Layer, inputs: tuple, output: Tensor) -> Tensor:
    return getattr(layer, NAME)(output)


def _matches(path: str, pattern: str) -> bool:
    names, wanted = path.split("."), pattern.split(".")
    return len(names) == len(wanted) and all(map(fnmatch.fnmatchcase, names, wanted))


def _output_shapes(net: nn.Layer, layers: dict[str, nn.Layer], size: int) -> dict[str, list[list[int]]]:
    """The shapes that the layers give for one image, one for each call."""
    names = {id(layer): path for path, layer in layers.items()}
    shapes: dict[str, list[list[int]]] = {}

    def note(layer: nn.Layer, inputs: tuple, output: Tensor) -> None:
        shapes.setdefault(names[id(layer)], []).append(
            list(output.shape) if isinstance(output, Tensor) else []
        )

    dry_run(net, size, layers.values(), note)
    return shapes
