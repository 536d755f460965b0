"""Comparing two traces, their weights and steps of training included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from parity.capture.run import FLOAT64
from parity.ladder import recordings
from parity.ladder.comparison import Compared, Comparison, Layouts, Rename
from parity.ladder.recorded import loss_response
from parity.ladder.recordings import AS_THE_REST, RunPair
from parity.ladder.tolerances import ROUNDING, STRUCTURE_FORWARD, STRUCTURE_TRAJECTORY, floor
from parity.report.quantity import Kind, Quantity
from parity.spec.errors import InputError, listed
from parity.trace.reading import TraceFile

TRAJECTORY = ("trajectory", FLOAT64, None)


def compare(
    one: TraceFile,
    other: TraceFile,
    rename: Sequence[Rename] = (),
    limit: float | None = None,
    layouts: Layouts = AS_THE_REST,
) -> Comparison:
    """Compare weights, runs, and the state and the loss after each step of their trajectories.

    Arguments are those of `recordings.compare`. Weights come first: where they differ, all that
    follows does. Updates alone are not compared: each recording makes them on gradients of its own.

    Raises:
        InputError: As of `recordings.compare`; or there is nothing that both computed and that can
            be judged, neither in a run nor in a step of training.
    """
    found = recordings.compare(one, other, rename, limit, layouts)
    if one.index["state"] and other.index["state"]:
        weights = WeightPair(one, other, rename, limit)
        found.compared[:0] = weights.compared()
        found.left_out[:0] = weights.left_out
    elif one.index["state"] or other.index["state"]:
        holder = "first" if one.index["state"] else "second"
        found.left_out.insert(0, f"before, state: only the {holder} holds one")
    _add_trajectories(found, one, other, rename, limit)
    if all(c.fed for c in found.compared):
        raise InputError(
            f"{one.path} and {other.path} hold nothing that both computed and that can be judged:"
            f" {listed(found.left_out or ['no layer, output, loss or step of training'])}"
        )
    return found


def _add_trajectories(
    found: Comparison,
    one: TraceFile,
    other: TraceFile,
    rename: Sequence[Rename],
    limit: float | None,
) -> None:
    """Compare the steps of both trajectories, or say why not; `found` is added to."""
    if TRAJECTORY not in one.training or TRAJECTORY not in other.training:
        found.left_out += _without_trajectory(one, other)
        return
    if other.narrow and not one.narrow:  # how far rounding goes is asked of the first
        found.left_out.append(f"trajectory: give {other.path} first, recorded in {other.precision}")
        return
    disturbed = one.training.get((*TRAJECTORY[:2], 0), {"steps": []})["steps"]
    mine, theirs = (trace.training[TRAJECTORY]["steps"] for trace in (one, other))
    if len(mine) != len(theirs):
        found.left_out.append(f"trajectory: {len(mine)} and {len(theirs)} steps")
    pairs = zip(mine, theirs, strict=False)
    for i, steps in enumerate(pairs):
        exact = [steps[0], disturbed[i]] if i < len(disturbed) else []
        pair = StepPair((one, other), steps, exact, i + 1, rename, limit)
        found.compared += pair.compared()
        found.left_out += pair.left_out
        found.drowned += pair.drowned


def _without_trajectory(one: TraceFile, other: TraceFile) -> list[str]:
    """Return lines on steps of training that one trace holds, at least, and that nothing judges."""
    lines = []
    for side, trace, second in (("first", one, other), ("second", other, one)):
        kinds = {(kind, precision) for kind, precision, i in trace.training if i is None}
        if TRAJECTORY in trace.training:
            if not any(kind == "trajectory" for kind, *_ in second.training):
                lines.append(f"trajectory: only the {side} holds one")
        elif found := sorted(p for kind, p in kinds if kind == "trajectory"):
            reason = "without disturbed runs nothing says how exact it is"
            lines.append(f"trajectory: the {side} holds one in {found[0]} alone, {reason}")
    return lines


class WeightPair(RunPair):
    """The parameters and buffers of either trace before anything has run; see `RunPair`."""

    def __init__(
        self, one: TraceFile, other: TraceFile, rename: Sequence[Rename], limit: float | None
    ) -> None:
        self.one, self.other, self.rename, self.limit = one, other, rename, limit
        self.runs = ({"state": one.index["state"]}, {"state": other.index["state"]})
        narrow = next((trace.precision for trace in (one, other) if trace.narrow), "")
        self.precision, self.name, self.exact = narrow or FLOAT64, "before", []
        self.left_out, self.found = [], []

    def compared(self) -> list[Compared]:
        """Compare every tensor."""
        self._named("state", Kind.VALUES)
        return self._judged()

    def _limit(self, *_: Any) -> tuple[float, float]:
        exact = self.precision == FLOAT64
        return (STRUCTURE_FORWARD if exact else floor(self.precision)), 0.0


class StepPair(RunPair):
    """One step of training of either trace; see `RunPair`."""

    def __init__(
        self,
        traces: tuple[TraceFile, TraceFile],
        steps: tuple[dict[str, Any], dict[str, Any]],
        exact: list[dict[str, Any]],
        number: int,
        rename: Sequence[Rename],
        limit: float | None,
    ) -> None:
        self.one, self.other = traces
        self.runs, self.exact, self.number = steps, exact, number
        self.rename, self.limit = rename, limit
        self.precision = self.one.precision if self.one.narrow else FLOAT64
        self.name = f"trajectory, step {number}"
        self.left_out, self.found = [], []

    def compared(self) -> list[Compared]:
        """Compare the loss, and every tensor after the step."""
        self._loss()
        self._named("state", Kind.STATE)
        return self._judged()

    def _limit(self, quantity: Quantity, name: str, what: str, array: str) -> tuple[float, float]:
        noise = self._noise(quantity, name, what, array)
        if self.precision == FLOAT64:
            return STRUCTURE_TRAJECTORY, noise
        if quantity.kind is Kind.LOSS and "train" in {key[0] for key in self.one.runs}:
            noise = max(noise, loss_response(self.one))
        return floor(self.precision) + self.number * ROUNDING[self.precision], noise
