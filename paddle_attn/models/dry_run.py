"""One pass through a network with an empty image, to learn what its layers give; the network is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import paddle
from paddle import Tensor, nn

Watch = Callable[[nn.Layer, tuple, Tensor], None]  # (layer, its inputs, its output)


def dry_run(net: nn.Layer, size: int, layers: Iterable[nn.Layer], watch: Watch) -> None:
    """Run a network in eval mode, without gradients, on one black image of `size` x `size` px; `watch` is called for each layer."""
    hooks = [layer.register_forward_post_hook(watch) for layer in layers]
    modes = [(layer, layer.training) for layer in net.sublayers(include_self=True)]
    try:
        net.eval()
        with paddle.no_grad():
            net(paddle.zeros([1, 3, size, size]))
    finally:
        for hook in hooks:
            hook.remove()
        for layer, training in modes:
            layer.training = training
