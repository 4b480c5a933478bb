"""The processes of a job that `paddle.distributed.launch` started, as training needs them; one process is the plain case."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator, Sequence

import numpy as np
import paddle
from paddle import distributed, nn

from ..errors import UserError


class Processes:
    """This process among those of the job. Alone, every method answers at once; else each must be called in all of them.

    Args:
        device: what `set_device` gave.
    """

    def __init__(self, device: str):
        environment = distributed.ParallelEnv()
        self.rank, self.count = environment.rank, environment.nranks
        if self.count > 1:
            if device == "cpu":
                os.environ["PADDLE_DISTRI_BACKEND"] = "gloo"  # beside GPUs Paddle would move the run to them
            with without_flags():
                distributed.init_parallel_env()
        self.is_first = self.rank == 0

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value added up over the processes."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def largest(self, value: int) -> int:
        """The largest of the processes' values."""
        return int(self._reduced([value], distributed.ReduceOp.MAX)[0])

    def agree_on(self, error: str) -> str:
        """The error of any of them, '' when none has one: so that all end by it, not by the others' being gone."""
        whose = self.largest(self.rank + 1 if error else 0) - 1
        if whose < 0 or self.count == 1:
            return error
        said = (
            np.frombuffer(error.encode("utf-8", "backslashreplace"), "uint8").astype("int32")
            if whose == self.rank
            else np.zeros(0, "int32")
        )
        text = paddle.to_tensor(np.resize(said, self.largest(len(said))))
        distributed.broadcast(text, src=whose)
        return text.numpy().astype("uint8").tobytes().decode()

    def agrees(self, value: int) -> bool:
        """Whether it is the same in all."""
        return self.largest(value) == -self.largest(-value)

    def wait(self) -> None:
        """Until all are here."""
        self.sum([0.0])

    @contextlib.contextmanager
    def first_alone(self) -> Iterator[None]:
        """The first process goes through the block before the others: what it fetches, they find."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def share_statistics(self, net: nn.Layer) -> None:
        """Give every process the first one's running statistics, which its own images made."""
        if self.count > 1:
            for value in (
                net.state_dict().values()
            ):  # Paddle keeps them as parameters without a gradient, not as buffers
                if value.stop_gradient:
                    distributed.broadcast(value, src=0)

    def _reduced(self, values: Sequence[float], how: int) -> list[float]:
        if self.count == 1:
            return list(values)
        tensor = paddle.to_tensor(values, dtype="float64")
        distributed.all_reduce(tensor, op=how)
        return tensor.tolist()


@contextlib.contextmanager
def without_flags() -> Iterator[None]:
    """Hides the table of flags that Paddle prints whenever it joins the processes of a job."""
    with contextlib.redirect_stderr(io.StringIO()):
        yield


def check_device(name: str) -> None:
    """Raises UserError when `train.device` names one GPU for all the processes of a job."""
    count = distributed.ParallelEnv().nranks
    if count > 1 and ":" in name:
        raise UserError(
            f"train.device is '{name}', but {count} processes were launched: expected 'auto', 'gpu' or 'cpu', so that each has its own"
        )
