"""The moving average of a network's weights, which is what is evaluated and kept for people when a run asks for it."""

from __future__ import annotations

import numpy as np
import paddle
from paddle import nn


class WeightAverage:
    """`average = decay * average + (1 - decay) * weights` after each update, of parameters and running statistics.

    Early on the decay is `(1 + updates) / (10 + updates)` where that is less, so that the first weights, which are random, are forgotten.

    Args:
        net: the network; the average starts as its weights.
        decay: near 1, such as 0.999.
    """

    def __init__(self, net: nn.Layer, decay: float):
        self.net, self.decay, self.updates = net, decay, 0
        self.values = {key: value.clone().detach() for key, value in net.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Take in the network's weights, after an update of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in self.net.state_dict().items():
            self.values[key] = decay * self.values[key] + (1 - decay) * value.detach()
        self.updates += 1

    def swap(self) -> None:
        """Exchange the network's weights and the average; once more, and both are as before."""
        own = {key: value.clone().detach() for key, value in self.net.state_dict().items()}
        for key, value in self.net.state_dict().items():
            value.set_value(self.values[key])
        self.values = own

    def load(self, values: dict[str, np.ndarray], updates: int) -> None:
        """Go on from a saved average."""
        self.values = {key: paddle.to_tensor(values[key]) for key in self.values}
        self.updates = updates
