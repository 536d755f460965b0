"""The result of a fault campaign: tables, totals and JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.faults.rows import CleanRow, MutantRow
from parity.io.files import write_atomically


@dataclasses.dataclass(frozen=True)
class CampaignResult:
    """The result of a campaign: of mutants, of clean runs, or of both."""

    rows: Sequence[MutantRow] = ()
    clean: Sequence[CleanRow] = ()

    @property
    def counted(self) -> list[MutantRow]:
        """Return the mutants that some input can reveal."""
        return [r for r in self.rows if not r.equivalent]

    @property
    def survivors(self) -> list[MutantRow]:
        return [r for r in self.counted if not r.killed]

    @property
    def false_alarms(self) -> list[CleanRow]:
        return [c for c in self.clean if c.alarm]

    @property
    def wrongly_proved(self) -> list[MutantRow]:
        """Return the mutants of which a cause is called proved that is not theirs."""
        return [r for r in self.rows if r.wrong]

    @property
    def ok(self) -> bool:
        failed = self.survivors or self.false_alarms or self.wrongly_proved
        return bool(self.rows or self.clean) and not failed

    def totals(self) -> dict[str, Any]:
        """Return the totals: (how many, of how many)."""
        counted, rows = self.counted, [r for r in self.counted if r.killed]
        layers = [r for r in rows if r.level == "layer"]
        found: dict[str, Any] = {}
        if self.rows:
            found |= {
                "killed": (len(rows), len(counted)),
                "first named right, of layers": (sum(bool(r.right) for r in layers), len(layers)),
                "cause proved": (sum(r.proved for r in rows), len(rows)),
                "wrong cause proved": (len(self.wrongly_proved), len(rows)),
                "equivalent": (len(self.rows) - len(counted), len(self.rows)),
            }
        if self.clean:
            found["false alarms"] = (len(self.false_alarms), len(self.clean))
        return found

    def print(self, console: Console) -> None:
        """Print everything."""
        if self.rows:
            console.print(self._mutants())
            for row in (r for r in self.rows if r.equivalent):
                where = f"{row.number} {row.name}, {row.model} {row.place}"
                console.print(f"equivalent: {where}: {row.equivalent}", highlight=False)
            for entry in map(CATALOGUE.__getitem__, self.absent()):
                console.print(f"no place: {entry.number} {entry.title}", highlight=False)
        for row in self.wrongly_proved:
            where = f"{row.number} {row.name}, {row.model} {row.place}"
            console.print(f"[red]wrong cause[/red] {where}: {row.causes[0]}", highlight=False)
        for alarm in self.false_alarms:
            console.print(f"[red]false alarm[/red] {alarm.model} seed {alarm.seed}: {alarm.alarm}")
        for name, (count, of) in self.totals().items():
            share = f" ({count / of:.0%})" if of else ""
            console.print(f"{name}: {count} of {of}{share}", highlight=False)
        console.print("[green]PASSED[/green]" if self.ok else "[red]FAILED[/red]")

    def to_json(self, path: str | Path) -> None:
        """Write everything."""
        rows = [
            dataclasses.asdict(r) | {"fault": r.number, "margin": _number(r.margin)}
            for r in self.rows
        ]
        found = {
            "ok": self.ok,
            "totals": {name: list(pair) for name, pair in self.totals().items()},
            "mutants": rows,
            "clean": [dataclasses.asdict(c) for c in self.clean],
            "no place": [CATALOGUE[fault].number for fault in self.absent()],
        }
        write_atomically(path, json.dumps(found, indent=1).encode())

    def absent(self) -> list[Fault]:
        """Faults that were not injected: the networks have no place for them."""
        injected = {r.fault for r in self.rows}
        return [n for n in CATALOGUE if self.rows and n not in injected]

    def _mutants(self) -> Table:
        table = _table("fault", "place", "rung", "named", "above the limit", "cause", "s")
        for r in self.rows:
            state = f"{r.rung} {r.kind}" if r.killed else "[red]survived[/red]"
            if r.equivalent and not r.killed:
                state = "equivalent"
            named = {True: "right", False: f"[red]{r.named}[/red]", None: r.named}[r.right]
            table.add_row(
                f"{r.number} {r.title}: {r.name}",
                f"{r.model} {r.place or r.level}",
                state,
                named if r.killed else r.named,
                "" if not r.killed else "exact" if math.isinf(r.margin) else f"{r.margin:.0e}x",
                "proved" if r.proved else "[red]wrong[/red]" if r.wrong else "",
                f"{r.seconds:.1f}",
            )
        return table


def _table(*columns: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
