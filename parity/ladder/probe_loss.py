"""A loss for networks that come without one."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.capture.records import Loss, is_array, is_float, leaves, transposed
from parity.ladder.axes import Axes
from parity.spec import draw
from parity.spec.errors import InputError

if TYPE_CHECKING:
    from parity.ladder.port import Port


def probe_losses(
    outputs: Sequence[np.ndarray],
    places: Sequence[tuple[int, int]],
    turned: Sequence[Axes],
    port: Port,
    recorded: tuple[Sequence[int], Sequence[np.ndarray]] | None = None,
) -> tuple[tuple[Loss, Loss], tuple[np.ndarray, ...]]:
    """Return a loss: the sum of all outputs' elements, each times a different drawn number.

    The numbers are drawn from a standard normal distribution by the port's seed, so that exchanging
    two elements changes the loss.

    Args:
        outputs: The reference's compared outputs, in the port's layout.
        places: Of each, its place among the reference's arrays and among the port's.
        turned: Of each, the axes that lead from the reference's layout to the port's.
        port: The port, for its seed, name and layout.
        recorded: Of a recorded reference: the places among its arrays of the outputs that its loss
            was made of, and the numbers, in its own layout.

    Returns:
        The losses of both sides, and their targets.

    Raises:
        InputError: No output is floating-point, or the recorded loss is made of other outputs.
    """
    floating = [i for i, o in enumerate(outputs) if is_float(o.dtype)]
    if not floating:
        raise InputError(f"{port.name}: no output is floating-point, nothing can be differentiated")
    if recorded is not None:
        floating = [i for i in floating if places[i][0] in recorded[0]]
        if [places[i][0] for i in floating] != list(recorded[0]):
            raise InputError(f"{port.name}: its loss was recorded of outputs that the port lacks")
        numbers = zip(recorded[1], floating, strict=True)
        targets = tuple(transposed(number, turned[i]) for number, i in numbers)
        ported = Probe(tuple(places[i][1] for i in floating), (None,) * len(floating))
        return (ported, ported), targets
    targets = tuple(
        draw.generator(port.seed, "probe", i).standard_normal(outputs[place].shape)
        / np.sqrt(outputs[place].size)
        for i, place in enumerate(floating)
    )
    # The reference gets its targets by `layout`, whatever the output's own axes are.
    usual = [port.layout.get(target.ndim) for target in targets]
    axes = tuple(
        None if turned[i] == given else (_of(turned[i], outputs[i]), _of(given, outputs[i]))
        for i, given in zip(floating, usual, strict=True)
    )
    return (
        Probe(tuple(places[i][0] for i in floating), axes),
        Probe(tuple(places[i][1] for i in floating), (None,) * len(floating)),
    ), targets


def _of(axes: Axes, array: np.ndarray) -> tuple[int, ...]:
    return tuple(range(array.ndim)) if axes is None else tuple(axes)


@dataclasses.dataclass(frozen=True)
class Probe:
    """The loss of one side; works on either framework's arrays.

    Attributes:
        places: Places of the outputs among all arrays that the network returns.
        axes: Of each, the axes of the output and of its target that lead to one layout; None if
            they have one layout already.
    """

    places: tuple[int, ...]
    axes: tuple[tuple[tuple[int, ...], tuple[int, ...]] | None, ...]

    def __call__(self, outputs: Any, *weights: Any) -> Any:
        arrays = [leaf for leaf in leaves(outputs) if is_array(leaf)]
        total = 0
        for place, axes, weight in zip(self.places, self.axes, weights, strict=True):
            output = arrays[place]
            if axes is not None:
                output, weight = output.permute(axes[0]), weight.permute(axes[1])
            # Of another shape, which the outputs' comparison reports, nothing is broadcast.
            same = tuple(output.shape) == tuple(weight.shape)
            total = total + ((output * weight).sum() if same else output.sum())
        return total
