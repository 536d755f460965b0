"""What the ladder found: checks by rung, as tables, sentences and JSON."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.io.files import write_atomically
from parity.report.console import WIDTH, print_first, standard_output
from parity.report.quantity import Kind, Quantity

RUNGS = {
    "L0": "weights",
    "L1": "layers alone",
    "L2": "whole model",
    "L3": "gradients",
    "L4": "update",
    "L5": "trajectory",
}

ONNX = "onnx"  # the rung of ONNX files, which only our own networks have
TITLES = {**RUNGS, ONNX: "ONNX Runtime"}

PRECISIONS = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison.

    Attributes:
        rung: A key of `RUNGS`, or `ONNX`.
        kind: `structure` (float64) or `numerics` (the working precision).
        layer: The port's name of the layer or tensor.
        reference: The reference's name of it.
        quantity: What was compared; `str` of it is a sentence such as `gradient of kernel`.
        error: Relative difference; infinite where the arrays cannot be compared.
        limit: What the difference may be.
        index: Place of the largest difference, in the port's layout.
        reference_value: The reference's value there.
        port_value: The port's value there.
        note: Why the arrays cannot be compared.
        isolated: The relative difference of the layer alone, where this check is of the whole.
    """

    rung: str
    kind: str
    layer: str
    reference: str
    quantity: Quantity
    error: float
    limit: float
    index: tuple[int, ...] = ()
    reference_value: float | None = None
    port_value: float | None = None
    note: str = ""
    isolated: float | None = None

    @property
    def ok(self) -> bool:
        return self.error <= self.limit  # false for a NaN

    @property
    def margin(self) -> float:
        """How many times smaller than its limit the difference is."""
        if self.error == 0:
            return math.inf
        return 0.0 if math.isinf(self.error) else self.limit / self.error

    def sentence(self) -> str:
        """What was found, in one line."""
        name = self.layer
        if self.reference != self.layer:
            name += f" (reference: {self.reference})"
        found = self.note or f"differs by {self.error:.2g}, limit {self.limit:.2g}"
        if self.isolated is not None:
            found += f" (alone {self.isolated:.2g})"
        if place := self.place():
            found += f"; {place}"
        return f"{self.rung} {self.kind}: {name}: {self.quantity}: {found}"

    def where(self) -> str:
        """What to look at: the layer, or the loss, which belongs to none."""
        return "the loss" if (self.rung, self.quantity.kind) == ("L3", Kind.LOSS) else self.layer

    def place(self) -> str:
        """Where the two differ most, and both values there."""
        if self.reference_value is None:
            return ""
        at = ", ".join(map(str, self.index))
        return f"at [{at}] reference {self.reference_value!r}, port {self.port_value!r}"


@dataclasses.dataclass(frozen=True)
class Omission:
    """What a rung did not compare.

    Attributes:
        rung: A key of `RUNGS`.
        layer: The port's name of the layer, or the reference's where the port has none.
        reference: The reference's name of it, or of the tensors that it is made of.
        quantity: What would have been compared.
        reason: Why it was not.
        counts: Whether the rung cannot be passed without it, as it cannot without a parameter.
    """

    rung: str
    layer: str
    reference: str
    quantity: Quantity
    reason: str
    counts: bool = False

    def sentence(self) -> str:
        """What was not compared, in one line."""
        name = f"{self.rung} not compared: {self.layer}"
        if self.reference != self.layer:
            name += f" (reference: {self.reference})"
        return f"{name}: {self.quantity}: {self.reason}"


@dataclasses.dataclass
class Report:
    """Everything the ladder compared.

    Attributes:
        name: Of the port.
        precision: The working precision.
        checks: In the order of the ladder, and on each rung in the order of the forward pass.
        seconds: Per rung.
        notes: What could not be paired or was switched off, a line each.
        causes: The likely causes of the first fault, likeliest first.
        evidence: What they were derived from.
        left_out: What was not compared.
        unseen: What the rungs that were chosen cannot see, a line each.
    """

    name: str
    precision: str
    checks: list[Check] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    causes: list[Any] = dataclasses.field(default_factory=list)
    evidence: Any = None
    left_out: list[Omission] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True where each rung climbed compared something, all parameters, and all agreed."""
        compared = {c.rung for c in self.checks}
        whole = bool(compared) and compared == set(self.seconds)
        return whole and not self.failures() and not self.missing()

    def missing(self) -> list[Omission]:
        """What was not compared and must be, for the port to pass."""
        return [omission for omission in self.left_out if omission.counts]

    def failures(self) -> list[Check]:
        return [c for c in self.checks if not c.ok]

    def fault(self) -> Check | None:
        """Where to look first: of the lowest rung that failed, the first layer, by structure."""
        failed = self.failures()
        return min(failed, key=lambda c: (c.rung, c.kind != "structure"), default=None)

    def table(self) -> Table:
        """A row per rung and kind, with the worst check of each; `rich` prints it."""
        table = Table(
            title=f"{self.name}: port against reference, {self.precision}",
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

    def rows(self) -> Iterator[tuple[str, str, int, int, str, str]]:
        """Per rung and kind: compared, failed, the smallest margin, and of what it is."""
        groups: dict[tuple[str, str], list[Check]] = {}
        for check in self.checks:
            groups.setdefault((check.rung, check.kind), []).append(check)
        for (rung, kind), checks in sorted(groups.items()):
            worst = min(checks, key=lambda c: c.margin)
            digits = 0 if worst.margin > 9 else 1
            margin = "exact" if worst.error == 0 else f"{worst.margin:,.{digits}f}x"
            failed = sum(not c.ok for c in checks)
            name = f"{worst.layer}: {worst.quantity}"
            yield f"{rung} {TITLES[rung]}", kind, len(checks), failed, margin, name

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
            console.print(f"[red]FAILED[/red] look at [bold]{place}[/bold] first ({seconds})")
            for i, cause in enumerate(self.causes):
                console.print(f"  likely cause {i + 1}: {cause}", markup=False, soft_wrap=True)
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
            "fault": fault.where() if fault else None,
            "causes": [str(cause) for cause in self.causes],
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
        from parity.report.page import page

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
            if self.causes:
                detail += f"; likely {'; or '.join(str(cause) for cause in self.causes)}"
            raise AssertionError(f"{self.name}: {detail}")


def _fields(entry: Check | Omission) -> dict[str, Any]:
    """The fields of a check or an omission; its quantity as the sentence that is shown."""
    found = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    return found | {"quantity": str(entry.quantity)}


def _number(value: float | None) -> float | str | None:
    return value if value is None or math.isfinite(value) else str(value)
