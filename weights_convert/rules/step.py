"""One application of a rule: from some arrays to others, known from their shapes alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from parity.spec.errors import InputError
from weights_convert.rules import axes
from weights_convert.rules.axes import MisfitError, Sizes
from weights_convert.rules.rule import Rule, View

Blocks = dict[frozenset[str], tuple[np.ndarray, list[str]]]


class Described(Protocol):
    """What has a shape and a dtype: an array, or an `ArraySpec`."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""

    @property
    def dtype(self) -> Any:
        """Compared with that of others alone, so a text such as `BF16` will do."""


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """An array without its values."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(frozen=True)
class Step:
    """One application of a rule.

    Attributes:
        rule: The rule.
        sources: Names of the arrays it needs, in the order of its expressions.
        targets: Names of the arrays it makes; None for a part that is left out.
        sizes: Sizes of all axes.
        made: The arrays it makes: name -> shape and dtype.
    """

    rule: Rule
    sources: tuple[str, ...]
    targets: tuple[str | None, ...]
    sizes: Mapping[str, int]
    made: Mapping[str, ArraySpec]
    _left: tuple[View, ...] = ()
    _right: tuple[View, ...] = ()

    def apply(self, arrays: Mapping[str, Any], check: bool = True) -> dict[str, np.ndarray]:
        """Make the target's arrays.

        Args:
            arrays: At least the arrays that are needed, by name.
            check: Whether arrays that must be equal are compared, bit for bit.

        Raises:
            InputError: Two arrays that become one are not equal.
        """
        blocks = self._split_blocks(arrays, check)
        for name, order in self.rule.orders.items():
            for key, (array, names) in blocks.items():
                if name in key:
                    blocks[key] = (np.take(array, order, axis=names.index(name)), names)
        found: dict[str, np.ndarray] = {}
        start = 0
        for view in self._right:
            outer = _lengths(view, self.sizes)
            count = int(np.prod(outer, dtype=np.int64))
            whole = axes.composed(blocks, view.outer, view.inner, self.sizes)
            flat = whole.reshape(count, *whole.shape[len(outer) :])
            for target, array in zip(self.targets[start : start + count], flat, strict=True):
                if target is not None:
                    found[target] = np.asarray(array)  # without axes it is a scalar
            start += count
        return found

    def _split_blocks(self, arrays: Mapping[str, Any], check: bool) -> Blocks:
        blocks: Blocks = {}
        holders: dict[frozenset[str], str] = {}
        start = 0
        for view in self._left:
            outer = _lengths(view, self.sizes)
            count = int(np.prod(outer, dtype=np.int64))
            names = self.sources[start : start + count]
            start += count
            array = np.asarray(arrays[names[0]])
            if outer:
                stacked = np.stack([np.asarray(arrays[name]) for name in names])
                array = stacked.reshape(*outer, *stacked.shape[1:])
            for key, block in axes.elementary(array, view.outer, view.inner, self.sizes).items():
                if key not in blocks:
                    blocks[key], holders[key] = block, names[0]
                elif check and not _same(blocks[key], block):
                    raise InputError(
                        f"{self.rule}: {holders[key]} and {names[0]} become one, but differ"
                    )
        return blocks

    @property
    def merges(self) -> bool:
        """Return whether arrays must be equal, for they become one."""
        keys = axes.keys(self.rule.formula.left)
        return len(set(keys)) < len(keys)

    def permutation(self) -> tuple[int, ...] | None:
        """Return the permutation of axes that it is, of one array to one; None if it is none."""
        plain = len(self.sources) == len(self.targets) == 1 and not self.rule.orders
        if not plain or None in self.targets:
            return None
        sides = [view.inner.items for view in (*self._left, *self._right)]
        if any(len(i) != 1 or len(i[0]) != 1 for side in sides for i in side):
            return None
        return tuple(sides[0].index(item) for item in sides[1])


def _same(one: tuple[np.ndarray, list[str]], other: tuple[np.ndarray, list[str]]) -> bool:
    moved = other[0].transpose([other[1].index(name) for name in one[1]])
    same = np.ascontiguousarray(one[0]).view(np.uint8), np.ascontiguousarray(moved).view(np.uint8)
    return np.array_equal(*same)


def _lengths(view: View, sizes: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sizes[name] for name in view.outer)


def make_step(
    rule: Rule,
    values: Mapping[str, str],
    found: Mapping[tuple[int, tuple[int, ...]], str],
    source: Mapping[str, Described],
    target: Mapping[str, Described] | None,
) -> Step:
    """Prepare one application of a rule.

    Args:
        rule: The rule.
        values: The groups' texts, but for scanned ones.
        found: Place among the rule's patterns, and numbers of its scanned groups -> name.
        source: The arrays on the left.
        target: Those on the right, whose shapes may tell sizes; None if they are unknown.

    Raises:
        InputError: A tensor is missing, or does not fit.
    """
    first = next(iter(found.values()))
    try:
        sizes: Sizes = dict(rule.sizes)
        _count(rule, found, sizes)
        rest = rule.left[0].inner.rest(len(source[first].shape)) or 0
        left, right = (_expanded(side, rest) for side in (rule.left, rule.right))
        sources = _sources(rule, left, found, values, sizes)
        inner = [(view.inner, source[name].shape) for view, name in _along(left, sources, sizes)]
        for name in sources:
            if source[name].dtype != source[first].dtype:
                dtypes = f"{source[name].dtype}, {first} of {source[first].dtype}"
                raise MisfitError(f"{name} is of {dtypes}")
        if uneven := [
            name for name, (e, s) in zip(sources, inner, strict=True) if len(e.items) != len(s)
        ]:
            raise MisfitError(f"{uneven[0]} has {len(source[uneven[0]].shape)} axes")
        axes.solve(inner, sizes)
        everything = [n for v in (*left, *right) for n in (*v.outer, *v.inner.names())]
        if any(name not in sizes for name in everything):
            axes.solve(_known(rule, right, values, sizes, target or {}), sizes)
            axes.solve(inner, sizes)
    except MisfitError as error:
        shape = tuple(source[first].shape)
        raise InputError(f"{rule}: {first} {shape} does not fit: {error}") from error
    if lost := [name for name in everything if name not in sizes]:
        raise InputError(f"{rule}: the size of {lost[0]} does not follow from {first}: give it")
    targets = _targets(rule, right, values, sizes)
    dtype = source[first].dtype
    made = {
        name: ArraySpec(view.inner.shape(sizes), dtype)
        for view, name in _along(right, targets, sizes)
        if name is not None
    }
    return Step(rule, tuple(sources), tuple(targets), sizes, made, tuple(left), tuple(right))


def _expanded(side: Sequence[View], rest: int) -> list[View]:
    return [dataclasses.replace(view, inner=view.inner.expanded(rest)) for view in side]


def _count(rule: Rule, found: Mapping[tuple[int, tuple[int, ...]], str], sizes: Sizes) -> None:
    """Find the sizes of axes that run over tensors.

    Raises:
        MisfitError: Their numbers are not 0, 1, 2, ...
    """
    for side in (rule.left, rule.right):
        for view in side:
            if view.count > 1 and sizes.setdefault(view.outer[0], view.count) != view.count:
                raise MisfitError(f"{view.outer[0]} is {sizes[view.outer[0]]}, not {view.count}")
    for i, name in enumerate(rule.scanned[0]):
        numbers = {numbers[i] for _, numbers in found}
        lacking = next(n for n in itertools.count() if n not in numbers)
        if lacking < max(numbers):
            raise MisfitError(f"there is no {name} {lacking}, but a {max(numbers)}")
        if sizes.setdefault(name, len(numbers)) != len(numbers):
            raise MisfitError(f"{name} is {sizes[name]}, not {len(numbers)}")


def _places(view: View, sizes: Mapping[str, int]) -> list[tuple[int, dict[str, int]]]:
    """Return the place among the rule's names, and the scanned numbers, of each of its tensors."""
    scanned = view.outer[view.count > 1 :]
    grid = itertools.product(*(range(sizes[name]) for name in scanned))
    numbers = [dict(zip(scanned, each, strict=True)) for each in grid]
    return [(view.first + i, each) for i in range(view.count) for each in numbers]


def _along(side: Sequence[View], names: Sequence[Any], sizes: Sizes) -> list[tuple[View, Any]]:
    """Return each tensor's view and name."""
    each = [view for view in side for _ in _places(view, sizes)]
    return list(zip(each, names, strict=True))


def _sources(
    rule: Rule,
    left: Sequence[View],
    found: Mapping[tuple[int, tuple[int, ...]], str],
    values: Mapping[str, str],
    sizes: Sizes,
) -> list[str]:
    names = []
    for view in left:
        for place, numbers in _places(view, sizes):
            key = (place, tuple(numbers[name] for name in rule.scanned[0] if name in numbers))
            if key not in found:
                text = rule.patterns[place].text
                which = ", ".join(f"{k} {v}" for k, v in (dict(values) | numbers).items())
                at = f" (group {which})" if which else ""
                raise MisfitError(f"nothing fits {text!r}{at}")
            names.append(found[key])
    return names


def _targets(
    rule: Rule, right: Sequence[View], values: Mapping[str, str], sizes: Sizes
) -> list[str | None]:
    names: list[str | None] = []
    for view in right:
        for place, numbers in _places(view, sizes):
            each = rule.templates[place]
            texts = dict(values) | {name: str(number) for name, number in numbers.items()}
            names.append(None if each is None else each.expand(texts))
    return names


def _known(
    rule: Rule,
    right: Sequence[View],
    values: Mapping[str, str],
    sizes: Sizes,
    target: Mapping[str, Described],
) -> list[tuple[axes.Expression, Sequence[int]]]:
    """Return the right side's expressions, and the shapes of what the target has of them."""
    counted = [v for v in right if all(n in sizes for n in v.outer)]
    names = _targets(rule, counted, values, sizes)
    return [
        (view.inner, target[name].shape)
        for view, name in _along(counted, names, sizes)
        if name in target and len(target[name].shape) == len(view.inner.items)
    ]
