"""The commands' output to the terminal, and their display of progress."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDEST = 10_000  # of a table in a file
WIDTH = 140  # used where the output has no width, such as a file
QUIET = 30  # seconds after which a file, too, gets a line on what is being done


class Output(Console):
    """Standard output.

    A table that is too wide for the terminal is printed row by row, a line for each cell, so that
    no name or number is broken. A reader that has enough, such as `head`, is left to the command
    line.
    """

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich` does, but for wide tables; in a file these are as wide as they need."""
        if len(objects) != 1 or not isinstance(objects[0], Table) or _fits(objects[0], self):
            super().print(*objects, **options)
        elif self.is_terminal:
            for line in _records(objects[0]):
                super().print(line, soft_wrap=True)
        else:
            width, self.width = self.width, WIDEST
            self.width = Measurement.get(self, self.options, objects[0]).maximum
            super().print(*objects, **options)
            self.width = width

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _plain(cell: RenderableType) -> Text:
    return Text.from_markup(cell) if isinstance(cell, str) else Text(str(cell))


def _fits(table: Table, console: Console) -> bool:
    """Return whether each word of a table is whole where the table is as wide as the terminal."""
    with console.capture() as capture:
        Console.print(console, table)
    shown = set(Text.from_ansi(capture.get()).plain.split())
    columns = ((column.header, *column.cells) for column in table.columns)
    return all(set(_plain(cell).plain.split()) <= shown for cells in columns for cell in cells)


def _records(table: Table) -> Iterator[Text]:
    """Yield the rows of a table: the first cell that is not empty, then a line for each other."""
    if table.title:
        yield Text.assemble(_plain(table.title), style="italic")
    headers = [_plain(column.header).plain for column in table.columns]
    width = max(map(len, headers), default=0)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        filled = [(h, _plain(cell)) for h, cell in zip(headers, cells, strict=True) if cell]
        for number, (header, cell) in enumerate(filled):
            lead = f"  {header:{width}}  " if number else ""
            yield Text.assemble(lead, cell, style="" if number else "bold")


def standard_output() -> Console:
    """Standard output; tables are as wide as the terminal, and wide enough in a file."""
    found = Output()
    return found if found.is_terminal else Output(width=WIDTH)


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


@contextlib.contextmanager
def working() -> Iterator[Callable[[str], None]]:
    """Show what is being done, and since when, to a person who waits; to a file see `Lines`."""
    if not sys.stderr.isatty():
        yield Lines().show
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)  # a path may look like some
    columns = (SpinnerColumn(), text, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
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
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    text = TextColumn("{task.description}", markup=False)
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), text)
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(first, total=None)
        yield lambda done, total, what: bar.update(
            task, completed=done, total=total, description=what
        )
