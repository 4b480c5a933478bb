"""One forward pass with an empty image, to see what the layers of a network return."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import paddle
from paddle import Tensor, nn

Hook = Callable[[nn.Layer, tuple, Tensor], None]  # (layer, its inputs, its output)


def dry_run(net: nn.Layer, image: list[int], layers: Iterable[nn.Layer], hook: Hook) -> None:
    """Run a network on a black image of the shape `image` [1, C, H, W]; call `hook` after each call of the
    layers.

    The pass runs in eval mode and without gradients. The network is left unchanged.
    """
    handles = [layer.register_forward_post_hook(hook) for layer in layers]
    modes = [(layer, layer.training) for layer in net.sublayers(include_self=True)]
    try:
        net.eval()
        with paddle.no_grad():
            net(paddle.zeros(image))
    finally:
        for handle in handles:
            handle.remove()
        for layer, training in modes:
            layer.training = training
