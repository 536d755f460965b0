"""What became of the contract's faults: a table, the survivors by name, and JSON."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tests.mutation.catalogue import KINDS, Fault
from tests.mutation.judges import JUDGES


@dataclasses.dataclass(frozen=True)
class FaultRow:
    """One fault.

    Attributes:
        fault: Which.
        by: The test that found it; empty if none did.
        message: What that test said.
        error: Why its tests could not judge it; empty if they could.
        seconds: Of a processor, that they took.
    """

    fault: Fault
    by: str = ""
    message: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def state(self) -> str:
        """`found`, `survived`, or `error`."""
        return "error" if self.error else "found" if self.by else "survived"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = dataclasses.asdict(self.fault) | {"state": self.state, "found by": self.by}
        fields["judges"] = [JUDGES[judge].name for judge in self.fault.judges]
        return fields | {"message": self.message, "error": self.error, "seconds": self.seconds}


@dataclasses.dataclass(frozen=True)
class MutationResult:
    """What became of all faults that were injected.

    Attributes:
        rows: One for each.
        skipped: Key of `JUDGES` -> how many of its tests were skipped, where there were any.
    """

    rows: Sequence[FaultRow]
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def of(self, *states: str) -> list[FaultRow]:
        """Those in one of these states."""
        return [row for row in self.rows if row.state in states]

    @property
    def ok(self) -> bool:
        return bool(self.of("found")) and not self.of("survived", "error")

    def print(self, console: Console) -> None:
        """Print everything."""
        say = functools.partial(console.print, markup=False, highlight=False, soft_wrap=True)
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in ("kind", "faults", "found", "survived"):
            table.add_column(column, justify="left" if column in ("kind", "survived") else "right")
        for kind in KINDS:
            rows = [row for row in self.rows if row.fault.kind == kind]
            alive = [row.fault.title for row in rows if row.state != "found"]
            if rows:
                cells = (kind, str(len(rows)), str(len(rows) - len(alive)))
                table.add_row(*cells, "\n".join(alive))
        console.print(table)
        for row in self.of("survived"):
            names = ", ".join(JUDGES[judge].name for judge in row.fault.judges)
            say(f"survived: {row.fault.title}: in {row.fault.file}; asked: {names}")
        for row in self.of("error"):
            say(f"error: {row.fault.title}: {row.error}")
        for judge, skipped in self.skipped.items():
            tests = ", ".join(JUDGES[judge].tests)
            say(f"skipped: {skipped} of {tests}: is PARITY_SHARED set?")
        found, counted = len(self.of("found")), len(self.rows)
        share = f" ({found / counted:.0%})" if counted else ""
        say(f"found: {found} of {counted}{share}")
        console.print("[green]PASSED[/green]" if self.ok else "[red]FAILED[/red]")

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "ok": self.ok,
            "found": len(self.of("found")),
            "of": len(self.rows),
            "skipped": dict(self.skipped),
            "faults": [row.to_dict() for row in self.rows],
        }
