"""Ctrl-C and SIGTERM as a wish that training can grant when the step that it is in is done."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Within it the first Ctrl-C or SIGTERM is only noted, in `.signal`; a second one acts as it always does.

    Args:
        in_job: a launcher stands behind this process; it repeats its SIGTERM, so that none acts, also behind the block, where the process
            is about to end. It has SIGKILL if it must.
    """

    def __init__(self, in_job: bool = False):
        self._in_job = in_job
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> StopRequest:
        if (
            threading.current_thread() is threading.main_thread()
        ):  # elsewhere Python lets nobody handle signals
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        if not self._in_job:  # there SIGTERM may still come while Python ends, and would change the exit code
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if not self._in_job:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
