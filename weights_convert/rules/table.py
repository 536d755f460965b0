"""Tables of rules, and the plan that one makes for the tensors of two networks."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from parity.spec.errors import InputError, listed, shortened
from weights_convert.rules.rule import Rule, parse
from weights_convert.rules.step import ArraySpec, Described, Step, make_step

SIDES = ("reference", "port")
DIGITS = 9  # of the number of a layer or expert in a name


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a table makes of the tensors of one network.

    Attributes:
        steps: Applications of rules.
        idle: Names on the left that rules leave out, or that are spare.
        own: Names on the right that rules call its own.
        unmatched: Rules that nothing fits.
    """

    steps: tuple[Step, ...]
    idle: frozenset[str]
    own: frozenset[str]
    unmatched: tuple[Rule, ...]

    @functools.cached_property
    def made(self) -> dict[str, ArraySpec]:
        """Return every tensor that is made: name -> shape and dtype."""
        return {name: spec for step in self.steps for name, spec in step.made.items()}


@dataclasses.dataclass(frozen=True)
class Rules:
    """A table of rules, of which the first that fits a tensor counts.

    Attributes:
        rules: The rules.
        name: What messages begin with: a file, or `weights`.
        sides: What messages call the left side and the right side.
        forth: Of a table that was inverted: the table.
    """

    rules: tuple[Rule, ...]
    name: str = "weights"
    sides: tuple[str, str] = SIDES
    forth: Rules | None = None

    @classmethod
    def of(cls, given: Any, name: str = "weights", sizes: Mapping[str, Any] | None = None) -> Rules:
        """Parse a table: a sequence of rules, or a mapping of the port's names.

        Args:
            given: Rules; or the port's name -> the reference's, that and axes, or None.
            name: What messages begin with.
            sizes: Sizes of axes in all rules.

        Raises:
            InputError: Something in it is no rule, or a size is that of no rule's axis.
        """
        if isinstance(given, Mapping):
            given = [_of_entry(*entry) for entry in given.items()]
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise InputError(f"{name}: {given!r} is no table of rules")
        try:
            found = tuple(parse(r, i, sizes or {}) for i, r in enumerate(given, 1))
        except InputError as error:
            raise InputError(f"{name}: {error}") from error
        used = {axis for rule in found for axis in rule.formula.names()}
        if unused := [axis for axis in sizes or {} if axis not in used]:
            raise InputError(f"{name}: sizes: no rule has an axis {unused[0]}")
        return cls(found, name)

    def inverted(self) -> Rules:
        """Return the table of the way back.

        Raises:
            InputError: A rule has none.
        """
        if self.forth is not None:
            return self.forth
        try:
            back = tuple(rule.inverted() for rule in self.rules)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return Rules(back, self.name, (self.sides[1], self.sides[0]), self)

    def find(
        self, name: str, ndim: int, target: Collection[str] | None = None
    ) -> tuple[Rule, int, dict[str, str]] | None:
        """Return the rule that fits a tensor, which of its patterns, and the groups' texts.

        The first counts. On the way back, where two rules make tensors of one name, it is the
        first whose tensors the target has, if that is known.
        """
        first = None
        for rule, place, values in self._fitting(name, ndim):
            if self.forth is None:
                return rule, place, values
            if self.forth._makes(rule, place, values, ndim):
                if target is None or all(made in target for made in _made(rule, values)):
                    return rule, place, values
                first = first or (rule, place, values)
        return first

    def _fitting(self, name: str, ndim: int) -> Iterator[tuple[Rule, int, dict[str, str]]]:
        for rule in self.rules:
            if found := rule.match(name, ndim):
                yield rule, *found

    def _makes(self, back: Rule, place: int, values: Mapping[str, str], ndim: int) -> bool:
        """Return whether it is by this rule that the table's way forth makes a tensor.

        Args:
            back: The rule's way back, which fits the tensor.
            place: Which of its patterns.
            values: The groups' texts.
            ndim: The tensor's number of axes.
        """
        return all(
            next((r.number for r in self.rules if r.match(name, axes)), 0) == back.number
            for name, axes in zip(_made(back, values), back.results(place, ndim), strict=True)
        )

    def plan(
        self,
        source: Mapping[str, Described],
        target: Mapping[str, Described] | None = None,
        spare: Callable[[str], bool] = lambda name: False,
        strict: bool = True,
    ) -> Plan:
        """Say what becomes of each tensor, without its values.

        Args:
            source: Tensors of the left side: name -> anything that has a shape and a dtype.
            target: Tensors of the right side, if they are known: what is made must be there with
                that shape, and their shapes may tell sizes of axes.
            spare: Whether a tensor of the left side may be left out without a rule.
            strict: Whether every rule must fit a tensor.

        Raises:
            InputError: A tensor is left over, made twice, unknown to the right side or of another
                shape there, or a rule fits none.
        """
        try:
            return self._plan(source, target, spare, strict)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error

    def _plan(
        self,
        source: Mapping[str, Described],
        target: Mapping[str, Described] | None,
        spare: Callable[[str], bool],
        strict: bool,
    ) -> Plan:
        groups: dict[Any, tuple[Rule, dict[str, str], dict[Any, str]]] = {}
        idle, unused = set(), []
        matched: set[int] = set()
        for name, array in source.items():
            found = self.find(name, len(array.shape), target)
            if found is None:
                if spare(name):
                    idle.add(name)
                else:
                    unused.append(name)
                continue
            rule, place, values = found
            matched.add(rule.number)
            if not rule.templates:
                idle.add(name)
                continue
            numbers = tuple(_number(rule, name, axis, values.pop(axis)) for axis in rule.scanned[0])
            key = rule.number, tuple(sorted(values.items()))
            _, _, names = groups.setdefault(key, (rule, values, {}))
            if (place, numbers) in names:
                texts = [each.text for each in rule.templates if each]
                both = f"{names[place, numbers]} and {name} both become {listed(texts)}"
                raise InputError(f"{rule}: {both}")
            names[place, numbers] = name
        if unused:
            raise InputError(self._no_rule(unused, source))
        steps = tuple(make_step(*group, source, target) for group in groups.values())
        _refuse_twice(steps)
        own = self._own(target, matched)
        if target is not None:
            self._refuse_unknown(steps, target)
        unmatched = tuple(r for r in self.rules if r.number not in matched)
        if strict and unmatched:
            raise InputError(f"{unmatched[0]}: nothing of the {self.sides[0]} fits it")
        return Plan(steps, frozenset(idle), own, unmatched)

    def _no_rule(self, unused: Sequence[str], source: Mapping[str, Described]) -> str:
        text = f"no rule for {listed(unused)} of the {self.sides[0]}"
        ndim = len(source[unused[0]].shape)
        near = next((r for r in self.rules if r.match(unused[0])), None)
        return text if near is None else f"{text}; {near} does not fit its {ndim} axes"

    def _own(self, target: Mapping[str, Any] | None, matched: set[int]) -> frozenset[str]:
        own: set[str] = set()
        for rule in self.rules:
            if rule.own is not None:
                found = {n for n in target or () if rule.own.match(n) is not None}
                if target is not None and not found:
                    raise InputError(f"{rule}: the {self.sides[1]} has no {rule.own.text}")
                own |= found
                matched.add(rule.number)
        return frozenset(own)

    def _refuse_unknown(self, steps: Sequence[Step], target: Mapping[str, Described]) -> None:
        made = {n: spec for step in steps for n, spec in step.made.items()}
        if unknown := [name for name in made if name not in target]:
            raise InputError(f"the {self.sides[1]} has no {listed(unknown)}")
        for name, spec in made.items():
            if spec.shape != tuple(target[name].shape):
                raise InputError(
                    f"{name} would be {spec.shape}, but the {self.sides[1]}'s is"
                    f" {tuple(target[name].shape)}"
                )


def _made(rule: Rule, values: Mapping[str, str]) -> list[str]:
    """Return the names of what a rule makes; of many that an axis numbers, the first's."""
    texts = {**dict.fromkeys(rule.scanned[1], "0"), **values}
    return [each.expand(texts) if each else "" for each in rule.templates]


def _of_entry(name: str, entry: Any) -> tuple[Any, ...]:
    """Return the rule that an entry of a mapping stands for."""
    if entry is None:
        return None, re.escape(name)
    if isinstance(entry, str):
        entry = (entry, None)
    if not isinstance(entry, Sequence) or len(entry) != 2:
        raise InputError(f"weights: {name} is {entry!r}, expected (the reference's name, axes)")
    return re.escape(entry[0]), name.replace("\\", r"\\"), entry[1]


def _number(rule: Rule, name: str, axis: str, text: str) -> int:
    if not text.isdecimal() or len(text) > DIGITS:
        expected = f"expected a number of at most {DIGITS} digits"
        raise InputError(f"{rule}: {axis} of {name} is {shortened(repr(text), 40)}, {expected}")
    if text != str(int(text)):  # it would come back under another name
        raise InputError(f"{rule}: {axis} of {name} is {text!r}, expected {int(text)}")
    return int(text)


def _refuse_twice(steps: Sequence[Step]) -> None:
    makers: dict[str, Step] = {}
    for step in steps:
        for name in filter(None, step.targets):
            if name in makers:
                other = makers[name].sources[0]
                raise InputError(f"{other} and {step.sources[0]} both become {name}")
            makers[name] = step
