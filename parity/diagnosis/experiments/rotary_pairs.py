"""Changes of rotary position embeddings that compute both halves of each pair by themselves."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from parity.capture.torch_calls import Invocation, Operation, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments.change import ODD, Changes, linked, maker

SIDES = (("input", "other"), ("other", "input"))  # what is turned, and by what


@dataclasses.dataclass(frozen=True)
class Rotation:
    """A rotation `a cos - b sin`, `b cos + a sin` of channels `a` and `b`.

    Attributes:
        first: The difference.
        second: The sum.
        straight: The product `a cos`, and the names of its arguments `a` and `cos`.
        turned: The product `b sin`, likewise.
    """

    first: Operation
    second: Operation
    straight: tuple[Operation, str, str]
    turned: tuple[Operation, str, str]


Turned = tuple[torch.Tensor, torch.Tensor]
Formula = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Turned]


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield the changes of all rotations, at the first of them."""
    if operation.name != "sub":
        return
    found = [r for o in among if (r := rotation(o, among)) is not None]
    if found and operation.index == found[0].first.index:
        yield from _changes(operation, found)


def rotation(o: Operation, among: Sequence[Operation]) -> Rotation | None:
    """Return the rotation whose first half an operation is; None where it is something else."""
    made = _products(o, among) if o.name == "sub" else None
    if made is None:
        return None
    for sides in itertools.product(SIDES, SIDES):
        (a, cos), (b, sin) = (_pick(p, s) for p, s in zip(made, sides, strict=True))
        if a.shape != b.shape or math.prod(cos.shape) > math.prod(a.shape):
            continue
        wanted = {frozenset((b, cos)), frozenset((a, sin))}
        for other in among:
            products = _products(other, among) if other.name == "add" else None
            if products and {frozenset(_pick(p, SIDES[0])) for p in products} == wanted:
                straight, turned = ((p, *s) for p, s in zip(made, sides, strict=True))
                return Rotation(o, other, straight, turned)
    return None


def _products(o: Operation, among: Sequence[Operation]) -> tuple[Operation, Operation] | None:
    found = [maker(o, name, among) for name in ("input", "other")]
    products = [p for p in found if p is not None and p.name == "mul" and len(_tensors(p)) == 2]
    return (products[0], products[1]) if len(products) == 2 else None


def _tensors(o: Operation) -> list[Value]:
    return [v for name in SIDES[0] if (v := o.tensor(name)) is not None]


def _pick(product: Operation, names: Sequence[str]) -> tuple[Value, Value]:
    first, second = (product.tensor(name) for name in names)
    assert first is not None
    assert second is not None
    return first, second


def _changes(o: Operation, found: Sequence[Rotation]) -> Changes:
    for text, formula in (
        ("rotary pairs of neighbours, not of halves", neighbours),
        ("rotary pairs of halves, not of neighbours", halves),
        ("the rotation backwards", lambda a, b, cos, sin: turn(a, b, cos, -sin)),
        ("sine and cosine swapped", lambda a, b, cos, sin: turn(a, b, sin, cos)),
        ("no rotation", lambda a, b, cos, sin: (a, b)),
    ):
        yield linked(o, "rope-pairs", text, _rotated(found, formula))
    if len(found) > 1:
        for single, name in zip(found[:2], ("first", "second"), strict=True):
            text = f"no rotation of the {name} (of queries and keys)"
            yield linked(
                o, "rope-pairs", text, _rotated([single], lambda a, b, cos, sin: (a, b)), ODD
            )


def turn(a: torch.Tensor, b: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Turned:
    """Turn pairs (a, b)."""
    return a * cos - b * sin, b * cos + a * sin


def neighbours(a: torch.Tensor, b: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Turned:
    """Turn channels (0, 1), (2, 3) of what has `a` as its first half and `b` as its second."""
    x = torch.cat((a, b), -1)
    turned = torch.stack(turn(x[..., ::2], x[..., 1::2], cos, sin), -1).flatten(-2)
    first, second = turned.chunk(2, -1)
    return first, second


def halves(a: torch.Tensor, b: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Turned:
    """Turn halves of what has `a` and `b` in turn."""
    x = torch.stack((a, b), -1).flatten(-2)
    first, second = x.chunk(2, -1)
    turned = torch.cat(turn(first, second, cos, sin), -1)
    return turned[..., ::2], turned[..., 1::2]


def _rotated(
    every: Sequence[Rotation], formula: Formula
) -> Callable[[dict[int, Invocation]], Mapping[int, Replacement]]:
    """Return every rotation by another formula of a, b, cos and sin."""

    def make(kept: dict[int, Invocation]) -> Mapping[int, Replacement]:
        def keep(index: int) -> Replacement:
            def replacement(call: Invocation) -> torch.Tensor:
                kept[index] = call
                return call()

            return replacement

        return dict(_replaced(every, formula, kept, keep))

    return make


def _replaced(
    every: Sequence[Rotation],
    formula: Formula,
    kept: Mapping[int, Invocation],
    keep: Callable[[int], Replacement],
) -> Iterator[tuple[int, Replacement]]:
    for rotated in every:
        (straight, a, cos), (turned, b, sin) = rotated.straight, rotated.turned
        of = ((straight.index, a), (turned.index, b), (straight.index, cos), (turned.index, sin))
        yield straight.index, keep(straight.index)
        yield turned.index, keep(turned.index)
        for i, made in enumerate((rotated.first, rotated.second)):
            yield made.index, _half(i, formula, kept, of)


def _half(
    i: int, formula: Formula, kept: Mapping[int, Invocation], of: Sequence[tuple[int, str]]
) -> Replacement:
    return lambda call: formula(*(kept[index][name] for index, name in of))[i]
