"""Experiments on optimizers: the reference's, computed anew in float64 with one change."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from parity.capture.records import ForwardError
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, PLAIN, number
from parity.diagnosis.experiments.engine import PATIENCE, Proof
from parity.diagnosis.experiments.optimizer_hypotheses import (
    NAMED,
    SETTING,
    hypotheses,
    settings,
    with_setting,
)
from parity.diagnosis.experiments.optimizer_rules import MakeOptimizer, Rule, altered, known
from parity.ladder.keys import full_name
from parity.ladder.l4_update import Update
from parity.ladder.l5_trajectory import Trajectory
from parity.report.quantity import Kind
from parity.report.report import Report

SAME = 1e-12  # of two rates
# By an optimizer that is given what it does not take.
RAISED = (ForwardError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError)


def of_update(update: Update, report: Report) -> list[Proof]:
    """Find the changes of the optimizer, or the rates, with which all steps are the port's."""
    make = update.optimizers[0]
    failed = [c for c in report.failures() if c.rung == "L4" and c.kind == "structure"]
    if not failed:
        return []
    rates = _rates(update)
    if rates is not None:
        late, what = rates
        fixed = update.agrees(make, late)
        return [Proof(Fault.SCHEDULE_OFFSET, what)] if fixed else []
    optimizer = make(update.runs.reference64.module)
    if update.rates_differ:
        return []
    found = _proofs(optimizer, make, update.agrees, lambda: update.gives(altered(make, Rule())))
    if not found and known(optimizer):
        found += _decay_mask(update, optimizer, report)
    return sorted(found, key=lambda proof: proof.order)


def _proofs(
    optimizer: torch.optim.Optimizer,
    make: MakeOptimizer,
    agrees: Callable[[MakeOptimizer], bool],
    is_as_known: Callable[[], bool] = lambda: True,
) -> list[Proof]:
    """Return the changes of an optimizer's rule, or of one of its settings, that are proved.

    Args:
        optimizer: The reference's.
        make: Makes it.
        agrees: Whether the steps of another one are the port's.
        is_as_known: Whether the steps that are written out here are PyTorch's.
    """
    kind = type(optimizer).__name__
    where, found, end = f"{kind}'s step", [], time.thread_time() + PATIENCE

    def fits(other: MakeOptimizer) -> bool:
        """Return whether the steps are the port's; those of one that raises are not."""
        if time.thread_time() > end:
            return False
        try:
            return agrees(other)
        except RAISED:
            return False

    if known(optimizer) and is_as_known():
        for fault, what, rule, order in hypotheses(optimizer):
            if fits(altered(make, rule)):
                found.append(Proof(fault, what, where, order))
    for key, now, others in settings(optimizer):
        values = [value for value in others if fits(with_setting(make, key, value))]
        if values:
            same = " (the steps are the same)" if len(values) > 1 else ""
            text = f"{key} {' or '.join(map(number, values))}{same} instead of {number(now)}"
            fault = NAMED.get(key, SETTING) if kind.startswith("Adam") else SETTING
            found.append(Proof(fault, text, where, PLAIN if key == "betas" else COMMON))
    return found


def _decay_mask(update: Update, optimizer: torch.optim.Optimizer, report: Report) -> list[Proof]:
    """Return the weight decay of just those parameters whose steps failed, the other way."""
    names = {
        full_name(c.layer, c.quantity.path)
        for c in report.failures()
        if c.rung == "L4" and c.quantity.kind in (Kind.STEP, Kind.DECAY_STEP)
    }
    keys = {key for name in names for key in update.runs.tensors.keys(name)}
    module = update.runs.reference64.module
    own = {id(p): name for name, p in module.named_parameters()}
    largest = max(float(g.get("weight_decay", 0.0)) for g in optimizer.param_groups)
    decays: dict[str, float] = {}
    gained = False
    for group in optimizer.param_groups:
        now = float(group.get("weight_decay", 0.0))
        for p in group["params"]:
            if own.get(id(p)) in keys:
                decays[own[id(p)]] = 0.0 if now else largest
                gained |= not now
    if not decays or not largest:
        return []
    if not update.agrees(altered(update.optimizers[0], Rule(decays=decays))):
        return []
    kinds = sorted({name.rpartition(".")[2] for name in names})
    word = "weight decay" if gained else "no weight decay"
    what = f"{word} of {len(decays)} parameters ({', '.join(kinds)})"
    return [Proof(Fault.DECAY_MASK, what, f"{type(optimizer).__name__}'s step")]


def _rates(update: Update) -> tuple[Any, str] | None:
    """A schedule that gives the port's rates, where they are the reference's, some steps off."""
    if update.rates is None or not update.rates_differ:
        return None
    reference, port = update.rates
    for n in range(1, min(len(reference), 10)):
        for moved, still, word in (
            (port[:-n], reference[n:], "early"),
            (port[n:], reference[:-n], "late"),
        ):
            if np.ptp(still) and np.allclose(moved, still, rtol=SAME, atol=0):
                what = f"each rate {n} step{'s' * (n > 1)} too {word}"
                return (lambda step: float(port[min(step, len(port) - 1)])), what
    return None


def of_trajectory(trajectory: Trajectory) -> list[Proof]:
    """Find the changes of the optimizer with which training goes the port's way."""
    optimizers = trajectory.runs.port.optimizers
    assert optimizers is not None
    make = optimizers[0]
    optimizer = make(trajectory.runs.reference64.module)
    found = _proofs(optimizer, make, trajectory.agrees)
    return sorted(found, key=lambda proof: proof.order)
