"""Changes of rotary position embeddings that compute both halves of each pair by themselves."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from parity.capture.torch_calls import Invocation, Operation, Value
from parity.capture.torch_operations import Replacement
from parity.diagnosis.experiments import rotary_base
from parity.diagnosis.experiments.change import ODD, Changes, linked, maker, number

SIDES = (("input", "other"), ("other", "input"))  # what is turned, and by what


Places = tuple[tuple[Operation, str], ...]


@dataclasses.dataclass(frozen=True)
class Rotation:
    """A rotation `a cos - b sin`, `b cos + a sin` of channels `a` and `b`.

    Attributes:
        first: The difference.
        second: The sum.
        of_first: Where the difference's `a`, `b`, `cos` and `sin` are: the product, and the name of
            its argument.
        of_second: Where those of the sum are: there, too, unless the sum is computed before.
    """

    first: Operation
    second: Operation
    of_first: Places
    of_second: Places


Turned = tuple[torch.Tensor, torch.Tensor]
Formula = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Turned]


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Yield the changes of all rotations, at the first of them."""
    if operation.name != "sub":
        return
    found = [r for o in among if (r := rotation(o, among)) is not None]
    if found and operation.index == found[0].first.index:
        yield from _changes(operation, found)
        if not rotary_base.is_made_here(among):
            for base in rotary_base.BASES:
                text = f"a base of {number(base)}"
                yield linked(operation, "rope-base", text, _rotated(found, _of_base(base)))


def rotation(o: Operation, among: Sequence[Operation]) -> Rotation | None:
    """Return the rotation whose first half an operation is; None where it is something else."""
    made = _products(o, among) if o.name == "sub" else None
    if made is None:
        return None
    for sides in itertools.product(SIDES, SIDES):
        (a, cos), (b, sin) = (_pick(p, s) for p, s in zip(made, sides, strict=True))
        if a.shape != b.shape or math.prod(cos.shape) > math.prod(a.shape):
            continue
        for other in among:
            products = _products(other, among) if other.name == "add" else None
            if products and (places := _sum_of(products, (a, cos), (b, sin))) is not None:
                own = _placed(made, sides)
                earlier = max(product.index for product in made) < other.index
                return Rotation(o, other, own, own if earlier else places)
    return None


def _sum_of(
    products: tuple[Operation, Operation], first: tuple[Value, Value], second: tuple[Value, Value]
) -> Places | None:
    """Return where a, b, cos and sin are among the products b cos and a sin; None if not so."""
    (a, cos), (b, sin) = first, second
    for made in (products, products[::-1]):
        for sides in itertools.product(SIDES, SIDES):
            if [_pick(p, s) for p, s in zip(made, sides, strict=True)] == [(b, cos), (a, sin)]:
                at_b, at_a, at_cos, at_sin = _placed(made, sides)
                return (at_a, at_b, at_cos, at_sin)
    return None


def _placed(made: Sequence[Operation], sides: Sequence[tuple[str, str]]) -> Places:
    """Return where x, y, cos and sin are among the products x cos and y sin."""
    (straight, turned), ((x, cos), (y, sin)) = made, sides
    return ((straight, x), (turned, y), (straight, cos), (turned, sin))


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
    pairs: tuple[tuple[str, Formula], ...] = (
        ("rotary pairs of neighbours, not of halves", neighbours),
        ("rotary pairs of halves, not of neighbours", halves),
    )
    if o.outputs[0].shape[-1:] == (2,):  # of four channels each gives what the other does
        pairs = (("rotary pairs of neighbours for halves, or the other way", neighbours),)
    for text, formula in (
        *pairs,
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


def _of_base(base: float) -> Formula:
    return lambda a, b, cos, sin: turn(a, b, *rotary_base.rebased(cos, sin, base))


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
        for i, (half, places) in enumerate(
            ((rotated.first, rotated.of_first), (rotated.second, rotated.of_second))
        ):

            def made(call: Invocation, i: int = i, places: Places = places) -> torch.Tensor:
                del call
                return formula(*(kept[product.index][name] for product, name in places))[i]

            for product, _ in places:
                yield product.index, keep(product.index)
            yield half.index, made
