"""What a network returns as a whole: which output is compared with which, and the loss of it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.records import Kept, Returned, RunRecord
from parity.ladder.outputs import Outputs, output_axes, pair_outputs
from parity.ladder.probe_loss import probe_losses
from parity.ladder.recorded import probe_of
from parity.report.quantity import Mode
from parity.spec.errors import InputError

if TYPE_CHECKING:
    from parity.ladder.runs import Runs


class Whole:
    """The outputs of both sides' whole networks.

    Args:
        runs: Both sides; the port has been traced.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs
        # Of this object: a cache of the class would keep every comparison's activations for ever.
        self._paired = functools.cache(self._pair)
        self.probe = functools.cache(self._make_probe)

    def outputs(self, train: bool) -> Outputs:
        """Return the outputs that are compared with each other, and the others.

        Raises:
            InputError: See `pair_outputs` and `output_axes`.
        """
        return self._paired(train)[0]

    def arrays(self, result: RunRecord, train: bool, ported: bool) -> Iterator[np.ndarray]:
        """Yield the compared outputs of a run of either side, in their order."""
        pairs = self.outputs(train).pairs
        if ported:
            self.refuse_layouts(result, train)
        for mine, other in pairs:
            yield result.outputs[other.place if ported else mine.place]

    def statistics(self, train: bool) -> dict[str, int]:
        """Return the statistics that a function returns beside its outputs.

        Returns:
            The port's name of a parameter that is a buffer of the reference -> the place of the
            array of that name, wherever it is returned, such as `1.norm.mean` for `norm.mean`.
        """
        runs = self.runs
        if not runs.stateless or runs.failed:
            return {}
        trained = runs.reference64.parameters()
        found = {}
        for returned in runs.port64.outputs(train):
            name = returned.name.partition(".")[2]
            keys = runs.tensors.keys(name)
            if name and keys and not returned.kind and not trained & set(keys):
                found[name] = returned.place
        return found

    def _without_statistics(self, returned: Sequence[Returned], train: bool) -> list[Returned]:
        """What the port returns but for its statistics; those that `outputs` names are kept."""
        given = self.runs.port.outputs or {}
        places = set(self.statistics(train).values())
        return [
            r
            for r in returned
            if r.place not in places or any(f"{r.name}.".startswith(f"{n}.") for n in given)
        ]

    def refuse_layouts(self, result: RunRecord, train: bool) -> None:
        """Refuse outputs of the port that are laid out otherwise, or in one mode only.

        Raises:
            InputError: It names both shapes, and what to say where the port is right.
        """
        oracle = self.runs.oracle(train)
        for i, (mine, other) in enumerate(self.outputs(train).pairs):
            ours, theirs = oracle.outputs[mine.place].shape, result.outputs[other.place].shape
            if ours != theirs and sorted(ours) == sorted(theirs):
                way = None if theirs == self._own_shape(ours) else "axes"
                raise InputError(
                    f"output {i}: shape {theirs}, the reference's in the port's layout {ours}; if"
                    f" that is meant, say so with Port(output_layouts={{{i}: {way}}})"
                )
            if ours != theirs and train:
                self._refuse_change(i, other.name, ours, theirs)

    def _own_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return an output's shape on the reference's own side."""
        axes = self.runs.port.layout.get(len(shape))
        return shape if axes is None else tuple(shape[i] for i in np.argsort(axes))

    def _refuse_change(self, i: int, name: str, ours: Any, theirs: Any) -> None:
        """Refuse an output that has the reference's shape in eval mode, and not in train mode."""
        runs = self.runs
        pairs = self.outputs(False).pairs
        mine, other = next((p for p in pairs if p[1].name == name), (None, None))
        if mine is None or other is None:
            return
        before = runs.port64.run(runs.inputs[False], False).outputs[other.place].shape
        if before == runs.oracle(False).outputs[mine.place].shape == ours:
            raise InputError(
                f"output {i}: the port returns {before} in {Mode.EVAL} mode and {theirs} in"
                f" {Mode.TRAIN} mode, the reference {ours} in both"
            )

    def _pair(self, train: bool) -> tuple[Outputs, RunRecord]:
        """Pair the outputs; return also the reference's forward pass, in the port's layout."""
        runs, inputs = self.runs, self.runs.inputs[train]
        laid_out = runs.port.output_layouts
        alone = laid_out or (train and runs.port.losses is None)  # the oracle waits for this
        outer = copy.copy(runs.reference64)
        outer.kept = Kept()  # of no layer: what they give would be held twice
        result = outer.run(inputs, train) if alone else runs.oracle(train)
        theirs = result.returned if runs.failed else runs.port64.outputs(train)
        theirs = self._without_statistics(theirs, train)
        found = pair_outputs(result.returned, theirs, runs.port.outputs)
        dims = {mine.place: result.outputs[mine.place].ndim for mine, _ in found.pairs}
        if axes := output_axes(found, laid_out, dims):
            for side in (runs.reference64, runs.reference_working):
                side.output_axes[train] = axes
            result = outer.run(inputs, train)
        return found, result

    def _make_probe(self) -> Any:
        """Return a loss of what both sides return in train mode."""
        port = self.runs.port
        found, result = self._paired(True)
        ours = [result.outputs[mine.place] for mine, _ in found.pairs]
        given = self.runs.reference64.output_axes[True]
        turned = [
            given.get(mine.place, port.layout.get(o.ndim))
            for o, (mine, _) in zip(ours, found.pairs, strict=True)
        ]
        places = [(mine.place, other.place) for mine, other in found.pairs]
        return probe_losses(ours, places, turned, port, probe_of(self.runs))
