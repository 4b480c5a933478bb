"""What the layers of a network receive and return: hooks that are removed, modes that are restored."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paddle
from paddle import Tensor, nn

from ..attention import Attention
from ..errors import UserError, did_you_mean, nearest

POOLS = (nn.AdaptiveAvgPool2D, nn.AdaptiveMaxPool2D)  # of a head; they may enlarge a map
NAMED = 8  # layers that an error lists


@contextlib.contextmanager
def evaluating(net: nn.Layer) -> Iterator[None]:
    """Eval mode, without gradients of the parameters. Restores both flags of every layer and parameter."""
    modes = [(layer, layer.training) for layer in net.sublayers(include_self=True)]
    flags = [(parameter, parameter.stop_gradient) for parameter in net.parameters()]
    try:
        net.eval()
        for parameter, _ in flags:
            parameter.stop_gradient = True
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        for parameter, stop_gradient in flags:
            parameter.stop_gradient = stop_gradient


@contextlib.contextmanager
def hooked(layers: Iterable[nn.Layer], hook: Callable[..., Any]) -> Iterator[None]:
    """Call `hook(layer, inputs, output)` after each call of the layers; its result replaces the output."""
    handles: list[Any] = []
    try:
        handles += [layer.register_forward_post_hook(hook) for layer in layers]
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def recording(net: nn.Layer, layers: Sequence[str], leaves: bool = False) -> Iterator[dict[str, list[Any]]]:
    """Record what layers return while the block runs the network, in eval mode.

        with recording(net, ["layer3"]) as outputs:
            net(images)
        (map_,) = outputs["layer3"]  # one for each call

    At its end, also by an error, the hooks are gone, and the `training` and `stop_gradient` flags of every
    layer and parameter are as before. Until then no other thread may use the network: flags and hooks are its
    own.

    Args:
        net: any network.
        layers: names of its sublayers.
        leaves: makes each output a leaf of the graph, for `paddle.grad`: the gradient of what follows ends
            there, and no parameter's `.grad` changes.

    Raises: UserError for an unknown layer.
    """
    found = {name: find_layer(net, name) for name in layers}
    outputs: dict[str, list[Any]] = {name: [] for name in layers}
    names = {id(layer): name for name, layer in found.items()}

    def record(layer: nn.Layer, inputs: tuple, output: Any) -> Tensor | None:
        if not leaves or not isinstance(output, Tensor):
            outputs[names[id(layer)]].append(output)
            return None
        leaf = output.detach()
        leaf.stop_gradient = False
        outputs[names[id(layer)]].append(leaf)
        return paddle.assign(leaf)  # a copy: the next operation may work in place

    with evaluating(net), hooked(found.values(), record):
        yield outputs


def logits_of(net: nn.Layer, images: Tensor) -> Tensor:
    """`[N, num_classes]`; of a network with auxiliary outputs (GoogLeNet) the first one."""
    output = net(images)
    return output[0] if isinstance(output, (list, tuple)) else output


# ---- the layers of a network


@dataclass(frozen=True)
class LayerCall:
    """What one forward pass shows of a layer.

    Attributes:
        name: of the sublayer.
        kind: its class.
        shape: of its output, None when that is not a tensor.
        calls: how often the pass calls it.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    calls: int

    @property
    def has_map(self) -> bool:
        """Whether its output is one map `[N, C, H, W]` of more than one place."""
        shape = self.shape or ()
        return self.calls == 1 and len(shape) == 4 and shape[2] * shape[3] > 1


def list_layers(net: nn.Layer, images: Tensor) -> list[LayerCall]:
    """The sublayers that a forward pass calls, in the order in which they end: parts before the whole.

    Args:
        net: any network that takes `images`; it is left unchanged.
        images: `[N, 3, H, W]`; one is enough.
    """
    names = {id(layer): name for name, layer in net.named_sublayers()}
    calls: dict[str, LayerCall] = {}

    def record(layer: nn.Layer, inputs: tuple, output: Any) -> None:
        name = names[id(layer)]
        before = calls.pop(name, None)
        shape = tuple(output.shape) if isinstance(output, Tensor) else None
        calls[name] = LayerCall(name, type(layer).__name__, shape, before.calls + 1 if before else 1)

    with evaluating(net), hooked(net.sublayers(), record), paddle.no_grad():
        net(images)
    return list(calls.values())


def last_map(net: nn.Layer, images: Tensor) -> str:
    """The name of the layer that explanations take by default: the last one with a spatial map.

    Where the network has `forward_features` (a backbone of this zoo) that is the last layer whose map has the
    size of the last feature map: the smaller maps of a head say less about the place. Elsewhere it is the
    last layer whose map has more than one place.

    Raises: UserError when no layer has a map.
    """
    calls = [call for call in list_layers(net, images) if call.has_map]
    layers = dict(net.named_sublayers())
    usual = [call for call in calls if not isinstance(layers[call.name], POOLS)]
    sizes = {call.shape[2:] for call in usual}
    if hasattr(net, "forward_features"):
        with evaluating(net), paddle.no_grad():
            features = [tuple(map_.shape[2:]) for map_ in net.forward_features(images)]
        sizes = {size for size in features if size in sizes and size != (1, 1)}
        sizes = {min(sizes)} if sizes else {call.shape[2:] for call in usual}
    usual = [call.name for call in usual if call.shape[2:] in sizes]
    if not usual:
        raise UserError(
            f"no layer of {type(net).__name__} returns a map [N, C, H, W] of more than one place for images "
            f"of {images.shape[2]}x{images.shape[3]} px: expected convolutions, or a larger image"
        )
    return usual[-1]


def find_layer(net: nn.Layer, name: str) -> nn.Layer:
    """A sublayer by its name. Raises UserError with the nearest names."""
    layers = dict(net.named_sublayers())
    if name not in layers:
        hint = did_you_mean(nearest(name, layers))
        first = ", ".join([name for name, _ in net.named_children()][:NAMED])
        raise UserError(f"unknown layer '{name}' of {type(net).__name__}, which has {first}, …{hint}")
    return layers[name]


def list_attentions(net: nn.Layer) -> dict[str, Attention]:
    """The attentions in a network by the names of their sublayers, in the network's order."""
    return {name: layer for name, layer in net.named_sublayers() if isinstance(layer, Attention)}
