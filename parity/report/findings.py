"""What the ladder found: every comparison, what was left out, and the verdict."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

from parity.report.pairs import Paired
from parity.report.quantity import Kind, Quantity
from parity.report.source import NO_LINE, SourceLine

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

WHOLE = "(network)"  # the layer that stands for the whole network
RIGHT_ALONE = 1e-9  # the relative difference in float64 of a layer that is right
MOST_CAUSES = 4  # that are printed, where several give the same numbers
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
    def has_limit(self) -> bool:
        """Whether anything can be compared: not where the reference itself is not finite."""
        return not math.isnan(self.limit)

    @property
    def can_fail(self) -> bool:
        """Whether a wrong port could have failed: not in numerics that noise drowns.

        The limit of numerics grows with what rounding does to the reference. From 1 on it admits
        differences as large as the values, so that an array of zeros would pass.
        """
        return self.kind != "numerics" or self.limit < 1 or not self.ok

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
        option: The option that left it out, such as `--layers`; empty where none did.
    """

    rung: str
    layer: str
    reference: str
    quantity: Quantity
    reason: str
    counts: bool = False
    option: str = ""

    def sentence(self) -> str:
        """What was not compared, in one line."""
        name = f"{self.rung} not compared: {self.layer}"
        if self.reference != self.layer:
            name += f" (reference: {self.reference})"
        return f"{name}: {self.quantity}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Bound:
    """How much of the networks an option left out.

    Attributes:
        option: The option with its value, such as `--layers encoder.*`.
        layers: How many layers it left out.
        of_layers: How many layers the networks have, each call counted.
        arrays: How many arrays it left out: those layers' outputs in each mode, and the tensors
            whose gradients and steps were not compared. Each is counted once.
        elements: How many numbers these hold.
    """

    option: str
    layers: int
    of_layers: int
    arrays: int
    elements: int

    def __str__(self) -> str:
        count = f"{self.layers:,} of {self.of_layers:,} layers"
        arrays = f"{self.arrays:,} arrays of {self.elements:,} elements"
        return f"{self.option} left out {count}, {arrays}"


@dataclasses.dataclass(frozen=True)
class Parting:
    """The first operation at which the networks part.

    Attributes:
        reference: The reference's operation, its arguments and its line.
        port: The port's on the same values, and its line; empty where none was found.
        reference_line: The line of the reference's operation.
        port_line: The line of the port's operation.
    """

    reference: str
    port: str = ""
    reference_line: SourceLine = NO_LINE
    port_line: SourceLine = NO_LINE

    def __str__(self) -> str:
        port = f"; the port: {self.port}" if self.port else ""
        return f"they part at the reference's {self.reference}{port}"


@dataclasses.dataclass
class Findings:
    """Everything the ladder compared, and the verdict.

    Attributes:
        name: Of the port.
        precision: The working precision.
        checks: In the order of the ladder, and on each rung in the order of the forward pass.
        seconds: Per rung.
        notes: What could not be paired or was switched off, a line each.
        causes: The causes of the first fault that are proved: with each, the reference gives the
            port's numbers. The simplest first.
        operations: The reference's operations at the first fault, a line each.
        left_out: What was not compared.
        unseen: What the rungs that were chosen cannot see, a line each.
        inference: Whether only eval mode was compared.
        pairs: Which tensors and layers of the port answered which of the reference.
        parting: The first operation at which the networks part, where one was found.
        port_line: The port's line at the first fault: of that operation, or else the first line
            of the layer at fault that runs; false where it is not known.
        fix: How to mend the simplest proved cause, where it is a fault of the catalogue.
        unsought: Why causes were not looked for; empty where they were.
        bounds: What the user left out, by option; nothing where all layers were compared.
        noted: Layers of which a note says that they could not be paired or fed alone.
    """

    name: str
    precision: str
    checks: list[Check] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    causes: list[Any] = dataclasses.field(default_factory=list)
    operations: list[str] = dataclasses.field(default_factory=list)
    left_out: list[Omission] = dataclasses.field(default_factory=list)
    unseen: list[str] = dataclasses.field(default_factory=list)
    inference: bool = False
    pairs: list[Paired] = dataclasses.field(default_factory=list)
    parting: Parting | None = None
    port_line: SourceLine = NO_LINE
    fix: str = ""
    unsought: str = ""
    bounds: list[Bound] = dataclasses.field(default_factory=list)
    noted: set[str] = dataclasses.field(default_factory=set)

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

    @property
    def compared(self) -> int:
        """How many comparisons a wrong port could have failed."""
        return sum(check.can_fail for check in self.checks)

    def drowned(self) -> list[str]:
        """How many numerics were not counted as compared, in a line; nothing where all were."""
        drowned = [c for c in self.checks if not c.can_fail]
        if not drowned:
            return []
        first = f"{drowned[0].rung} {drowned[0].layer}: {drowned[0].quantity}"
        return [
            f"not counted: {len(drowned)} comparisons of numerics, such as {first}: rounding in"
            f" {self.precision} alone moves the reference so far that any port would pass"
        ]

    def fault(self) -> Check | None:
        """Where to look first: of the lowest rung that failed, the first layer, by structure."""
        failed = self.failures()
        return min(failed, key=lambda c: (c.rung, c.kind != "structure"), default=None)

    def look_at(self, fault: Check) -> str:
        """What to look at first: the layer of a fault, or what is fed to it."""
        right_alone = fault.isolated is not None and fault.isolated <= RIGHT_ALONE
        return f"what is fed to {fault.where()}" if right_alone else fault.where()

    def reason(self) -> str:
        """Why the check failed, in one line; empty where it passed."""
        if self.ok:
            return ""
        if fault := self.fault():
            return f"look at {self.look_at(fault)} first"
        return self.incomplete() or "a rung compared nothing"

    def incomplete(self) -> str:
        """Say how much is missing on which rungs, and what comes first; empty where nothing is."""
        if not (missing := self.missing()):
            return ""
        rungs = ", ".join(sorted({omission.rung for omission in missing}))
        tensors = all(omission.quantity.parameter for omission in missing)
        return (
            f"not {'all parameters were' if tensors else 'everything was'} compared:"
            f" {len(missing)} left out on {rungs}, first"
            f" {missing[0].layer}: {missing[0].quantity}: {missing[0].reason}"
        )

    def explanation(self) -> list[str]:
        """What is known of the first fault's cause, a line each; nothing where there is no fault.

        Several causes with which the reference gives the same numbers are all named.
        """
        if (fault := self.fault()) is None:
            return []
        lines = self._causes()
        if self.bounds and fault.layer == WHOLE:
            options = " and ".join(bound.option.split()[0] for bound in self.bounds)
            lines.append(f"it may lie in a layer that was left out: check without {options}")
        return lines

    def _causes(self) -> list[str]:
        if self.causes:
            first, *others = (str(cause) for cause in self.causes[:MOST_CAUSES])
            lines = [f"proved: {first}", *(f"or: {other}" for other in others)]
            more = len(self.causes) - MOST_CAUSES
            if more > 0:
                lines.append(f"or: {more} more that give the same numbers")
            return [*lines, f"fix: {self.fix}"] if self.fix else lines
        if self.unsought:
            return [self.unsought]
        if not self.operations:
            return ["no known cause explains it"]
        lead = "no known cause explains it; the reference computes here: "
        return [lead + "; ".join(self.operations)]

    def rows(self) -> Iterator[tuple[str, str, int, int, str, str]]:
        """Per rung and kind: compared, failed, the smallest margin, and of what it is."""
        groups: dict[tuple[str, str], list[Check]] = {}
        for check in self.checks:
            groups.setdefault((check.rung, check.kind), []).append(check)
        for (rung, kind), checks in sorted(groups.items()):
            telling = [c for c in checks if c.can_fail]
            worst = min(telling or checks, key=lambda c: c.margin)
            digits = 0 if worst.margin > 9 else 1
            margin = "exact" if worst.error == 0 else f"{worst.margin:,.{digits}f}x"
            failed = sum(not c.ok for c in checks)
            name = f"{worst.layer}: {worst.quantity}"
            yield f"{rung} {TITLES[rung]}", kind, len(telling), failed, margin, name
