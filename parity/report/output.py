"""Standard output, on which tables keep their words whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDEST = 10_000  # of a table in a file


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
