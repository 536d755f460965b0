"""Whether a block of the port ends where a block of the reference does.

Two blocks that hold the same weights, or have the same name, need not end at the same place: one
may leave its last activation to what stands around it. Where their values are the same, they do.
Where a fault has changed the values, it is tried: the reference runs with the port's values of all
its innermost layers, and with the port's value of the block. What the next layer is fed is then
what the port's is fed, if the blocks end at the same place, whatever is wrong in them.

So it is tried of layers that hold no others, where they are of the user's own classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from parity.capture.records import NETWORK, Call, ForwardError, RunRecord
from parity.capture.torch_forced import forced
from parity.ladder.axes import SAME, rearranged
from parity.ladder.orders import closest, fitting
from parity.ladder.pairing import Pair
from parity.ladder.tolerances import norm
from parity.spec import draw
from parity.trace.side import RecordedSide

if TYPE_CHECKING:
    from parity.ladder.runs import Runs

NEAR = 1e-5  # a block that ends elsewhere is farther off than that
LEFT = 1e-3  # of what the block's value moves, that may be left of the difference
MOST_TRIED = 6  # blocks of one class
ITSELF = "(itself)"  # no layer's name


class BlockEnds:
    """Tells of blocks whether they end at the same place.

    Blocks of one class may end at different places, too. Where the networks differ, those of a
    class are no pairs from the first on that ends elsewhere: what is tried behind a fault is less
    certain.

    Args:
        runs: Both sides.
        reference: The reference's calls in eval mode.
        ported: The port's run in eval mode.
        parts: The reference's calls of layers that contain layers.
    """

    def __init__(
        self,
        runs: Runs,
        reference: Mapping[str, Call],
        ported: RunRecord,
        parts: set[str],
    ) -> None:
        self.runs, self.reference, self.ported, self.parts = runs, reference, ported, parts
        self.port = ported.calls
        self.verdicts: dict[tuple[str, str], list[bool]] = {}

    def alike(self, a: str, b: str, pairs: Mapping[str, Pair]) -> bool | None:
        """Return whether two blocks end at the same place; None where nothing tells.

        Where the reference cannot be run with other values, and both networks return the same, they
        are no pair: one that is in question is no reason to fail a port.

        Args:
            a: A call of the reference's block.
            b: A call of the port's.
            pairs: What is paired by now, by the reference's calls.
        """
        if isinstance(self.runs.reference64, RecordedSide) or self.runs.large:
            return False if self.right else None
        verdicts = self.verdicts.setdefault(self._kinds(a, b), [])
        if not self.right and not all(verdicts):
            return False
        if len(verdicts) >= MOST_TRIED:
            return all(verdicts)
        found = self._tried(a, b, pairs)
        if found is None and not self.right and verdicts:
            return all(verdicts)
        if found is not None:
            verdicts.append(found)
        return found

    def _kinds(self, a: str, b: str) -> tuple[str, str]:
        names = (a.partition("#")[0], b.partition("#")[0])
        kind = self.runs.port64.kind(names[1]) if self.runs.port64.has(names[1]) else ""
        return self.runs.reference64.kind(names[0]), kind

    def doubtful(self, a: str, b: str) -> bool:
        """Return whether two calls may end at different places: they give other values.

        Layers of Flax and PyTorch hold nothing but what their name says. A class of the
        reference's that is made of one, such as an embedding that is scaled, may do more.
        """
        names = a.partition("#")[0], b.partition("#")[0]
        own = (self.runs.reference64.is_of_library(names[0]), self.runs.port64.is_of_flax(names[1]))
        if a not in self.parts and all(own):
            return False
        return _apart(self.reference[a].outputs, self.port[b].outputs) > NEAR

    @functools.cached_property
    def right(self) -> bool:
        """Whether both networks return the same."""
        outputs = self.runs.oracle(False).outputs
        pairs = self.runs.whole.outputs(False).pairs
        return all(
            _apart([outputs[a.place]], [self.ported.outputs[b.place]]) <= SAME for a, b in pairs
        )

    @functools.cached_property
    def fed(self) -> Mapping[str, Call]:
        """What the port's layers are fed."""
        return self.runs.port64.run(self.runs.inputs[False], False, fed=True).calls

    def _tried(self, a: str, b: str, pairs: Mapping[str, Pair]) -> bool | None:
        leaves = {n: pair for n, pair in pairs.items() if n not in self.parts}
        values = {
            name: made
            for name, pair in leaves.items()
            if (made := self._ported(name, pair)) is not None
        }
        given = self._ported(a, Pair(a, b, "", ()))
        if given is None:
            return None
        try:
            return self._follows(a, values, given, leaves)
        except ForwardError:  # nothing is tried of a reference that refuses other values
            return False if self.right else None
        except (LookupError, RuntimeError, TypeError, ValueError):
            return None

    def _ported(self, name: str, pair: Pair) -> list[np.ndarray] | None:
        """Return what the port's layer gives, turned as the reference's is; None if that fails."""
        mine, theirs = self.reference[name].outputs, self.port[pair.port].outputs
        if len(mine) != len(theirs):
            return None
        found = []
        for i, (x, y) in enumerate(zip(mine, theirs, strict=True)):
            axes = pair.axes[i] if i < len(pair.axes) else None
            y = np.asarray(y)
            if axes is not None:
                if sorted(axes) != list(range(x.ndim)):
                    return None
                y = rearranged(y, tuple(int(k) for k in np.argsort(axes)))
            if x.shape != y.shape:
                return None
            found.append(y)
        return found

    def _follows(
        self,
        a: str,
        values: Mapping[str, list[np.ndarray]],
        given: list[np.ndarray],
        leaves: Mapping[str, Pair],
    ) -> bool | None:
        """Return whether the first layer behind a block that takes its value is fed the port's.

        A block that gives the port's value by itself, once it is fed what the port's is, is right.
        A value that is another one, and yet leads to what the reference's does, is that of another
        place. So may one be that is cut off at 0 already, where what follows does more than pass
        it on: cut off once more it is the same. So is any value that is only passed on where the
        reference's is not, such as an absolute value, or one that is normalized.
        """
        behind = self._behind(a)
        after = [name for name in leaves if name in behind]
        rng = draw.generator(0, "block")
        other = [x * rng.uniform(0.5, 2.0, x.shape) + rng.normal(size=x.shape) for x in given]
        changes: tuple[dict[str, list[np.ndarray]], ...] = ({}, {a: given}, {a: other})
        plain, met, moved = (self._run({**values, **changed}, after, a) for changed in changes)
        if _apart(plain[ITSELF], given) <= SAME:
            return True
        for name in (*after, NETWORK):
            if _apart(plain[name], moved[name]) <= SAME:
                continue
            theirs = self._theirs(name, leaves)
            if theirs is None:
                return None
            changed = _apart(plain[name], met[name])
            if changed <= SAME or _apart(met[name], theirs) > max(SAME, LEFT * min(changed, 1.0)):
                return False
            if _apart(moved[name], other) <= SAME:
                return True  # nothing is between
            own = self.reference[a].outputs
            return not _is_cut(given, own) and (
                not _is_passed_on(given, met[name]) or _is_passed_on(own, self._ours(name))
            )
        return None

    def _run(
        self, values: Mapping[str, list[np.ndarray]], after: Sequence[str], block: str
    ) -> dict[str, list[np.ndarray]]:
        """Run the reference with these values.

        Returns:
            What layers `after` are fed, the network's outputs, and what a block gives by itself.
        """
        found: dict[str, list[np.ndarray]] = {}

        def keep(name: str, arrays: list[np.ndarray]) -> None:
            if name in after:
                found[name] = arrays

        def keep_own(name: str, arrays: list[np.ndarray]) -> None:
            if name == block:
                found[ITSELF] = arrays

        outputs = forced(self.runs.reference64, self.runs.inputs[False], values, keep, keep_own)
        pairs = self.runs.whole.outputs(False).pairs
        return found | {NETWORK: [outputs[mine.place] for mine, _ in pairs]}

    def _ours(self, name: str) -> list[np.ndarray]:
        """Return what the reference's layer is fed, or its outputs."""
        if name != NETWORK:
            return [np.asarray(array) for array in self.reference[name].arrays()]
        pairs = self.runs.whole.outputs(False).pairs
        return [np.asarray(self.runs.oracle(False).outputs[mine.place]) for mine, _ in pairs]

    def _theirs(self, name: str, leaves: Mapping[str, Pair]) -> list[np.ndarray] | None:
        """Return what the port's layer is fed, or its outputs."""
        if name != NETWORK:
            call = self.fed.get(leaves[name].port)
            return None if call is None else [np.asarray(a) for a in call.arrays()]
        pairs = self.runs.whole.outputs(False).pairs
        return [np.asarray(self.ported.outputs[other.place]) for _, other in pairs]

    def _behind(self, a: str) -> set[str]:
        """Return the calls that return behind a block."""
        names = list(self.reference)
        return set(names[names.index(a) + 1 :])


def _apart(ours: Sequence, theirs: Sequence) -> float:
    """Return the relative difference of arrays, up to their axes; infinite for other numbers."""
    if len(ours) != len(theirs):
        return float("inf")
    most = 0.0
    for x, y in zip(ours, theirs, strict=True):
        x, y = np.asarray(x), np.asarray(y)
        if x.dtype.kind != "f" and y.dtype.kind != "f":
            continue
        x, y = (_squeezed(each.astype(np.float64)) for each in (x, y))
        orders = fitting(x.shape, y.shape)
        if not orders:
            return float("inf")
        scale = norm(y)
        distance = closest(x, y, orders, SAME * scale)[1]
        most = max(most, distance / scale if scale else distance)
    return most


def _is_cut(given: Sequence[np.ndarray], own: Sequence[np.ndarray]) -> bool:
    """Return whether values hold zeros, as behind a ReLU, and those of the reference do not."""
    return any((x == 0).any() for x in given) and not any((x == 0).any() for x in own)


def _is_passed_on(given: Sequence[np.ndarray], fed: Sequence[np.ndarray]) -> bool:
    """Return whether a layer is fed what another one gives, in whatever shape and order."""
    ours, theirs = (
        np.sort(np.concatenate([np.ravel(x).astype(np.float64) for x in arrays]))
        for arrays in (given, fed)
    )
    return ours.shape == theirs.shape and norm(ours - theirs) <= SAME * norm(theirs)


def _squeezed(array: np.ndarray) -> np.ndarray:
    return array.reshape([n for n in array.shape if n != 1])
