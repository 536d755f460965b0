"""One layer alone, on the reference's input and upstream gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.jax_side import JaxSide
from parity.capture.records import Call, mapped, transposed
from parity.capture.run import FLOAT64
from parity.capture.torch_side import TorchSide
from parity.ladder import tolerances
from parity.ladder.axes import rearranged
from parity.ladder.keys import Flat, Key
from parity.ladder.pairing import Pair
from parity.ladder.recorded import knows_gradients
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.trace.side import RecordedSide

if TYPE_CHECKING:
    from parity.ladder.runs import Runs


class Layers:
    """The layers of both sides, one at a time.

    Args:
        runs: Both sides.
    """

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def alone(
        self,
        side: TorchSide | JaxSide,
        call: Call,
        pair: Pair,
        train: bool,
        fed: tuple,
        noise: float = 0.0,
    ) -> Flat:
        """Run one layer alone on `fed`, arguments and cotangents, and return its results.

        Raises:
            ForwardError: It raised.
            UnlikeError: The port's layer takes different arrays from the reference's.
        """
        (args, kwargs), pull = fed
        train = self.runs.mode(train)
        ported = isinstance(side, JaxSide)
        if isinstance(side, JaxSide):
            theirs, arrays = self._fitted(call, pair, train, (args, kwargs))
            pull = pull and [
                c if c is None else rearranged(c, axes)
                for c, axes in zip(pull, axes_of(pair, len(pull)), strict=True)
            ]
            result = side.run_layer(theirs, arrays, pull, train, noise)
        else:
            result = side.run_layer(Call(call.layer, args, kwargs), pull, train)
        outputs: Sequence[np.ndarray] = result.outputs
        gradients = result.input_gradients
        if not ported:
            outputs = [
                rearranged(o, a) for o, a in zip(outputs, axes_of(pair, len(outputs)), strict=True)
            ]
            gradients = tuple(fit(g, pair) for g in gradients)
        mode = Mode.of(train)

        def key(kind: Kind, **fields: Any) -> Key:
            return Key(pair.port, Quantity(kind, scope=Scope.LAYER, **fields))

        flat = {key(Kind.OUTPUT, index=i, mode=mode): o for i, o in enumerate(outputs)}
        for i, gradient in enumerate(gradients):
            flat[key(Kind.INPUT_GRADIENT, index=i)] = gradient
        frozen = self.runs.names.frozen(pair)
        known = knows_gradients(self.runs.reference64) or self.is_alone(call, train)
        for name, a in self.runs.names.in_port(result.parameter_gradients, pair, ported).items():
            if known and name not in frozen:
                flat[key(Kind.PARAMETER_GRADIENT, path=name)] = a
        if train:
            for name, a in self.runs.names.in_port(result.statistics, pair, ported).items():
                flat[key(Kind.STATISTIC, path=name, mode=mode)] = a
        return flat

    def fed(self, call: Call, train: bool, rounded: bool = True) -> tuple:
        """Return a layer's inputs and upstream gradient in the reference, rounded.

        They are not rounded where a trace holds the layer in the whole network only. What a trace
        holds alone was recorded so.

        Args:
            call: The layer's call.
            train: The mode.
            rounded: False to take the numbers of float64 as they are.
        """
        rounded = rounded or isinstance(self.runs.reference64, RecordedSide)
        rounded = rounded and self.is_alone(call, self.runs.mode(train))
        precision = self.runs.precision if rounded else FLOAT64
        arguments = mapped((call.args, call.kwargs), lambda v: tolerances.round_to(v, precision))
        pull = None
        if self.runs.mode(train):
            pull = [tolerances.round_to(c, precision) for c in call.cotangents]
        return arguments, pull

    def overflows(self, call: Call, train: bool) -> bool:
        """Return whether numbers that a layer is fed are too large for the working precision."""
        arrays = [*call.arrays(), *(call.cotangents if self.runs.mode(train) else ())]
        return any(tolerances.overflows(array, self.runs.precision) for array in arrays)

    def is_alone(self, call: Call, train: bool, disturbed: Any = None) -> bool:
        """Return whether a layer can be run alone, or was recorded so.

        Args:
            call: The layer's call.
            train: The mode.
            disturbed: The disturbed reference; if given, that and the working precision count.
        """
        sides = (
            (self.runs.reference64,)
            if disturbed is None
            else (self.runs.reference_working, disturbed)
        )
        return all(
            not isinstance(side, RecordedSide) or side.has_layer(call.layer, train)
            for side in sides
        )

    def _fitted(
        self, call: Call, pair: Pair, train: bool, arguments: tuple
    ) -> tuple[Call, list[np.ndarray]]:
        """Return the port's own call of a layer, and the reference's arrays to put into it."""
        arrays = [fit(a, pair) for a in Call("", *arguments).arrays()]
        theirs = self.runs.port64.traced.get(train, {}).get(pair.port)
        if theirs is None:
            return Call(pair.port, *arguments), arrays
        taken = [len(a.shape) for a in theirs.arrays()]
        if taken != [a.ndim for a in arrays]:
            given = ", ".join(f"{a.ndim}-d" for a in arrays) or "none"
            raise UnlikeError(f"takes arrays {taken}, the reference's {given}")
        return theirs, arrays


class UnlikeError(Exception):
    """A layer of the port cannot be fed what the reference's is."""


def fit(array: np.ndarray, pair: Pair) -> np.ndarray:
    """Turn an array of the reference's as the outputs of this layer are turned."""
    axes = next((a for a in pair.axes if a is not None), None)
    fits = axes is not None and sorted(axes) == list(range(array.ndim))
    return transposed(array, axes if fits else None)


def axes_of(pair: Pair, n: int) -> list[tuple[int, ...] | None]:
    """Return how each of `n` outputs of the reference's layer is turned to be the port's."""
    return [pair.axes[i] if i < len(pair.axes) else None for i in range(n)]
