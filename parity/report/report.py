"""The report of what the ladder found: a table, sentences, JSON and a page."""

from __future__ import annotations

import dataclasses
import html
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.io.files import write_atomically
from parity.report.console import WIDTH, print_first, standard_output
from parity.report.findings import (
    ONNX,
    PRECISIONS,
    RUNGS,
    Bound,
    Check,
    Findings,
    Omission,
    Parting,
)
from parity.report.page import page
from parity.report.quantity import Kind
from parity.report.source import SourceLine
from parity.spec.errors import listed

SHOWN = 5  # lines of failures, and of what was not compared, that are printed at first
SCHEMA = "parity-report-1"  # of the JSON that `to_dict` returns; see report.schema.json

__all__ = ["ONNX", "PRECISIONS", "RUNGS", "Bound", "Check", "Omission", "Parting", "Report"]


@dataclasses.dataclass
class Report(Findings):
    """Everything the ladder compared; `print`, `to_json` and `to_html` show it."""

    def table(self) -> Table:
        """A row per rung and kind, with the worst check of each; `rich` prints it."""
        table = Table(
            title=f"{escape(self.name)}: port against reference, {self.precision}"
            + ", inference only" * self.inference,
            box=SIMPLE_HEAD,
            pad_edge=False,
        )
        for column in ("rung", "kind"):
            table.add_column(column, no_wrap=True)
        for column in ("compared", "failed", "margin"):
            table.add_column(column, justify="right", no_wrap=True)
        if self.left_out:
            table.add_column("not compared", justify="right")
        table.add_column("of the worst", overflow="fold")
        for rung, kind, compared, failed, margin, worst in self.rows():
            mark = f"[red]{failed}[/red]" if failed else "[green]0[/green]"
            cells = [rung, kind, f"{compared}", mark, margin]
            if self.left_out:
                here = [o for o in self.left_out if o.rung == rung[:2] and kind == "structure"]
                colour = "red" if any(o.counts for o in here) else "default"
                if colour == "default" and any(o.option for o in here):
                    colour = "yellow"
                cells.append(f"[{colour}]{len(here)}[/{colour}]" if kind == "structure" else "")
            table.add_row(*cells, escape(worst))
        return table

    def __str__(self) -> str:
        """What `print` prints, as plain text."""
        text = io.StringIO()
        self.print(Console(file=text, width=WIDTH))
        return text.getvalue()

    def print(self, to: Console | None = None, most: int = SHOWN, verbose: bool = False) -> None:
        """Print the table, the failures and the verdict.

        Args:
            to: Where to; standard output if not given.
            most: How many lines of failures, and of what was not compared, to print; the failures
                of a rung and layer are one line.
            verbose: Print all, each failure on its own line.
        """
        console = to or standard_output()
        console.print(self.table())
        failed = self.failures()
        most = max(len(failed), len(self.left_out)) if verbose else most
        lines = [check.sentence() for check in failed] if verbose else self._grouped(failed)
        print_first(console, lines, most, f" (--verbose prints all {len(failed)} failures)")
        print_first(console, self._omitted(), most, " (--verbose prints all)")
        for bound in self.bounds:
            name = bound.option.split()[0]
            left = dict.fromkeys(o.layer for o in self.left_out if o.option == name)
            console.print(f"left out by {name}: {listed(left)}", markup=False, soft_wrap=True)
        seconds = f"{sum(self.seconds.values()):.0f} s"
        for note in [*self.notes, *self.drowned()]:
            whole = verbose or len(note) <= 300
            console.print(note if whole else f"{note[:300]} ...", markup=False)
        if self.ok:
            word = "[yellow]PASSED IN PART[/yellow]" if self.bounds else "[green]PASSED[/green]"
            console.print(f"{word} {self.compared} comparisons ({seconds})")
        else:
            reason = escape(self.reason())
            console.print(f"[red]FAILED[/red] {reason} ({seconds})", soft_wrap=True)
        if self.fault():
            if self.parting is not None:
                console.print(f"  {self.parting}", markup=False, soft_wrap=True)
            for line in self.explanation():
                console.print(f"  {line}", markup=False, soft_wrap=True)
        for line in self.unseen:
            console.print(f"[yellow]NOT SEEN[/yellow] {escape(line)}", soft_wrap=True)

    def _grouped(self, failed: Sequence[Check]) -> list[str]:
        """The failures, a line for each rung and layer: the first, and what else of it failed."""
        groups: dict[tuple[str, str], list[Check]] = {}
        for check in sorted(failed, key=lambda c: c.rung):
            groups.setdefault((check.rung, check.layer), []).append(check)
        lines = []
        for checks in groups.values():
            first = min(checks, key=lambda c: c.kind != "structure")
            others = dict.fromkeys(str(c.quantity) for c in checks)
            del others[str(first.quantity)]
            also = f"; also {listed(others)}" if others else ""
            lines.append(first.sentence() + also)
        return lines

    def _omitted(self) -> list[str]:
        """What could not be compared, a line each, but for layers that a note names already."""
        return [
            omission.sentence()
            for omission in sorted(self.left_out, key=lambda o: (not o.counts, o.rung))
            if not omission.option  # these are counted in a line of their own
            if omission.counts
            or omission.quantity.kind is not Kind.OUTPUT
            or omission.layer not in self.noted
        ]

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values; infinities are strings."""
        fault = self.fault()
        parting = self.parting
        return {
            "schema": SCHEMA,
            "name": self.name,
            "precision": self.precision,
            "ok": self.ok,
            "reason": self.reason(),
            "first_failure": self.first_failure(),
            "inference": self.inference,
            "fault": fault.where() if fault else None,
            "causes": [str(cause) for cause in self.causes],
            "proved": bool(self.causes),
            "operations": self.operations,
            "parting": None if parting is None else _parting(parting),
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "notes": self.notes,
            "unseen": self.unseen,
            "seconds": self.seconds,
            "bounds": [dataclasses.asdict(bound) for bound in self.bounds],
            "left_out": [_fields(omission) for omission in self.left_out],
            "checks": [_check(c) for c in self.checks],
        }

    def first_failure(self) -> dict[str, Any] | None:
        """The failure to look at first as JSON values, with all that is known of it."""
        if (fault := self.fault()) is None:
            return None
        parting = self.parting
        return _check(fault) | {
            "look_at": self.look_at(fault),
            "message": fault.sentence(),
            "port_line": _line(self.port_line),
            "reference_line": None if parting is None else _line(parting.reference_line),
            "parting": None if parting is None else str(parting),
            "proved": [str(cause) for cause in self.causes],
            "fix": self.fix or None,
            "operations": self.operations,
        }

    def to_json(self, path: str | Path) -> None:
        """Write the whole report."""
        write_atomically(path, json.dumps(self.to_dict(), indent=1).encode())

    def to_html(self, path: str | Path) -> None:
        """Write a page: verdict, error against depth in both precisions, failures and causes."""
        write_atomically(path, page(self).encode())

    def _repr_html_(self) -> str:
        """The page, in a frame: what a notebook shows of a report."""
        return (
            f'<iframe srcdoc="{html.escape(page(self))}" title="{html.escape(self.name)}"'
            ' style="width: 100%; height: 700px; border: 0"></iframe>'
        )

    def assert_faithful(self) -> None:
        """Raise unless everything agreed.

        Raises:
            AssertionError: Its message is the first failure and how many more there are.
        """
        if not self.ok:
            failed, fault = self.failures(), self.fault()
            detail = f"{fault.sentence()} ({len(failed)} in all)" if fault else self.reason()
            if fault and (incomplete := self.incomplete()):
                detail += f"; {incomplete}"
            for line in self.explanation() if self.causes else ():
                detail += f"; {line}"
            raise AssertionError(f"{self.name}: {detail}")


def _fields(entry: Check | Omission) -> dict[str, Any]:
    """The fields of a check or an omission; its quantity as the sentence that is shown."""
    found = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return found | {"quantity": str(entry.quantity)}


def _check(check: Check) -> dict[str, Any]:
    derived = {"ok": check.ok, "can_fail": check.can_fail, "margin": check.margin}
    found = _fields(check) | {"index": list(check.index)} | derived
    numbers = ("error", "limit", "margin", "reference_value", "port_value", "isolated")
    return found | {key: _number(found[key]) for key in numbers}


def _parting(parting: Parting) -> dict[str, Any]:
    return {
        "reference": parting.reference,
        "port": parting.port,
        "reference_line": _line(parting.reference_line),
        "port_line": _line(parting.port_line),
    }


def _line(line: SourceLine) -> dict[str, Any] | None:
    return {"path": line.path, "line": line.number} if line else None


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
