"""Changes of rotary embeddings that are one sum for all channels: `x cos + rotate_half(x) sin`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from parity.capture.torch_calls import Invocation, Operation, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments import rotary_base
from parity.diagnosis.experiments.change import ODD, Changes, linked, maker, number

SIDES = (("input", "other"), ("other", "input"))  # what is turned, and by what
# How `rotate_half` may be written: its operations, and how many of them there are at most.
PARTS: tuple[str, ...] = ("getitem", "chunk", "split", "tensor_split", "unbind", "narrow")
PARTS += ("select", "neg", "mul")
PARTS += ("cat", "stack", "flatten", "reshape", "view", "unflatten", "roll", "unsqueeze", "squeeze")
PARTS += ("permute", "transpose", "movedim", "contiguous", "clone", "to")
STEPS = 10


@dataclasses.dataclass(frozen=True)
class Sum:
    """A rotation `x cos + turned(x) sin`, in whatever order it is written.

    Attributes:
        total: The sum, or the difference.
        straight: The product of x and the cosines.
        turned: The product of what x is turned into and the sines.
        x: The name of x among the arguments of `straight`.
        half: The name of what x is turned into among those of `turned`.
    """

    total: Operation
    straight: Operation
    turned: Operation
    x: str
    half: str


Formula = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, bool], torch.Tensor]


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield the changes of all rotations, at the first of them."""
    if operation.name not in ("add", "sub"):
        return
    found = [s for o in among if (s := rotation(o, among)) is not None]
    if found and operation.index == found[0].total.index:
        yield from _changes(operation, found, among)


def rotation(o: Operation, among: Sequence[Operation]) -> Sum | None:
    """Return the rotation that a sum is; None where it is something else."""
    if o.name not in ("add", "sub"):
        return None
    products = [maker(o, name, among) for name in ("input", "other")]
    made = [p for p in products if p is not None and p.name == "mul"]
    if len(made) != 2:
        return None
    for straight, turned in (made, made[::-1]) if o.name == "add" else (made,):
        for x, _ in SIDES:
            source = straight.tensor(x)
            for half, _ in SIDES:
                if source is not None and _is_turned(turned.tensor(half), source, among):
                    return Sum(o, straight, turned, x, half)
    return None


def _is_turned(value: Value | None, source: Value, among: Sequence[Operation]) -> bool:
    """Return whether a value is made of a source by such operations as `rotate_half` takes."""
    by_index = {o.index: o for o in among}
    if value is None or value.shape != source.shape or value == source:
        return False
    names: set[str] = set()
    waiting, found = [value], False
    for _ in range(STEPS):
        if not waiting:
            break
        one = waiting.pop()
        if one == source:
            found = True
            continue
        before = by_index.get(one.operation) if one.operation is not None else None
        if before is None or before.name not in PARTS:
            return False
        names.add(before.name)
        waiting += [v for v in dict.fromkeys(before.values()) if v not in waiting]
    return found and not waiting and bool(names & {"cat", "stack", "roll"})


def halves(x: torch.Tensor) -> torch.Tensor:
    """Turn pairs of halves: (x0, xn), (x1, xn+1)."""
    first, second = x.chunk(2, -1)
    return torch.cat((-second, first), -1)


def neighbours(x: torch.Tensor) -> torch.Tensor:
    """Turn pairs of neighbours: (x0, x1), (x2, x3)."""
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def _at(x: torch.Tensor, of_halves: bool) -> torch.Tensor:
    """Return where in tables for pairs of one sort the angles of the other sort's pairs are."""
    places = torch.arange(x.shape[-1])
    if of_halves:
        return places // 2
    return places.reshape(-1, 2).T.flatten()


def _turned(x: torch.Tensor, of_halves: bool) -> torch.Tensor:
    return halves(x) if of_halves else neighbours(x)


def _other(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, of_halves: bool) -> torch.Tensor:
    at = _at(x, of_halves)
    return x * cos[..., at] + _turned(x, not of_halves) * sin[..., at]


# Names of both sorts stand for `own` and `other`: the change is made of pairs of each sort.
OF_SORTS: tuple[tuple[str, Formula], ...] = (
    ("rotary pairs of {other}, not of {own}", _other),
    (
        "rotary pairs of {other} with the angles of {own}",
        lambda x, c, s, of_halves: x * c + _turned(x, not of_halves) * s,
    ),
    (
        "rotary pairs of {own} with the angles of {other}",
        lambda x, c, s, of_halves: (
            x * c[..., _at(x, of_halves)] + _turned(x, of_halves) * s[..., _at(x, of_halves)]
        ),
    ),
)
# Changes that are the same of pairs of either sort.
OF_ANY: tuple[tuple[str, Formula], ...] = (
    ("the rotation backwards", lambda x, c, s, of_halves: x * c - _turned(x, of_halves) * s),
    ("sine and cosine swapped", lambda x, c, s, of_halves: x * s + _turned(x, of_halves) * c),
)


def _of_base(base: float) -> Formula:
    def formula(
        x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, of_halves: bool
    ) -> torch.Tensor:
        c, s = rotary_base.rebased(cos, sin, base)
        return x * c + _turned(x, of_halves) * s

    return formula


def _changes(o: Operation, found: Sequence[Sum], among: Sequence[Operation]) -> Changes:
    for words, formula in OF_SORTS:
        for of_halves, own, other in (
            (True, "halves", "neighbours"),
            (False, "neighbours", "halves"),
        ):
            text = words.format(own=own, other=other)
            yield linked(o, "rope-pairs", text, _rotated(found, formula, of_halves))
    for text, formula in OF_ANY:
        yield linked(o, "rope-pairs", text, _rotated(found, formula))
    if not rotary_base.is_made_here(among):
        for base in rotary_base.BASES:
            text = f"a base of {number(base)}"
            yield linked(o, "rope-base", text, _rotated(found, _of_base(base)))
    plain: Formula = lambda x, c, s, of_halves: x  # noqa: E731
    if len(found) > 1:
        for single, name in zip(found[:2], ("first", "second"), strict=True):
            text = f"no rotation of the {name} (of queries and keys)"
            yield linked(o, "rope-pairs", text, _rotated([single], plain), ODD)
    yield linked(o, "rope-pairs", "no rotation", _rotated(found, plain))


def _rotated(
    sums: Sequence[Sum], formula: Formula, wanted: bool | None = None
) -> Callable[[dict[int, Invocation]], Mapping[int, Replacement]]:
    """Return every rotation by another formula of x, cosines and sines.

    Args:
        sums: The rotations.
        formula: It is told whether pairs are of halves.
        wanted: Whether pairs must be of halves in the reference; either if None.
    """

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        return dict(_replaced(sums, formula, wanted, kept))

    return make


def _replaced(
    sums: Sequence[Sum], formula: Formula, wanted: bool | None, kept: dict[int, Invocation]
) -> Iterator[tuple[int, Replacement]]:
    def keep(index: int) -> Replacement:
        def replacement(call: Invocation) -> torch.Tensor:
            kept[index] = call
            return call()

        return replacement

    def last(rotated: Sum) -> Replacement:
        def replacement(call: Invocation) -> torch.Tensor:
            del call
            straight, turned = kept[rotated.straight.index], kept[rotated.turned.index]
            x, cos = (straight[name] for name in _both(rotated.x))
            half, sin = (turned[name] for name in _both(rotated.half))
            of_halves, sign = _sort(x, half)
            if wanted is not None and of_halves is not wanted:
                raise ValueError("its pairs are of the other sort")
            sin = sin * (sign if rotated.total.name == "add" else -sign)
            cos, sin = (t.expand(*t.shape[:-1], x.shape[-1]) for t in (cos, sin))
            return formula(x, cos, sin, of_halves)

        return replacement

    for rotated in sums:
        for product in (rotated.straight, rotated.turned):
            yield product.index, keep(product.index)
        yield rotated.total.index, last(rotated)


def _both(name: str) -> tuple[str, str]:
    return next(sides for sides in SIDES if sides[0] == name)


def _sort(x: torch.Tensor, half: torch.Tensor) -> tuple[bool, float]:
    """Return whether x is turned in pairs of halves, not of neighbours, and the sign.

    Raises:
        ValueError: It is neither.
    """
    for of_halves in (True, False):
        for sign in (1.0, -1.0):
            if torch.equal(half, sign * _turned(x, of_halves)):
                return of_halves, sign
    raise ValueError("x is not turned in pairs")
