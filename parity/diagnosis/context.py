"""Collecting the evidence on a report's first fault, from which its cause is derived."""

from __future__ import annotations

import numpy as np

from parity.capture.records import NETWORK, Call, ForwardError, transposed
from parity.ladder.evidence import Case, Evidence
from parity.ladder.l4_update import Update
from parity.ladder.l5_trajectory import Trajectory
from parity.ladder.runs import Runs, UnlikeError
from parity.report.report import Check, Report


class Context:
    """Gathers evidence from a climb's runs, and from its rungs of training."""

    def __init__(self, runs: Runs, update: Update, trajectory: Trajectory) -> None:
        self.runs = runs
        self.update = update
        self.trajectory = trajectory

    def evidence(self, report: Report) -> Evidence | None:
        """Return the evidence on a report's first fault; None if there is none."""
        fault = report.fault()
        if fault is None:
            return None
        runs, call = self.runs, self._call_of(fault)
        module = fault.reference.partition("#")[0]
        if call is None:
            module, call = self._holder(fault)
        kind = runs.reference64.kind(module) if module else ""
        if fault.rung in ("L4", "L5"):
            return self._of_training(fault, tuple(report.failures()), kind)
        return Evidence(
            fault=fault,
            failures=tuple(report.failures()),
            kind=kind,
            settings=runs.reference64.settings(module) if module else {},
            cases=self._cases(call) if call is not None else {},
            weights=self._weights(module),
        )

    def _of_training(self, fault: Check, failures: tuple[Check, ...], kind: str) -> Evidence:
        if fault.rung == "L5":
            return Evidence(fault, failures, kind, divergence=self.trajectory.divergence(fault))
        steps = None if fault.layer == NETWORK else self.update.steps_of(fault)
        return Evidence(fault, failures, kind, rates=self.update.rates, steps=steps)

    def _call_of(self, fault: Check) -> Call | None:
        calls = self.runs.oracle(True).calls
        return calls.get(fault.reference) if fault.reference else None

    def _holder(self, fault: Check) -> tuple[str, Call | None]:
        """The layer that holds a tensor which L0 names, and its first call."""
        module = fault.reference.rpartition(".")[0]
        calls = self.runs.oracle(True).calls
        return (module, calls[module]) if module in calls else ("", None)

    def _cases(self, call: Call) -> dict[str, Case]:
        """Run one layer alone on both sides, in train and eval mode."""
        runs, pair = self.runs, self.runs.pair(call)
        found: dict[str, Case] = {}
        for mode, train in (("train", True), ("eval", False)):
            called = runs.oracle(train).calls.get(call.layer)
            if pair is None or called is None:
                continue
            fed = runs.fed(called, train)
            try:
                sides = [
                    runs.alone(s, called, pair, train, fed) for s in (runs.reference64, runs.port64)
                ]
            except (ForwardError, UnlikeError):
                continue
            arrays = [{key.quantity: a for key, a in side.items()} for side in sides]
            found[mode] = Case(called.args, *arrays)
        return found

    def _weights(self, module: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return a layer's tensors: name -> (the reference's in the port's layout, the port's)."""
        source, target = self.runs.reference64.state(), self.runs.port64.state()
        return {
            name.rpartition(".")[2]: (transposed(source[key], axes), target[name])
            for name, (key, axes) in self.runs.assignment.map.items()
            if module and key.rpartition(".")[0] == module and name in target and key in source
        }
