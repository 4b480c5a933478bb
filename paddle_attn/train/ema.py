"""The exponential moving average of a network's weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import paddle
from paddle import nn


class ExponentialMovingAverage:
    """`average = decay * average + (1 - decay) * weights` after each update, of parameters and running
    statistics.

    The decay is at most `(1 + updates) / (10 + updates)`, so that the random first weights are forgotten
    early.

    Args:
        network: the average starts as its weights.
        decay: near 1, such as 0.999.
    """

    def __init__(self, network: nn.Layer, decay: float):
        self.network, self.decay, self.updates = network, decay, 0
        self.average = {key: value.clone().detach() for key, value in network.state_dict().items()}

    @paddle.no_grad()
    def update(self) -> None:
        """Average the network's weights in; call it after each update of the optimiser."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for key, value in self.network.state_dict().items():
            self.average[key] = decay * self.average[key] + (1 - decay) * value.detach()
        self.updates += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the block the network holds the average; changes of it there are kept in the average."""
        weights = {key: value.clone().detach() for key, value in self.network.state_dict().items()}
        self._copy_to_network(self.average)
        try:
            yield
        finally:
            self.average = {key: value.clone().detach() for key, value in self.network.state_dict().items()}
            self._copy_to_network(weights)

    def state_dict(self) -> dict[str, Any]:
        """The average and the number of updates."""
        return {"average": self.average, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.average = {key: paddle.to_tensor(state["average"][key]) for key in self.average}
        self.updates = state["updates"]

    def _copy_to_network(self, values: dict[str, paddle.Tensor]) -> None:
        for key, value in self.network.state_dict().items():
            value.set_value(values[key])
