"""Tables of rules as a source of a port's weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.capture.records import Arrays
from parity.ladder.axes import Axes
from parity.ladder.elements import Elements, whole_tensors
from parity.spec.errors import InputError
from weights_convert import rules
from weights_convert.rules import Rules, Step

# Counters decide nothing where the momentum is fixed; a port may do without.
COUNTER = "num_batches_tracked"


def is_counter(name: str) -> bool:
    """Return whether a tensor counts batches."""
    return name.rpartition(".")[2] == COUNTER


@dataclasses.dataclass(frozen=True)
class Ruled:
    """What a table of rules makes of the reference's tensors.

    Attributes:
        map: The port's name -> the reference's that it is the whole of, and the axes.
        parts: The port's name -> the elements that it consists of; the others.
        idle: The reference's names that have no counterpart by the rules.
        own: The port's names that are its own by the rules.
    """

    map: dict[str, tuple[str, Axes]]
    parts: dict[str, Elements]
    idle: frozenset[str]
    own: frozenset[str]

    def used(self) -> set[str]:
        """Return the reference's names that something comes from."""
        whole = {key for key, _ in self.map.values()}
        return whole.union(*(part.keys for part in self.parts.values()))


def table_of(weights: Any) -> tuple[Rules, bool] | None:
    """Return the table that `Port.weights` is, and whether each of its rules must fit a tensor.

    A list in a program may be written for several networks; a file is kept beside one.

    Raises:
        InputError: A rule or the file is none.
    """
    if isinstance(weights, Rules):
        return weights, True
    if isinstance(weights, str | Path):
        return rules.load(weights), True
    if isinstance(weights, Sequence):
        return Rules.of(list(weights)), False
    return None


def apply_table(
    table: Rules,
    strict: bool,
    source: Arrays,
    target: Arrays,
    constants: Mapping[str, np.ndarray],
) -> Ruled:
    """Say where each of the port's tensors comes from.

    Args:
        table: The rules.
        strict: Whether each rule must fit a tensor.
        source: The reference's tensors.
        target: The port's tensors.
        constants: The reference's non-persistent buffers, which need no rule.

    Raises:
        InputError: A tensor has no rule, or one does not fit; see `Rules.plan`.
    """
    plan = table.plan(source, target, is_counter, strict)
    found, parts = {}, {}
    for step in plan.steps:
        axes = step.permutation()
        if axes is not None:
            (name,), (key,) = step.made, step.sources
            found[name] = key, None if axes == tuple(range(len(axes))) else axes
        else:
            parts |= _elements(step, source)
    whole = whole_tensors(parts, source)
    parts = {name: part for name, part in parts.items() if name not in whole}
    found |= whole | _of_constants(table, constants, target, {*found, *whole, *parts})
    idle = frozenset(key for key in plan.idle if not is_counter(key) or _ruled_out(table, key))
    return Ruled(found, parts, idle, plan.own)


def _ruled_out(table: Rules, key: str) -> bool:
    return any(rule.match(key) for rule in table.rules)


def _elements(step: Step, source: Arrays) -> dict[str, Elements]:
    """Follow every element through one application of a rule, by the elements' numbers."""
    numbers, start = {}, 0
    for key in step.sources:
        size = source[key].size
        numbers[key] = np.arange(start, start + size).reshape(source[key].shape)
        start += size
    made = step.apply(numbers, check=False)
    if step.merges:
        step.apply(source)  # refuses what is not equal
    return {name: _reduced(step.sources, index, source) for name, index in made.items()}


def _reduced(keys: Sequence[str], index: np.ndarray, source: Arrays) -> Elements:
    """Return elements with only those of the reference's tensors that they are part of."""
    sizes = np.array([source[key].size for key in keys])
    ends = np.cumsum(sizes)
    holders = np.searchsorted(ends, index.ravel(), side="right")
    used = np.unique(holders)
    shift = np.zeros(len(keys), np.int64)
    shift[used] = np.cumsum(sizes[used]) - ends[used]
    return Elements(tuple(keys[i] for i in used), index + shift[holders].reshape(index.shape))


def _of_constants(
    table: Rules, constants: Mapping[str, np.ndarray], target: Arrays, taken: set[str]
) -> dict[str, tuple[str, Axes]]:
    """Return the port's tensors that rules fill with non-persistent buffers."""
    found: dict[str, tuple[str, Axes]] = {}
    for key, array in constants.items():
        try:
            steps = table.plan({key: array}, None, lambda name: True, strict=False).steps
        except InputError:  # it is only a part of what a rule needs
            continue
        for step in steps:
            axes = step.permutation()
            if axes is not None and (name := next(iter(step.made))) in target.keys() - taken:
                found[name] = key, None if axes == tuple(range(len(axes))) else axes
    return found
