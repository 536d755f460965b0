"""The report of what the ladder found: a table, sentences, JSON and a page."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.io.files import write_atomically
from parity.report.console import WIDTH, print_first, standard_output
from parity.report.findings import ONNX, PRECISIONS, RUNGS, Check, Findings, Omission, Parting
from parity.report.page import page
from parity.report.quantity import Kind

RIGHT_ALONE = 1e-9  # the relative difference in float64 of a layer that is right

__all__ = ["ONNX", "PRECISIONS", "RUNGS", "Check", "Omission", "Parting", "Report"]


@dataclasses.dataclass
class Report(Findings):
    """Everything the ladder compared; `print`, `to_json` and `to_html` show it."""

    def table(self) -> Table:
        """A row per rung and kind, with the worst check of each; `rich` prints it."""
        table = Table(
            title=f"{self.name}: port against reference, {self.precision}"
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
                cells.append(f"[{colour}]{len(here)}[/{colour}]" if kind == "structure" else "")
            table.add_row(*cells, escape(worst))
        return table

    def __str__(self) -> str:
        """What `print` prints, as plain text."""
        text = io.StringIO()
        self.print(Console(file=text, width=WIDTH))
        return text.getvalue()

    def print(self, to: Console | None = None, most: int = 20) -> None:
        """Print the table, the failures and the verdict.

        Args:
            to: Where to; standard output if not given.
            most: How many failures to print.
        """
        console = to or standard_output()
        console.print(self.table())
        failed = self.failures()
        print_first(console, [check.sentence() for check in failed], most)
        print_first(console, self._omitted(), most)
        fault = self.fault()
        seconds = f"{sum(self.seconds.values()):.0f} s"
        for note in self.notes:
            console.print(note if len(note) <= 300 else f"{note[:300]} ...", markup=False)
        if fault:
            place = escape(fault.where())
            if fault.isolated is not None and fault.isolated <= RIGHT_ALONE:
                place = f"what is fed to {place}"
            console.print(f"[red]FAILED[/red] look at [bold]{place}[/bold] first ({seconds})")
            if self.parting is not None:
                console.print(f"  {self.parting}", markup=False, soft_wrap=True)
            for line in self.explanation():
                console.print(f"  {line}", markup=False, soft_wrap=True)
        elif self.missing():
            console.print(f"[red]FAILED[/red] {self._incomplete()} ({seconds})", soft_wrap=True)
        elif self.ok:
            console.print(f"[green]PASSED[/green] {len(self.checks)} comparisons ({seconds})")
        else:
            console.print(f"[red]FAILED[/red] a rung compared nothing ({seconds})")
        for line in self.unseen:
            console.print(f"[yellow]NOT SEEN[/yellow] {escape(line)}", soft_wrap=True)

    def _omitted(self) -> list[str]:
        """What was not compared, a line each, but for layers that a note names already."""
        named = set(re.split(r"[\s,:]+", " ".join(self.notes)))
        return [
            omission.sentence()
            for omission in sorted(self.left_out, key=lambda o: (not o.counts, o.rung))
            if omission.counts
            or omission.quantity.kind is not Kind.OUTPUT
            or omission.layer not in named
        ]

    def _incomplete(self) -> str:
        """Of what is missing: how much on which rungs, and the first."""
        missing = self.missing()
        rungs = ", ".join(sorted({omission.rung for omission in missing}))
        return (
            f"not all parameters were compared: {len(missing)} left out on {rungs}, first"
            f" {missing[0].layer}: {missing[0].quantity}: {missing[0].reason}"
        )

    def to_dict(self) -> dict[str, Any]:
        """The whole report as JSON values; infinities are strings."""
        checks = [_fields(c) | {"ok": c.ok, "margin": _number(c.margin)} for c in self.checks]
        for check in checks:
            for key in ("error", "limit", "reference_value", "port_value", "isolated"):
                check[key] = _number(check[key])
        fault = self.fault()
        return {
            "name": self.name,
            "precision": self.precision,
            "ok": self.ok,
            "inference": self.inference,
            "fault": fault.where() if fault else None,
            "causes": [str(cause) for cause in self.causes],
            "proved": bool(self.causes),
            "operations": self.operations,
            "parting": None if self.parting is None else dataclasses.asdict(self.parting),
            "pairs": [dataclasses.asdict(pair) for pair in self.pairs],
            "notes": self.notes,
            "unseen": self.unseen,
            "seconds": self.seconds,
            "left_out": [_fields(omission) for omission in self.left_out],
            "checks": checks,
        }

    def to_json(self, path: str | Path) -> None:
        """Write the whole report."""
        write_atomically(path, json.dumps(self.to_dict(), indent=1).encode())

    def to_html(self, path: str | Path) -> None:
        """Write a page: verdict, error against depth in both precisions, failures and causes."""
        write_atomically(path, page(self).encode())

    def assert_faithful(self) -> None:
        """Raise unless everything agreed.

        Raises:
            AssertionError: Its message is the first failure and how many more there are.
        """
        if not self.ok:
            failed, fault = self.failures(), self.fault()
            detail = f"{fault.sentence()} ({len(failed)} in all)" if fault else "nothing compared"
            if self.missing():
                detail = f"{detail}; {self._incomplete()}" if fault else self._incomplete()
            for line in self.explanation() if self.causes else ():
                detail += f"; {line}"
            raise AssertionError(f"{self.name}: {detail}")


def _fields(entry: Check | Omission) -> dict[str, Any]:
    """The fields of a check or an omission; its quantity as the sentence that is shown."""
    found = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return found | {"quantity": str(entry.quantity)}


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
