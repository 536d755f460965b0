"""What became of the contract's faults: a table, the survivors by name, and JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from parity.io.files import write_atomically
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
        """`found`, `survived`, `equivalent`, or `error`."""
        if self.error or (self.by and self.fault.equivalent):
            return "error"
        if self.fault.equivalent:
            return "equivalent"
        return "found" if self.by else "survived"

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields = dataclasses.asdict(self.fault) | {"state": self.state, "found by": self.by}
        fields["judges"] = [JUDGES[judge].name for judge in self.fault.judges]
        return fields | {"message": self.message, "error": self.why, "seconds": self.seconds}

    @property
    def why(self) -> str:
        """What is wrong with it, where its state is `error`."""
        if self.by and self.fault.equivalent:
            return f"called equivalent, yet {self.by} finds it"
        return self.error


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

    @property
    def score(self) -> tuple[int, int]:
        """How many were found, of how many that are not equivalent."""
        return len(self.of("found")), len(self.of("found", "survived", "error"))

    def print(self, console: Console) -> None:
        """Print everything."""
        table = Table(box=SIMPLE_HEAD, pad_edge=False)
        for column in ("kind", "faults", "found", "equivalent", "survived"):
            table.add_column(column, justify="left" if column in ("kind", "survived") else "right")
        for kind in KINDS:
            rows = [row for row in self.rows if row.fault.kind == kind]
            if not rows:
                continue
            count = {s: sum(r.state == s for r in rows) for s in ("found", "equivalent")}
            alive = [r.fault.title for r in rows if r.state in ("survived", "error")]
            cells = (str(len(rows)), str(count["found"]), str(count["equivalent"] or ""))
            table.add_row(kind, *cells, "\n".join(alive))
        console.print(table)
        for row in self.of("equivalent"):
            self._say(console, "equivalent", row, row.fault.equivalent)
        for row in self.of("survived"):
            names = ", ".join(JUDGES[judge].name for judge in row.fault.judges)
            self._say(console, "survived", row, f"in {row.fault.file}; asked: {names}")
        for row in self.of("error"):
            self._say(console, "error", row, row.why)
        for judge, skipped in self.skipped.items():
            tests = ", ".join(JUDGES[judge].tests)
            text = f"skipped: {skipped} of {tests}: is PARITY_SHARED set?"
            console.print(text, markup=False, highlight=False, soft_wrap=True)
        found, counted = self.score
        share = f" ({found / counted:.0%})" if counted else ""
        console.print(f"found: {found} of {counted}{share}", highlight=False)
        console.print("[green]PASSED[/green]" if self.ok else "[red]FAILED[/red]")

    @staticmethod
    def _say(console: Console, state: str, row: FaultRow, text: str) -> None:
        line = f"{state}: {row.fault.title}: {text}"
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    def to_json(self, path: str | Path) -> None:
        """Write everything."""
        found, counted = self.score
        made = {
            "ok": self.ok,
            "found": found,
            "of": counted,
            "equivalent": len(self.of("equivalent")),
            "skipped": dict(self.skipped),
            "faults": [row.to_dict() for row in self.rows],
        }
        write_atomically(path, json.dumps(made, indent=1).encode())
