"""One rule: which names it fits, what becomes of them, and how the axes are rearranged."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from parity.spec.errors import InputError
from weights_convert.rules import axes as axes_
from weights_convert.rules.axes import Expression, Formula, MisfitError, Sizes
from weights_convert.rules.names import WHOLE, Pattern, Template, invert, pattern, template

Order = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        number: Its place in the table, from 1.
        text: What a message calls it: how its author wrote it.
        patterns: Of the names on the left; none: what `templates` says is the target's own.
        templates: The names on the right, None for a part that is left out; none: the source's
            tensors are left out.
        formula: The axes.
        sizes: Sizes of axes that shapes do not tell.
        orders: Axis -> the left item that each right one is.
        own: In a rule without patterns: which names of the target are its own.
    """

    number: int
    text: str
    patterns: tuple[Pattern, ...]
    templates: tuple[Template | None, ...]
    formula: Formula = axes_.AS_IS
    sizes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    orders: Mapping[str, Order] = dataclasses.field(default_factory=dict)
    own: Pattern | None = None

    @functools.cached_property
    def scanned(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the axes that run over tensors by a group of their name, on either side."""
        if not self.patterns or not self.templates:
            return (), ()
        groups = set(self.patterns[0].groups.values())
        left = {n for e in self.formula.left for n in e.names()} & groups
        named = {key for t in self.templates if t for key in t.groups()}
        right = {n for e in self.formula.right for n in e.names()} & named
        return tuple(sorted(left)), tuple(sorted(right))

    @functools.cached_property
    def left(self) -> list[View]:
        """Return how the tensors of the left side are arranged."""
        return views(self.formula.left, len(self.patterns), self.scanned[0])

    @functools.cached_property
    def right(self) -> list[View]:
        """Return how the tensors of the right side are arranged."""
        return views(self.formula.right, len(self.templates), self.scanned[1])

    @functools.cached_property
    def quotes(self) -> bool:
        """Return whether a name on the right repeats the whole name on the left."""
        return any(WHOLE in each.groups() for each in filter(None, self.templates))

    def fits(self, place: int, ndim: int) -> bool:
        """Return whether an array with so many axes fits the expression of a pattern."""
        if not self.templates:
            return True
        return _inner(self.left, place).rest(ndim) is not None

    def results(self, place: int, ndim: int) -> list[int]:
        """Return how many axes each result has, where a pattern fits an array with so many."""
        if not self.templates:
            return []
        rest = _inner(self.left, place).rest(ndim) or 0
        inner = [_inner(self.right, i) for i in range(len(self.templates))]
        return [len(each.items) - each.open + (rest if each.open else 0) for each in inner]

    def match(self, name: str, ndim: int | None = None) -> tuple[int, dict[str, str]] | None:
        """Return which pattern fits a name, and its groups' texts."""
        for place, each in enumerate(self.patterns):
            found = each.match(name)
            if found is not None and self.quotes:
                found[WHOLE] = name
            if found is not None and (ndim is None or self.fits(place, ndim)):
                return place, found
        return None

    def inverted(self) -> Rule:
        """Return the rule of the way back.

        Raises:
            InputError: There is none, for something is left out or a pattern says too little.
        """
        if self.own is not None:
            return dataclasses.replace(self, patterns=(self.own,), own=None)
        if not self.templates:
            return dataclasses.replace(self, patterns=(), own=self.patterns[0])
        if None in self.templates:
            raise InputError(f"{self} has no way back: it leaves a part out")
        patterns, templates = self._inverted_names()
        return dataclasses.replace(
            self,
            patterns=patterns,
            templates=templates,
            formula=self.formula.inverted(),
            orders={name: _inverse(order) for name, order in self.orders.items()},
        )

    def _inverted_names(self) -> tuple[tuple[Pattern, ...], tuple[Template, ...]]:
        if self.quotes:
            raise InputError(f"{self} has no way back: it repeats a whole name")
        known = {key for t in self.templates if t for key in t.groups()} | set(self.scanned[0])
        for each in self.patterns:
            if each.parts is None:
                way = r"only groups may stand for many texts, and a dot is written \."
                raise InputError(f"{self} has no way back: {each.text!r}: {way}")
            if lost := [key for key in each.groups.values() if key not in known]:
                raise InputError(f"{self} has no way back: group {lost[0]} is in no name")
        regexes = [invert(self.patterns[0], t)[0] for t in self.templates if t]
        found = tuple(map(pattern, regexes))
        names = [invert(p, self.templates[0])[1] for p in self.patterns if self.templates[0]]
        return found, tuple(template(name, {}) for name in names)

    def __str__(self) -> str:
        return f"rule {self.number}, {self.text}"


@dataclasses.dataclass(frozen=True)
class View:
    """Tensors that are one array to an expression.

    Attributes:
        first: The place of its first name among those of the rule's side.
        count: How many names it has.
        outer: Axes that run over tensors: that of the names, then scanned ones.
        inner: The axes of each tensor.
    """

    first: int
    count: int
    outer: tuple[str, ...]
    inner: Expression


def views(side: Sequence[Expression], count: int, scanned: Sequence[str]) -> list[View]:
    """Return how the tensors of one side are arranged.

    Raises:
        MisfitError: There are more or fewer expressions than names.
    """
    if len(side) == count:
        places = [(i, 1, e) for i, e in enumerate(side)]
    elif len(side) == 1:
        places = [(0, count, side[0])]
    else:
        raise MisfitError(f"{len(side)} expressions for {count} name{'s' * (count > 1)}")
    found = []
    for first, number, expression in places:
        outer = [n for n in scanned if n in expression.names()]
        if number > 1:
            head = expression.items[0]
            if len(head) > 1 or len(head[0]) != 1 or head[0][0] in (*outer, axes_.REST):
                raise MisfitError(f"the first axis of '{expression}' runs over the {number} names")
            outer = [head[0][0], *outer]
        found.append(View(first, number, tuple(outer), expression.without(outer)))
    return found


def _inner(side: Sequence[View], place: int) -> Expression:
    return next(v.inner for v in side if v.first <= place < v.first + v.count)


def _inverse(order: Order) -> Order:
    return tuple(order.index(i) for i in range(len(order)))


def parse(given: Any, number: int, common: Mapping[str, Any]) -> Rule:
    """Parse a rule.

    Args:
        given: `(pattern, name)`, `(pattern, name, axes)` or `(pattern, name, axes, sizes)`.
        number: Its place in the table, from 1.
        common: Sizes of axes in all rules.

    Raises:
        InputError: It is none.
    """
    if isinstance(given, str) or not isinstance(given, Sequence) or len(given) not in (2, 3, 4):
        raise InputError(f"{given!r} is no rule: (pattern, name in the port, axes)")
    sources, targets, *rest = given
    text = f"({', '.join(map(repr, given))})"
    names = [_names(sources), _names(targets)]
    if None in (each for side in names if len(side) == 1 for each in side):
        raise InputError(f"{text} is no rule: it names nothing")
    if not any(names):
        raise InputError(f"{text} is no rule: the port has no {targets}")
    if not all(isinstance(n, str) for n in (*names[0], *filter(None, names[1]))):
        raise InputError(f"{text} is no rule: (pattern, name in the port, axes)")
    if not names[0]:
        if len(names[1]) != 1:
            raise InputError(f"{text} is no rule: one pattern of what is the port's own")
        return Rule(number, text, (), (), own=pattern(names[1][0]))
    patterns = tuple(map(pattern, names[0]))
    groups = patterns[0].groups
    if uneven := [p for p in patterns[1:] if set(p.groups.values()) != set(groups.values())]:
        raise InputError(f"{text} is no rule: {uneven[0].text!r} has other groups than the first")
    if not names[1]:
        if len(patterns) > 1:
            raise InputError(f"{text} is no rule: one pattern of what is left out")
        return Rule(number, text, patterns, ())
    templates = tuple(None if name is None else template(name, groups) for name in names[1])
    try:
        made = Rule(number, text, patterns, templates, _formula(rest[0] if rest else None))
        used = {
            n for side in (made.formula.left, made.formula.right) for e in side for n in e.names()
        }
        sizes, orders = _sizes(rest[1] if len(rest) > 1 else {}, common, used)
        made = dataclasses.replace(made, sizes=sizes, orders=orders)
        _refuse(made)
    except MisfitError as error:
        raise InputError(f"rule {number}, {text}: {error}") from error
    return made


def _names(given: Any) -> list[Any]:
    """Return the names of one side; an empty list for nothing."""
    if given is None:
        return []
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [given]
    return [None if name == [] else name for name in given]


def _formula(given: Any) -> Formula:
    if given is None or given == [] or given == "":
        return axes_.AS_IS
    if isinstance(given, str):
        return axes_.parse(given)
    if isinstance(given, Sequence) and sorted(given) == list(range(len(given))):
        return axes_.permutation(given)
    raise MisfitError(f"{given!r} is no permutation of axes and no text such as 'o i -> i o'")


def _sizes(own: Any, common: Mapping[str, Any], used: set[str]) -> tuple[Sizes, dict[str, Order]]:
    """Return the sizes of a rule's axes, and the orders of their items."""
    if not isinstance(own, Mapping):
        raise MisfitError(f"sizes are {own!r}, expected a mapping of axes to numbers")
    if unknown := [name for name in own if name not in used]:
        raise MisfitError(f"sizes: there is no axis {unknown[0]}")
    sizes: Sizes = {}
    orders: dict[str, Order] = {}
    for name, value in (dict(common) | dict(own)).items():
        if name not in used:
            continue
        if isinstance(value, str):
            orders[name] = _order(name, value)
            sizes[name] = len(orders[name])
        elif isinstance(value, int) and not isinstance(value, bool) and value > 0:
            sizes[name] = value
        else:
            raise MisfitError(f"the size of {name} is {value!r}, expected 1 or more")
    return sizes, orders


def _order(name: str, text: str) -> Order:
    """Parse the items of an axis on either side, such as `i f g o -> i o f g`."""
    sides = [side.split() for side in text.split("->")]
    if len(sides) != 2 or sorted(sides[0]) != sorted(sides[1]) or not sides[0]:
        raise MisfitError(f"{name} is {text!r}, expected the same items on both sides of '->'")
    if len(set(sides[0])) != len(sides[0]):
        raise MisfitError(f"{name} is {text!r}: an item is there twice")
    return tuple(sides[0].index(item) for item in sides[1])


def _refuse(rule: Rule) -> None:
    """Refuse a rule whose names and axes do not belong together.

    Raises:
        MisfitError: Says why.
    """
    left, right = rule.left, rule.right
    keys = [axes_.keys(side) for side in (rule.formula.left, rule.formula.right)]
    if len(set(keys[0])) < len(keys[0]) and len(rule.formula.left) == 1:
        raise MisfitError("two parts have the same axes")
    groups = set(rule.patterns[0].groups.values())
    for each in filter(None, rule.templates):
        for key in each.groups():
            if key not in (*groups, WHOLE) and key not in rule.scanned[1]:
                raise MisfitError(f"{each.text!r} refers to {key}, neither a group nor an axis")
    if len({v.inner.open for v in (*left, *right)}) > 1:
        raise MisfitError("'...' is on one side only")
