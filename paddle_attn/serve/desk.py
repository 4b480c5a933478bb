"""Where requests wait: one thread decodes and computes, a bounded number of requests waits for it.

The engines use all cores for one picture, so a second thread would not answer earlier. With one, at most one
decoded picture is in memory, and networks that no two threads may use need no lock.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from PIL import Image

from .models import Answer, Served
from .pictures import THUMBNAIL, decode
from .texts import Refused


@dataclass(frozen=True)
class Seen:
    """A decoded picture with the answers of all networks."""

    size: tuple[int, int]  # width and height
    thumbnail: Image.Image
    answers: list[Answer]


class Desk:
    """Answers requests one after the other. Only one event loop may use it.

    Args:
        models: the networks; each answers every picture.
        places: the number of requests that may be here at once, waiting or answered.
    """

    def __init__(self, models: Sequence[Served], places: int):
        self.models = list(models)
        self.free = places
        self._thread = ThreadPoolExecutor(1, "paddle_attn")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Take a place while the block runs. Raises Refused when none is free."""
        if self.free < 1:
            raise Refused(503, "busy")
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1

    async def answer(self, content: bytes, topk: int = 5, explain: bool = False) -> Seen:
        """Decode a picture and classify it with every network; the caller has a `place`. Raises Refused."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._answer, content, topk, explain)

    def _answer(self, content: bytes, topk: int, explain: bool) -> Seen:
        image = decode(content)
        size = image.size
        answers = [model.answer(image, topk, explain) for model in self.models]
        image.thumbnail((THUMBNAIL, THUMBNAIL), reducing_gap=2.0)  # in place: a copy would double the memory
        return Seen(size, image, answers)

    def close(self) -> None:
        """Drop what waits and wait for the picture in work."""
        self._thread.shutdown(cancel_futures=True)
