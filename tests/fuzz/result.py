"""What the suites found: a table, the failures, and JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.report.console import print_first, standard_output


@dataclasses.dataclass(frozen=True)
class Job:
    """What a suite is to do.

    Attributes:
        folder: Where files are made.
        count: How many of each, where there may be any number.
        seed: Of everything random.
        progress: Called with what is done next.
    """

    folder: Path
    count: int = 0
    seed: int = 0
    progress: Callable[[str], None] = lambda _: None


@dataclasses.dataclass
class FuzzRow:
    """One line of the table; a suite counts in it.

    Attributes:
        suite: A key of `campaign.SUITES`.
        what: Of what: a format, a sort of file, a network.
        tried: How many.
        refused: How many were refused in one line; of kills: how many left the old one.
        loaded: How many were read; of kills: how many left the new one.
        faults: What must not be, a line each.
        note: More of it.
    """

    suite: str
    what: str
    tried: int = 0
    refused: int = 0
    loaded: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    note: str = ""

    @property
    def ok(self) -> bool:
        """True where something was tried, and nothing was wrong."""
        return self.tried > 0 and not self.faults


@dataclasses.dataclass
class FuzzResult:
    """Everything that was found.

    Attributes:
        rows: In the order in which they were made.
        seconds: Per suite.
        settings: What was asked for.
    """

    settings: dict[str, Any]
    rows: list[FuzzRow] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True where something was tried in every row, and nothing was wrong."""
        return bool(self.rows) and all(row.ok for row in self.rows)

    def table(self) -> Table:
        """A row each; `rich` prints it."""
        table = Table(title="Fuzzing checkpoints", box=SIMPLE_HEAD, pad_edge=False)
        for column in ("suite", "of"):
            table.add_column(column, no_wrap=True)
        for column in ("tried", "refused / old", "read / new", "faults"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("", overflow="fold")
        for row in self.rows:
            colour = "red" if row.faults else "green"
            mark = f"[{colour}]{len(row.faults):,}[/{colour}]"
            numbers = (f"{row.tried:,}", f"{row.refused:,}", f"{row.loaded:,}", mark)
            table.add_row(row.suite, row.what, *numbers, escape(row.note))
        return table

    def print(self, to: Console | None = None, most: int = 40) -> None:
        """Print the table, the first faults and the verdict.

        Args:
            to: Where to; standard output if not given.
            most: How many faults to print.
        """
        console = to or standard_output()
        console.print(self.table())
        faults = [f"{r.suite}, {r.what}: {fault}" for r in self.rows for fault in r.faults]
        print_first(console, faults, most)
        seconds = f"{sum(self.seconds.values()):.0f} s"
        tried = sum(row.tried for row in self.rows)
        if self.ok:
            console.print(f"[green]PASSED[/green] {tried:,} cases ({seconds})")
        else:
            console.print(f"[red]FAILED[/red] {len(faults):,} faults in {tried:,} ({seconds})")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self) | {"ok": self.ok}
