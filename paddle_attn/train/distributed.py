"""The processes that `paddle.distributed.launch` started, as training needs them. One process is the plain
case.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import distributed, nn

from ..errors import UserError


class ProcessGroup:
    """The processes of this run. In a single process every method returns at once; else all processes must
    call it.

    Args:
        device: what `set_device` returned.
    """

    def __init__(self, device: str):
        environment = distributed.ParallelEnv()
        self.rank, self.world_size = environment.rank, environment.nranks
        if self.world_size > 1:
            if device == "cpu":
                # beside GPUs Paddle would choose NCCL and move the run to them
                os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"
            with hide_paddle_flags():
                distributed.init_parallel_env()
        self.is_main = self.rank == 0

    def all_reduce_sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over the processes."""
        return self._all_reduce(values, distributed.ReduceOp.SUM)

    def all_reduce_max(self, value: int) -> int:
        """The maximum over the processes."""
        return int(self._all_reduce([value], distributed.ReduceOp.MAX)[0])

    def first_error(self, error: str) -> str:
        """The error message of any process, or '' when none has one; so all processes stop for the same
        reason.
        """
        failed_rank = self.all_reduce_max(self.rank + 1 if error else 0) - 1
        if failed_rank < 0 or self.world_size == 1:
            return error
        encoded = np.zeros(0, "int32")
        if failed_rank == self.rank:
            encoded = np.frombuffer(error.encode("utf-8", "backslashreplace"), "uint8").astype("int32")
        message = paddle.to_tensor(np.resize(encoded, self.all_reduce_max(len(encoded))))
        distributed.broadcast(message, src=failed_rank)
        return message.numpy().astype("uint8").tobytes().decode()

    def all_equal(self, value: int) -> bool:
        """Whether the value is the same in all processes."""
        return self.all_reduce_max(value) == -self.all_reduce_max(-value)

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.all_reduce_sum([0.0])

    @contextlib.contextmanager
    def main_process_first(self) -> Iterator[None]:
        """The main process runs the block before the others, which then find what it downloaded."""
        if not self.is_main:
            self.barrier()
        yield
        if self.is_main:
            self.barrier()

    def broadcast_buffers(self, network: nn.Layer) -> None:
        """Copy the main process's running statistics to all; each process's own come from its own images."""
        if self.world_size > 1:
            for value in network.state_dict().values():  # Paddle keeps them as parameters without a gradient
                if value.stop_gradient:
                    distributed.broadcast(value, src=0)

    def _all_reduce(self, values: Sequence[float], operation: int) -> list[float]:
        if self.world_size == 1:
            return list(values)
        tensor = paddle.to_tensor(values, dtype="float64")
        distributed.all_reduce(tensor, op=operation)
        return tensor.tolist()


@contextlib.contextmanager
def hide_paddle_flags() -> Iterator[None]:
    """Hide the table of flags that Paddle prints when it joins the processes."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def is_launched() -> bool:
    """Whether Paddle's launcher started several processes."""
    return distributed.ParallelEnv().nranks > 1


def check_device(name: str) -> None:
    """Raise UserError when `train.device` names one GPU for several processes."""
    world_size = distributed.ParallelEnv().nranks
    if world_size > 1 and ":" in name:
        raise UserError(
            f"train.device is '{name}', but {world_size} processes were launched: "
            "expected 'auto', 'gpu' or 'cpu', so that each has its own"
        )
