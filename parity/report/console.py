"""The commands' output to the terminal, and their display of progress."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # commands that print no table do without
    from rich.console import Console

WIDTH = 140  # used where the output has no width, such as a file
QUIET = 30  # seconds after which a file, too, gets a line on what is being done


def standard_output() -> Console:
    """Standard output; tables are as wide as the terminal, and wide enough in a file."""
    from parity.report.output import Output

    return Output() if sys.stdout.isatty() else Output(width=WIDTH)


def print_first(console: Console, lines: Sequence[str], most: int, hint: str = "") -> None:
    """Print the first of some lines, as they are, and how many more there are.

    Args:
        console: Where to.
        lines: All of them.
        most: How many are printed.
        hint: Printed behind the number of the others.
    """
    for line in lines[:most]:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if len(lines) > most:
        console.print(f"... and {len(lines) - most} more{hint}", highlight=False)


class Lines:
    """Prints what is being done, now and then, as lines on standard error; for output to a file.

    Fast actions print no line.
    """

    def __init__(self) -> None:
        self.begun = self.said = time.monotonic()

    def show(self, stage: str) -> None:
        """Show the next action."""
        now = time.monotonic()
        if now - self.said >= QUIET:
            self.said = now
            print(f"[{now - self.begun:.0f} s] {stage}", file=sys.stderr, flush=True)

    def count(self, done: int, total: int, what: str) -> None:
        """Show the next action, with the number of items done."""
        self.show(f"{done} of {total}: {what}")


def at_terminal(console: Console) -> dict[str, Any]:
    """Return options of `rich.progress.Progress` on standard error, for as long as it is needed.

    It prints above itself what others print, but not what they print to a file.
    """
    return {"console": console, "transient": True, "redirect_stdout": sys.stdout.isatty()}


@contextlib.contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Show what is being done, and since when, to a person who waits; to a file see `Lines`."""
    if not sys.stderr.isatty():
        yield Lines().show
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)  # a path may look like some
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
    with Progress(*columns, **at_terminal(Console(stderr=True))) as bar:
        task = bar.add_task("starting")
        yield lambda stage: bar.update(task, description=stage)


@contextlib.contextmanager
def counting(first: str) -> Iterator[Callable[[int, int, str], None]]:
    """Yield a function that shows a progress bar: items done, total, and the next item.

    Args:
        first: The action shown before anything can be counted.
    """
    if not sys.stderr.isatty():
        yield Lines().count
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text)
    with Progress(*columns, **at_terminal(Console(stderr=True))) as bar:
        task = bar.add_task(first, total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )
