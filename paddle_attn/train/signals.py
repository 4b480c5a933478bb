"""Ctrl-C and SIGTERM as a request that training serves when its step is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignal:
    """Inside the block the first Ctrl-C or SIGTERM is only recorded in `received`; a second one acts as
    usual.

    Args:
        launched: Paddle's launcher started this process. It repeats its SIGTERM while the process saves and
            ends, so here no signal acts, also after the block. The launcher has SIGKILL if it must.
    """

    def __init__(self, launched: bool = False):
        self._launched = launched
        self.received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():  # Python handles signals only there
            self._previous = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        if not self._launched:
            self._restore()

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(number)
        if not self._launched:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
