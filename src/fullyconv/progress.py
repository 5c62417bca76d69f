"""What a long command says while it works: bars on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress

__all__ = ["Console", "Progress", "Silent", "duration"]


class Progress(Protocol):
    """Where a long function reports to."""

    def say(self, line: str) -> None:
        """Report one line."""

    def track(self, label: str, total: int) -> AbstractContextManager[Callable[[], None]]:
        """Open a tracker of `total` steps, to be used as `with progress.track(...) as step: step()`."""


class Silent:
    """Say nothing: the default of the Python functions."""

    def say(self, line: str) -> None:
        """Drop the line."""

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Track nothing."""
        yield lambda: None


class Console:
    """Report to standard error: bars where it is a terminal, else a line now and then.

    Args:
        every: Seconds between the lines of a tracker where there is no terminal.
    """

    def __init__(self, every: float = 10.0) -> None:
        self.every = every
        self.console = RichConsole(file=sys.stderr, highlight=False, emoji=False, soft_wrap=True)

    def say(self, line: str) -> None:
        """Print the line."""
        self.console.print(line, markup=False)

    @contextmanager
    def track(self, label: str, total: int) -> Iterator[Callable[[], None]]:
        """Show how far `total` steps are and how long the rest will take."""
        if self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
            )
            with RichProgress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(label, total=total)
                yield lambda: bar.advance(task)
        else:
            yield self._plain(label, total)

    def _plain(self, label: str, total: int) -> Callable[[], None]:
        start = last = time.monotonic()
        done = 0

        def step() -> None:
            nonlocal done, last
            done += 1
            now = time.monotonic()
            if now - last >= self.every and done < total:
                last = now
                self.say(f"{label}: {done} of {total}, {duration((now - start) / done * (total - done))} left")

        return step


def duration(seconds: float) -> str:
    """Say a number of seconds as people do: "0.4 s", "12 s", "3 min 20 s", "2 h 5 min"."""
    if round(seconds, 1) < 10:
        return f"{seconds:.1f} s"
    if round(seconds) < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
