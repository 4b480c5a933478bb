"""Progress bars in a terminal and in a notebook."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn

NOTEBOOK_WIDTH = 100  # characters
NOTEBOOK_SECONDS = 0.2  # between two updates: a browser is slower than a terminal

Item = TypeVar("Item")


def plain_console() -> Console:
    """The console of a command: no markup, and in a notebook lines of text instead of pieces of HTML."""
    is_terminal = False if notebook_display() else None  # a kernel's FORCE_COLOR would make it one
    return Console(
        markup=False, emoji=False, highlight=False, force_jupyter=False, force_terminal=is_terminal
    )


class Bar(Progress):
    """rich's progress bar in a terminal, a line of text that changes in place in a notebook, else nothing.

    rich's own bar in a notebook needs the package ipywidgets, and a saved notebook does not contain it. This
    one needs no package, and its last state stays in the notebook.

    Args:
        columns: what the line consists of, as in `rich.progress.Progress`.
        console: where it is drawn; None is the terminal or the notebook.
        transient: a finished bar disappears from the terminal.
        expand: the line fills the width.
    """

    def __init__(
        self,
        *columns: ProgressColumn | str,
        console: Console | None = None,
        transient: bool = True,
        expand: bool = False,
    ):
        console = console or plain_console()
        on_screen = console.file is sys.stdout and not console.quiet
        self._display = None if console.is_terminal or not on_screen else notebook_display()
        self._handle: Any = None  # of IPython's display
        self._shown = 0.0  # when
        super().__init__(
            *columns,
            console=console,
            auto_refresh=console.is_terminal,
            transient=transient,
            expand=expand,
            disable=not console.is_terminal,
        )

    def start(self) -> None:
        super().start()
        if self._display:
            self._handle = self._display(self._line(), raw=True, display_id=True)

    def stop(self) -> None:
        super().stop()
        self._show(now=True)
        self._handle = None

    def update(self, *arguments: Any, **keywords: Any) -> None:
        super().update(*arguments, **keywords)
        self._show()

    def advance(self, *arguments: Any, **keywords: Any) -> None:
        super().advance(*arguments, **keywords)
        self._show()

    def _show(self, now: bool = False) -> None:
        if self._handle and (now or time.monotonic() - self._shown >= NOTEBOOK_SECONDS):
            self._handle.update(self._line(), raw=True)
            self._shown = time.monotonic()

    def _line(self) -> dict[str, str]:
        """The bar as text, by its MIME type."""
        console = Console(file=io.StringIO(), width=NOTEBOOK_WIDTH, color_system=None, force_jupyter=False)
        console.print(self.get_renderable())
        return {"text/plain": console.file.getvalue().rstrip()}


def track(items: Iterable[Item], description: str) -> Iterator[Item]:
    """The items, with a bar over them."""
    with Bar(*Bar.get_default_columns()) as bar:
        yield from bar.track(items, description=description)


def notebook_display() -> Callable[..., Any] | None:
    """IPython's `display` in the kernel of a notebook, None elsewhere."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if not hasattr(shell, "kernel"):  # IPython in a terminal has none
        return None
    from IPython.display import display

    return display
