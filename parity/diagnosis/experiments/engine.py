"""Trying changes of the reference, one at a time: those that give the port's numbers are proved."""

from __future__ import annotations

import collections
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from parity.capture.records import ForwardError, Layout
from parity.capture.torch_operations import Operation, Replacements, Tape
from parity.diagnosis.experiments import normalization
from parity.diagnosis.experiments.change import RARE, Change
from parity.diagnosis.experiments.families import changes_of
from parity.report.report import Check

EXACT = 1e-10  # the relative difference of two arrays in float64 that are the same
DISTINCT = 1e3  # times farther a fault must be than what is left of it
# Times more that one change may leave than another one that explains the same: a value that is
# near the port's leaves more than the port's own, of which rounding of constants is left.
ALIKE = 10.0
# Seconds of this thread's processor time that experiments on one fault may take; the rest is not
# tried. Not of the clock: what is found must not depend on what else the machine does.
PATIENCE = 120.0
# Of them, for changes that are many and rarely made.
RARELY = 15.0


@dataclasses.dataclass(frozen=True)
class Proof:
    """A change with which the reference gives the port's numbers, every one that was compared.

    Attributes:
        fault: The fault's name: of the catalogue, or another one.
        what: What is changed.
        where: The operation, or the layer, that it is about; empty if `what` says it.
        order: Of several, the simplest is first.
        left: The relative difference that is left with it, where that was measured.
        make: Makes what is replaced in a run, where one was tried.
    """

    fault: str
    what: str
    where: str = ""
    order: int = 0
    left: float = dataclasses.field(default=0.0, compare=False)
    make: Make | None = dataclasses.field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        where = f", in {self.where}" if self.where else ""
        return f"the port is the reference with {self.what}{where}"


Make = Callable[[], Replacements]
Agrees = Callable[[str, Make], bool]  # of a run's name and what is replaced in it


class Proofs(list[Proof]):
    """Proofs, the simplest first.

    Attributes:
        untried: How many changes were not tried, for lack of time.
    """

    untried = 0


def tried(
    runs: Mapping[str, Sequence[Operation]], agrees: Agrees, left: Callable[[], float] = float
) -> Proofs:
    """Try every change of a module's operations, in each of its runs.

    Args:
        runs: The name of a run, such as `train` and `eval` -> the operations that it made.
        agrees: Makes a run with some operations replaced; returns whether all of its numbers are
            the port's.
        left: Returns the relative difference of the run that `agrees` made last; zero if not given.

    Returns:
        The changes with which all runs give the port's numbers, the simplest first.
    """
    found: dict[tuple, dict[str, Change]] = {}
    for run, operations in runs.items():
        names = dict(zip([o.index for o in operations], _places(operations), strict=True))
        for change in changes_of(operations):
            key = (names[change.at.index], change.fault, change.what)
            found.setdefault(key, {})[run] = change
    unchanged: dict[str, bool] = {}

    def same(run: str, change: Change | None) -> bool:
        if change is not None:
            return _safely(agrees, run, change.make)
        if run not in unchanged:
            unchanged[run] = _safely(agrees, run, dict)
        return unchanged[run]

    if all(same(run, None) for run in runs):
        return Proofs()  # there is nothing to explain
    proofs = Proofs()
    end = time.thread_time() + PATIENCE
    rare = False
    ordered = sorted(found.values(), key=_order)
    for i, changes in enumerate(ordered):
        if time.thread_time() > end:
            proofs.untried = len(ordered) - i
            break
        change = next(iter(changes.values()))
        if change.order == RARE and not rare:
            rare, end = True, min(end, time.thread_time() + RARELY)
        if change.order == RARE and any(proof.order < RARE for proof in proofs):
            break  # it would say the same in more general words
        if all(same(run, changes.get(run)) for run in runs):
            where = str(change.at)
            proofs.append(
                Proof(change.fault, change.what, where, change.order, left(), change.make)
            )
    return _first_turned(_specific(_nearest(proofs)))


def _order(changes: Mapping[str, Change]) -> int:
    return next(iter(changes.values())).order


def _nearest(proofs: Proofs) -> Proofs:
    """Leave out what is only near: it leaves many times more than what leaves least."""
    most = max(EXACT, ALIKE * min((proof.left for proof in proofs), default=0.0))
    proofs[:] = [proof for proof in proofs if proof.left <= most]
    return proofs


# Faults in general words: what is left of one that is proved in better ones at the same place.
GENERAL = ("left-out", "scale-factor", "operation", "padding", "order")
# Several settings of one layer, of which some may change nothing that was compared: in eval mode
# none but eps does.
SEVERAL = (normalization.SETTINGS, normalization.MOMENTUM_VARIANCE, normalization.EPS_VARIANCE)


def _specific(proofs: Proofs) -> Proofs:
    """Leave out what says the same of an operation as another proof, or the same and more."""
    for vague in (GENERAL, SEVERAL):
        named = {proof.where for proof in proofs if proof.fault not in vague}
        proofs[:] = [p for p in proofs if p.fault not in vague or p.where not in named]
    # Of one fault, such as a mask inverted, and the same with finite scores, the simplest.
    least: dict[tuple[str, str], int] = {}
    for proof in proofs:
        key = proof.where, proof.fault
        least[key] = min(proof.order, least.get(key, proof.order))
    proofs[:] = [proof for proof in proofs if proof.order == least[proof.where, proof.fault]]
    return proofs


def _first_turned(proofs: Proofs) -> Proofs:
    """Leave out that a value is turned where one before it is: what is between does not see it."""
    first = next((proof for proof in proofs if proof.order == RARE), None)
    proofs[:] = [proof for proof in proofs if proof.order != RARE or proof is first]
    return proofs


def _places(operations: Sequence[Operation]) -> list[tuple]:
    """Return names of operations that are the same in every run of a module."""
    seen: collections.Counter = collections.Counter()
    names = []
    for operation in operations:
        name = (operation.name, operation.module, operation.line)
        names.append((*name, seen[name]))
        seen[name] += 1
    return names


def _safely(agrees: Agrees, run: str, make: Make) -> bool:
    """Make a run; one that raises, as changes of shapes may, does not agree."""
    try:
        return agrees(run, make)
    except (ForwardError, ArithmeticError, LookupError, TypeError, ValueError, RuntimeError):
        return False


def allowed(fault: Check) -> float:
    """Return how far from a fault's value one that is proved may be.

    That is more than `EXACT` where constants are known in float32 alone, but so little of the
    fault, and of the value, that no change is taken for another one.
    """
    return max(EXACT, min(fault.limit, min(fault.error, 1.0) / DISTINCT))


def prove(
    tape: Tape,
    target: Sequence[np.ndarray],
    layout: Layout,
    limit: float = EXACT,
    span: Sequence[Operation] = (),
) -> Proofs:
    """Find the changes of the reference with which a span of it gives the port's value.

    Args:
        tape: The reference's operations that lead to the value.
        target: The port's array of the value, in float64, alone in a list.
        layout: The layout of the reference's arrays, which the tape gives in the port's.
        limit: The relative difference of two arrays that are the same.
        span: The operations that are changed, if not all that lead to the value.

    Returns:
        The proofs, the simplest first; empty where no change gives the value.
    """
    del layout  # the tape knows it: its arrays are already in the port's
    (wanted,) = (np.asarray(array) for array in target)
    left = 0.0

    def agrees(run: str, make: Make) -> bool:
        nonlocal left
        del run
        left = nearest(tape.replay(make()), wanted)
        return left <= limit

    # Where nothing is between, such as a layer that is right and the network's output: its end.
    return tried({"span": span or tape.operations or tape.every[-1:]}, agrees, lambda: left)


def of_whole(proofs: Proofs, whole: Tape, target: np.ndarray, limit: float) -> Proofs:
    """Return those proofs of a value with which the whole network's is the port's, too.

    Args:
        proofs: Of a value on the way.
        whole: The network's output.
        target: The port's.
        limit: The relative difference of two arrays that are the same.
    """

    def agrees(run: str, make: Make) -> bool:
        del run
        return nearest(whole.replay(make()), np.asarray(target)) <= limit

    made = Proofs(p for p in proofs if p.make is not None and _safely(agrees, "whole", p.make))
    made.untried = proofs.untried
    return made


def nearest(found: np.ndarray, target: np.ndarray) -> float:
    """Return the relative difference of two arrays; where shapes differ, the least up to axes."""
    if found.shape == target.shape:
        return distance(found, target)
    if sorted(found.shape) != sorted(target.shape):
        return math.inf
    permuted = (found.transpose(axes) for axes in itertools.permutations(range(found.ndim)))
    return min(distance(p, target) for p in permuted if p.shape == target.shape)


def distance(found: np.ndarray, target: np.ndarray) -> float:
    """Return |found - target| / |target|; infinite unless both are finite and of one shape."""
    if found.shape != target.shape:
        return math.inf
    a, b = np.asarray(found, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return math.inf
    apart, size = (float(np.linalg.norm(np.ravel(each))) for each in (a - b, b))
    return apart and (apart / size if size else math.inf)


def close(found: np.ndarray, target: np.ndarray, limit: float = EXACT) -> bool:
    """Return whether |found - target| <= limit |target|, both finite and of one shape."""
    return distance(found, target) <= limit
