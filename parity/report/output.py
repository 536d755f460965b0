"""Standard output, on which names and numbers stay whole."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console, RenderableType
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from parity.report.lines import broken

WIDEST = 10_000  # of a table in a file


class Output(Console):
    """Standard output.

    A table that is too wide for the terminal is printed row by row, a line for each cell, and a
    long line is broken between words, so that no name or number is broken. A reader that has
    enough, such as `head`, is left to the command line.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(emoji=False, **options)  # `:car:` is a name
        # FORCE_COLOR makes no terminal of a file.
        self.breaks_lines = options.get("force_terminal") or self.file.isatty()

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as `rich` does, but for wide tables and lines; in a file all is as it is."""
        one = objects[0] if len(objects) == 1 else None
        if isinstance(one, str) and options.get("soft_wrap") and self.breaks_lines:
            markup, highlight = options.get("markup"), options.get("highlight")
            self._print_broken(self.render_str(str(one), markup=markup, highlight=highlight))
        elif not isinstance(one, Table) or _fits(one, self):
            super().print(*objects, **options)
        elif self.breaks_lines:
            for line in _records(one):
                self._print_broken(line)
        else:
            width, self.width = self.width, WIDEST
            self.width = Measurement.get(self, self.options, one).maximum
            super().print(*objects, **options)
            self.width = width

    def _print_broken(self, text: Text) -> None:
        for line in text.split("\n"):
            for indent, first, last in broken(line.plain, self.width):
                super().print(Text(" " * indent) + line[first:last], soft_wrap=True)

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _plain(cell: RenderableType) -> Text:
    return Text.from_markup(cell, emoji=False) if isinstance(cell, str) else Text(str(cell))


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
