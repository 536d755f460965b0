"""The display of a run's progress."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
)

from parity.report.console import at_terminal


class Display(Protocol):
    """An object that shows a run's progress."""

    def begin(self, what: str, done: int, total: int) -> None:
        """Begin something of so many steps, of which some are done."""

    def show(self, done: int, text: str) -> None:
        """Show the number of steps done."""

    def say(self, line: str) -> None:
        """Print a permanent line."""


class Lines:
    """Only the lines that stay, on standard output: for a file."""

    def begin(self, what: str, done: int, total: int) -> None:
        del what, done, total

    def show(self, done: int, text: str) -> None:
        del done, text

    def say(self, line: str) -> None:
        print(line, flush=True)


class Silent(Lines):
    """Shows nothing; for a process whose progress another process shows."""

    def say(self, line: str) -> None:
        del line


WIDE = 120  # columns of a terminal that has room for a bar, and for all that is known of a step
LEFT_OUT = ("waiting", "lr", "images/s", "left")  # on a narrow one, in this order
PASSED = len(" passed 0:00:00")


class Bar:
    """A bar on standard error, if that is a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.task = progress.add_task("", text="", total=None)
        self.begun = 0  # columns of what is shown beside a step's text

    def begin(self, what: str, done: int, total: int) -> None:
        self.begun = len(f"{what} {total}/{total} ") + PASSED
        self.progress.reset(self.task, description=what, completed=done, total=total, text="")

    def show(self, done: int, text: str) -> None:
        width = self.progress.console.width
        room = len(text) if width >= WIDE else width - self.begun
        self.progress.update(self.task, completed=done, text=fitting(text, room))

    def say(self, line: str) -> None:
        self.progress.console.print(line, markup=False, highlight=False)


@contextlib.contextmanager
def display() -> Iterator[Display]:
    """Yield a progress bar on a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    console = Console(stderr=True)
    bar = [BarColumn(bar_width=24)] if console.width >= WIDE else []
    columns = (
        TextColumn("{task.description}", markup=False),
        *bar,
        MofNCompleteColumn(),
        TextColumn("{task.fields[text]}", markup=False),
        TextColumn("passed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, **at_terminal(console)) as progress:
        yield Bar(progress)


def fitting(text: str, room: int) -> str:
    """Leave out the least of what is known of a step, until the rest fits; no value is cut.

    Args:
        text: Values, two spaces between.
        room: How many characters fit.
    """
    parts = text.split("  ")
    for word in LEFT_OUT:
        if len("  ".join(parts)) <= room:
            break
        parts = [part for part in parts if word not in part]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`2:03:04`, for people."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
