"""Expressions of axes, such as `(three h d) i -> three i h d`, and the arrays they rearrange.

The notation is that of einops, with two additions: `(q + k + v)` is a concatenation, and one side
may have an expression per array, parted by commas. Every element of the left side is on the right
side, so exchanging the two sides gives the inverse.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

REST = "..."  # any number of axes, the same on both sides
Product = tuple[str, ...]  # axes that one axis is composed of, the slowest first; none: length 1
Item = tuple[Product, ...]  # one axis of an array: a product, or several behind each other
Sizes = dict[str, int]

LONGEST = 500  # tokens of a formula
TOKEN = re.compile(r"\s*(->|\.\.\.|[A-Za-z]\w*|\d+|.)", re.DOTALL)


class MisfitError(ValueError):
    """An expression is wrong, or an array does not fit it; the message is a clause."""


@dataclasses.dataclass(frozen=True)
class Expression:
    """The axes of one array.

    Attributes:
        items: One item for each axis.
    """

    items: tuple[Item, ...]

    def names(self) -> list[str]:
        """Return the names of all elementary axes, in order."""
        return [name for item in self.items for product in item for name in product]

    def without(self, outer: Sequence[str]) -> Expression:
        """Return the axes of each array where some axes run over several arrays."""
        kept = []
        for item in self.items:
            left = tuple(tuple(n for n in product if n not in outer) for product in item)
            if left == item or any(left):
                kept.append(left)
        return Expression(tuple(kept))

    def expanded(self, rest: int) -> Expression:
        """Return it with `...` replaced by as many axes as it stands for."""
        items: list[Item] = []
        for item in self.items:
            items += [((f".{i}",),) for i in range(rest)] if item == ((REST,),) else [item]
        return Expression(tuple(items))

    @property
    def open(self) -> bool:
        """Return whether it has a `...`."""
        return ((REST,),) in self.items

    def rest(self, ndim: int) -> int | None:
        """Return how many axes `...` stands for in an array of `ndim`; None if it does not fit."""
        rest = ndim - len(self.items) + self.open
        return rest if rest == 0 or (rest > 0 and self.open) else None

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Return the array's shape."""
        return tuple(
            sum(math.prod(sizes[n] for n in product) for product in item) for item in self.items
        )

    def blocks(self) -> list[Expression]:
        """Return the expression of each part of a concatenation; itself if there is none."""
        place = self.joint()
        if place is None:
            return [self]
        before, after = self.items[:place], self.items[place + 1 :]
        return [Expression((*before, (product,), *after)) for product in self.items[place]]

    def joint(self) -> int | None:
        """Return the axis along which it is a concatenation."""
        return next((i for i, item in enumerate(self.items) if len(item) > 1), None)

    def __str__(self) -> str:
        return " ".join(map(_text, self.items))


def _text(item: Item) -> str:
    texts = [" ".join(product) or "1" for product in item]
    if len(item) == 1:
        return texts[0] if len(item[0]) <= 1 else f"({texts[0]})"
    return (
        f"({' + '.join(t if len(p) == 1 else f'({t})' for t, p in zip(texts, item, strict=True))})"
    )


@dataclasses.dataclass(frozen=True)
class Formula:
    """What arrays on the left become on the right.

    Attributes:
        left: One expression for all arrays of the left side, or one for each.
        right: The same of the right side.
    """

    left: tuple[Expression, ...]
    right: tuple[Expression, ...]

    def names(self) -> set[str]:
        """Return the names of all elementary axes."""
        return {name for side in (self.left, self.right) for e in side for name in e.names()}

    def inverted(self) -> Formula:
        """Return the way back."""
        return Formula(self.right, self.left)

    def __str__(self) -> str:
        return " -> ".join(", ".join(map(str, side)) for side in (self.left, self.right))


AS_IS = Formula((Expression((((REST,),),)),), (Expression((((REST,),),)),))


def permutation(axes: Sequence[int]) -> Formula:
    """Return the formula of a permutation of axes, as `numpy.transpose` takes it."""
    items: list[Item] = [((f"axis{i}",),) for i in range(len(axes))]
    right = tuple(items[i] for i in axes)
    return Formula((Expression(tuple(items)),), (Expression(right),))


def parse(text: str) -> Formula:
    """Parse a formula.

    Raises:
        MisfitError: It is none, or what is on one side is not on the other.
    """
    tokens = TOKEN.findall(text.strip())
    if len(tokens) > LONGEST:
        raise MisfitError(f"more than {LONGEST} axes and signs")
    if tokens.count("->") != 1:
        raise MisfitError("expected one '->' between two sides")
    at = tokens.index("->")
    formula = Formula(*(tuple(_side(part)) for part in (tokens[:at], tokens[at + 1 :])))
    sides = [keys(side) for side in (formula.left, formula.right)]
    for ours, others, other in ((*sides, "right"), (*sides[::-1], "left")):
        for key in ours:
            if key not in others:
                raise MisfitError(f"'{' '.join(sorted(key))}' is not on the {other}")
    return formula


def _side(tokens: list[str]) -> Iterator[Expression]:
    """Yield the expressions of one side; nothing is the one of a single number."""
    items: list[Item] = []
    rest = list(tokens)
    while rest:
        token = rest.pop(0)
        if token == ",":
            yield _checked(items)
            items = []
        elif token == "(":
            items.append(_group(rest))
        else:
            items.append((_factor(token),))
    yield _checked(items)


def _factor(token: str) -> Product:
    if token == "1":
        return ()
    if token.isdigit():
        raise MisfitError(f"an axis of {token} needs a name: its size may be given in sizes")
    if token != REST and not token[0].isalpha():
        raise MisfitError(f"{token!r} is unexpected")
    return (token,)


def _group(rest: list[str]) -> Item:
    """Take the inside of a parenthesis from the tokens: factors, or products with `+` between."""
    products: list[Product] = []
    factors: list[str] = []
    while rest:
        token = rest.pop(0)
        if token in (")", "+"):
            products.append(tuple(factors))
            factors = []
            if token == ")":
                return tuple(products)
        elif token == "(":
            inner = _group(rest)
            if len(inner) > 1:
                raise MisfitError("a sum within a sum is not supported")
            factors += inner[0]
        elif token == REST:
            raise MisfitError("'...' cannot be in a parenthesis")
        else:
            factors += _factor(token)
    raise MisfitError("a parenthesis is not closed")


def _checked(items: list[Item]) -> Expression:
    found = Expression(tuple(items))
    if sum(len(item) > 1 for item in items) > 1:
        raise MisfitError("more than one axis is a sum")
    for block in found.blocks():
        if twice := [n for n in block.names() if block.names().count(n) > 1]:
            raise MisfitError(f"{twice[0]} is there twice")
    if len(found.blocks()) != len({frozenset(b.names()) for b in found.blocks()}):
        raise MisfitError("two parts of a sum have the same axes: give them other names")
    return found


def keys(side: tuple[Expression, ...]) -> list[frozenset[str]]:
    """Return the elementary axes of each block of one side."""
    return [frozenset(b.names()) for e in side for b in e.blocks()]


def solve(inner: Sequence[tuple[Expression, Sequence[int]]], sizes: Sizes) -> None:
    """Find the sizes of axes from the shapes of arrays; `sizes` is extended.

    Raises:
        MisfitError: A shape does not fit.
    """
    known = -1
    while known != len(sizes):
        known = len(sizes)
        for expression, shape in inner:
            for item, length in zip(expression.items, shape, strict=True):
                _solve(item, int(length), sizes)


def _solve(item: Item, length: int, sizes: Sizes) -> None:
    free = [p for p in item if any(n not in sizes for n in p)]
    rest = length - sum(math.prod(sizes[n] for n in p) for p in item if p not in free)
    if not free:
        if rest:
            raise MisfitError(f"{_text(item)} is {length - rest}, not {length}")
        return
    names = [n for p in free for n in p if n not in sizes]
    if len(names) > 1:
        return
    base = math.prod(sizes[n] for n in free[0] if n in sizes)
    if rest < 0 or (base and rest % base):
        multiple = f"a multiple of {base}" if base > 1 else f"{length - rest} or more"
        raise MisfitError(f"{_text(item)} is {length}, expected {multiple}")
    if base:
        sizes[names[0]] = rest // base


def elementary(
    array: np.ndarray, outer: Sequence[str], inner: Expression, sizes: Mapping[str, int]
) -> dict[frozenset[str], tuple[np.ndarray, list[str]]]:
    """Take an array apart.

    Args:
        array: Its leading axes are the outer ones.
        outer: Names of these.
        inner: The other axes.
        sizes: Sizes of all axes.

    Returns:
        Names of elementary axes -> the block with these axes, and their order.
    """
    place = inner.joint()
    pieces = [array]
    if place is not None:
        lengths = [math.prod(sizes[n] for n in product) for product in inner.items[place]]
        pieces = np.split(array, np.cumsum(lengths)[:-1], axis=len(outer) + place)
    found = {}
    for piece, block in zip(pieces, inner.blocks(), strict=True):
        names = [*outer, *block.names()]
        whole = Expression((*(((n,),) for n in outer), *block.items))
        flat = Expression(tuple(((n,),) for n in names))
        found[frozenset(names)] = (rearrange(piece, whole, flat, sizes), names)
    return found


def composed(
    blocks: Mapping[frozenset[str], tuple[np.ndarray, list[str]]],
    outer: Sequence[str],
    inner: Expression,
    sizes: Mapping[str, int],
) -> np.ndarray:
    """Put an array together; the inverse of `elementary`."""
    pieces = []
    for block in inner.blocks():
        array, names = blocks[frozenset([*outer, *block.names()])]
        flat = Expression(tuple(((n,),) for n in names))
        whole = Expression((*(((n,),) for n in outer), *block.items))
        pieces.append(rearrange(array, flat, whole, sizes))
    place = inner.joint()
    return pieces[0] if place is None else np.concatenate(pieces, axis=len(outer) + place)


def rearrange(
    array: np.ndarray, left: Expression, right: Expression, sizes: Mapping[str, int]
) -> np.ndarray:
    """Rearrange an array by einops, whose names of axes are more restricted than ours."""
    import einops

    names = {name: f"a{i}" for i, name in enumerate(left.names())}

    def renamed(expression: Expression) -> str:
        return " ".join(
            "(" + " ".join(names[n] for n in product) + ")" for (product,) in expression.items
        )

    given = {names[n]: sizes[n] for n in names}
    return einops.rearrange(array, f"{renamed(left)} -> {renamed(right)}", **given)
