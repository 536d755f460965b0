"""Assigning the reference's tensors to the port's, by a map, rules, a function or by value."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np

from parity.capture.records import Arrays, transposed
from parity.ladder.axes import Axes, equal_axes, usual_axes
from parity.ladder.constants import close
from parity.ladder.elements import Converter, Elements, Watched, followed, repeated, whole_tensors
from parity.ladder.ruled import COUNTER, Ruled, apply_table, table_of
from parity.spec.errors import InputError, listed
from weights_convert.rules import Rules

# Port's parameter or buffer -> the reference's, and the reference's axes in the port's order.
WeightMap = Mapping[str, tuple[str, Axes]]

# The same as an author gives it; None: the port's own.
GivenMap = Mapping[str, tuple[str, Axes] | str | None]

# A table of rules (see `weights_convert.rules`), the same as a list, or the name of its file.
Table = Rules | Sequence[Sequence[Any]] | str | Path

Weights = GivenMap | Table | Converter | None

# Last parts of names that mean the same in the reference and in a port.
SYNONYMS = {
    "weight": {"kernel", "scale", "weight", "w", "embedding", "negative_slope", "gamma"},
    "bias": {"bias", "b", "beta", "offset"},
    "running_mean": {"mean", "running_mean", "moving_mean"},
    "running_var": {"var", "running_var", "moving_variance"},
}


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Where each tensor of the port comes from.

    Attributes:
        map: The port's name -> the reference's, and the axes.
        arrays: The port's weights, by its names; None where it holds its weights already.
        derived: Names of the port's tensors that a function made of several, or changed.
        idle: Names of the reference's tensors that need no counterpart.
        tied: Those of the idle ones that share memory with one that has a counterpart.
        parts: Derived tensor's name -> the elements of the reference's that it consists of, if it
            does.
        repeated: Names of tensors with an element that occurs more than once: its gradient is only
            part of the reference's.
        own: Names of the port's tensors that are its own, as its author says.
        constants: Names of those in `map` whose counterpart is no weight, but a non-persistent
            buffer -> the port's own values.
    """

    map: dict[str, tuple[str, Axes]]
    arrays: Arrays | None = None
    derived: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    tied: frozenset[str] = frozenset()
    parts: Mapping[str, Elements] = dataclasses.field(default_factory=dict)
    repeated: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()
    constants: Arrays = dataclasses.field(default_factory=dict)

    @property
    def fixed(self) -> frozenset[str]:
        """Names of the port's tensors that no weight of the reference's goes into."""
        return self.own | frozenset(self.constants)


def assign(
    weights: Weights,
    source: Arrays,
    target: Arrays,
    filled: bool,
    constants: Mapping[str, np.ndarray] = MappingProxyType({}),
    uses: tuple[Sequence[str], Sequence[str]] = ((), ()),
) -> Assignment:
    """Decide where each tensor of the port comes from.

    Args:
        weights: A map, rules, a function, or None: both sides hold the same values, by which the
            tensors are found.
        source: The reference's tensors by name, in their order.
        target: The port's tensors by name.
        filled: Whether the port holds its weights already; then nothing is refused here, and L0
            says what is wrong.
        constants: The reference's non-persistent buffers by name. They need no counterpart; what
            nothing else fills is compared with the one that it equals up to float32's rounding.
        uses: Layers of the reference and of the port in the order in which they are used, by which
            equal tensors are matched whose names say nothing.

    Raises:
        InputError: A tensor is left over on either side, named twice, unknown or of another shape.
    """
    if weights is None:
        return _with_constants(Assignment(by_value(source, target, uses)), target, constants)
    if callable(weights):
        return _converted(weights, source, target, constants)
    if isinstance(weights, Mapping):
        own = frozenset(name for name, entry in weights.items() if entry is None)
        found = {n: _entry(n, entry) for n, entry in weights.items() if entry is not None}
        made = Ruled(found, {}, frozenset(), own)
    elif (table := table_of(weights)) is not None:
        made = apply_table(*table, source, target, constants)
    else:
        raise InputError(f"weights are {weights!r}, expected a mapping, rules or a function")
    return _ruled(made, source, target, filled, constants)


def _ruled(
    by: Ruled, source: Arrays, target: Arrays, filled: bool, constants: Mapping[str, np.ndarray]
) -> Assignment:
    """Make the port's tensors as a mapping or rules say."""
    tied = _tied(source, by.used())
    made = Assignment(
        by.map,
        derived=frozenset(by.parts),
        idle=by.idle | tied,
        tied=frozenset(tied),
        parts=by.parts,
        repeated=repeated(by.map, by.parts, source) if by.parts else frozenset(),
        own=by.own,
    )
    if filled:
        return made
    made = _with_constants(made, target, constants)
    every = source | dict(constants)
    _refuse(made, source, target, every)
    arrays = {name: transposed(every[key], axes) for name, (key, axes) in made.map.items()}
    _refuse_shapes({n: a.shape for n, a in arrays.items()}, target)
    for name, part in made.parts.items():
        array = part.gathered(source, {})
        assert array is not None  # all of it is in the source
        arrays[name] = array
    return dataclasses.replace(made, arrays={n: target[n] for n in made.own} | arrays)


def _with_constants(
    made: Assignment, target: Arrays, constants: Mapping[str, np.ndarray]
) -> Assignment:
    """Pair what nothing fills with the non-persistent buffers of the reference that it equals."""
    found = {n: target[n] for n, (key, _) in made.map.items() if key in constants and n in target}
    pairs: dict[str, tuple[str, Axes]] = {}
    for name, array in target.items():
        known = name in made.map or name in made.own or name in made.derived
        if known or name in (made.arrays or {}):
            continue
        keys = sorted(constants, key=lambda k: not _same_leaf(k, name))
        for key in keys:
            axes = equal_axes(constants[key], array, close)
            # A table of zeros equals any other; only its name tells that it is the same.
            if axes is not False and (_same_leaf(key, name) or np.unique(array).size > 1):
                pairs[name] = (key, cast(Axes, axes))
                found[name] = array
                break
    if not found:
        return made
    arrays = made.arrays
    if arrays is None and pairs:  # the port holds its weights
        arrays = dict(target)
    if arrays is not None:
        arrays |= {name: transposed(constants[key], axes) for name, (key, axes) in pairs.items()}
    return dataclasses.replace(made, map=made.map | pairs, arrays=arrays, constants=found)


def _same_leaf(key: str, name: str) -> bool:
    return key.rpartition(".")[2] == name.rpartition(".")[2]


def _entry(name: str, entry: Any) -> tuple[str, Axes]:
    """Parse one entry of a mapping."""
    if isinstance(entry, str):
        return entry, None
    if not isinstance(entry, Sequence) or len(entry) != 2:
        raise InputError(
            f"weights: {name} is {entry!r}, expected the reference's name, or (name, axes)"
        )
    return entry[0], entry[1]


def _tied(source: Arrays, used: set[str]) -> set[str]:
    """Return names of tensors that share their memory with one that is used."""
    memory = {_memory(source[key]) for key in used if key in source}
    return {k for k, a in source.items() if k not in used and a.size and _memory(a) in memory}


def _copies(source: Arrays, extra: Arrays) -> set[str]:
    """Return names of arrays that a tensor of several names fills: a port may hold it once."""
    names = Counter(_memory(array) for array in source.values() if array.size)
    several = [array for array in source.values() if array.size and names[_memory(array)] > 1]
    return {
        name
        for name, array in extra.items()
        if any(equal_axes(one, array, np.array_equal) is not False for one in several)
    }


def _memory(array: np.ndarray) -> Any:
    return array.__array_interface__["data"][0], array.shape, array.strides


def by_value(
    source: Arrays, target: Arrays, uses: tuple[Sequence[str], Sequence[str]] = ((), ())
) -> dict[str, tuple[str, Axes]]:
    """Find the tensor of the reference that each of the port's equals up to a permutation.

    Where several do, as fresh norms do, names decide: the whole name, the layer already found, the
    last part, how many parts are in common; else the order of use, as far as it is known; else the
    order, with numbers in names as numbers. What nothing equals is given what fits its name and
    shape, so that L0 can show both.

    Args:
        source: The reference's tensors by name, in their order.
        target: The port's tensors by name.
        uses: As for `assign`.
    """
    ours, theirs = ({layer: i for i, layer in enumerate(each)} for each in uses)
    alike: dict[Any, list[str]] = defaultdict(list)
    for key, array in source.items():
        alike[_fingerprint(array)].append(key)
    candidates = {name: alike.get(_fingerprint(a), []) for name, a in target.items()}
    found: dict[str, tuple[str, Axes]] = {}
    taken: set[str] = set()
    layers: dict[str, str] = {}  # of the port -> of the reference
    for exact in (True, False):
        rest = [name for name in target if name not in found]
        for name in sorted(
            rest, key=lambda n: (len(candidates[n]), _place(theirs, n), _natural(n))
        ):
            keys = candidates[name] if exact else list(source)
            options = [k for k in keys if k not in taken and (exact or _fits(k, name))]
            options.sort(key=functools.partial(_place, ours))
            options.sort(key=functools.partial(_unlikeness, name, layers.get(_layer(name))))
            for key in options:
                axes = (
                    equal_axes(source[key], target[name], np.array_equal)
                    if exact
                    else usual_axes(source[key], target[name])
                )
                if axes is not False:
                    found[name] = (key, cast(Axes, axes))
                    taken.add(key)
                    layers.setdefault(_layer(name), _layer(key))
                    break
    return {name: found[name] for name in target if name in found}


def _unlikeness(name: str, layer: str | None, key: str) -> tuple:
    """Return what orders the reference's tensors that a port's may be, the likeliest first.

    Args:
        name: The port's tensor.
        layer: The reference's layer of which other tensors were found in the port's, if known.
        key: The reference's tensor.
    """
    common = Counter(_layer(name).split(".")) & Counter(_layer(key).split("."))
    return key != name, layer != _layer(key), not _fits(key, name), -common.total()


def _place(uses: Mapping[str, int], name: str) -> int:
    """Return the place of a tensor's layer in the order of use; unknown ones come last."""
    return uses.get(_layer(name), len(uses))


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what orders names with the numbers in them as numbers."""
    return [(int(p), "") if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]


def _fingerprint(array: np.ndarray) -> Any:
    values = np.sort(array.astype(np.float64), axis=None)
    return tuple(sorted(array.shape)), values.tobytes()


def _fits(key: str, name: str) -> bool:
    last = key.rpartition(".")[2]
    return name.rpartition(".")[2] in SYNONYMS.get(last, {last})


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _converted(
    convert: Converter,
    source: Arrays,
    target: Arrays,
    constants: Mapping[str, np.ndarray],
) -> Assignment:
    """Let a function make the port's tensors, and watch which of the reference's it reads."""
    read = Watched(source)
    try:
        arrays = convert(read)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"weights: the function raised {reason}") from error
    if not isinstance(arrays, Mapping):
        raise InputError(f"weights: the function gave a {type(arrays).__name__}, expected a dict")
    own = frozenset(name for name, array in arrays.items() if array is None)
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    copies = _copies(source, {n: a for n, a in arrays.items() if n not in target})
    arrays = {name: array for name, array in arrays.items() if name not in copies}
    spare = _tied(source, read.seen)
    unread = [k for k in source if k not in read.seen | spare and k.rpartition(".")[2] != COUNTER]
    if unread:
        raise InputError(f"weights: the function does not read {listed(unread)} of the reference")
    made = _with_constants(Assignment({}, dict(arrays), own=own), target, constants)
    if missing := [n for n in target if n not in own and n not in (made.arrays or {})]:
        raise InputError(
            f"weights: the function gives no {listed(missing)} of the port; {_way(missing[0])}"
        )
    if unknown := [name for name in (*arrays, *own) if name not in target]:
        raise InputError(f"weights: the port has no {listed(unknown)}")
    _refuse_shapes({n: a.shape for n, a in arrays.items()}, target)
    parts = followed(convert, source, arrays)
    same = whole_tensors(parts, source)
    parts = {name: part for name, part in parts.items() if name not in same}
    rest = {n: a for n, a in arrays.items() if n not in same and n not in parts}
    free = {k: a for k, a in source.items() if k not in {key for key, _ in same.values()}}
    same |= {
        name: (key, axes)
        for name, (key, axes) in by_value(free, rest).items()
        if np.array_equal(transposed(source[key], axes), arrays[name])
    }
    used = {key for key, _ in same.values()} | {k for part in parts.values() for k in part.keys}
    kept = {n: transposed(source[key], axes) for n, (key, axes) in same.items()}
    kept = {n: a for n, a in kept.items() if _equal(a, arrays[n])}  # held once
    return Assignment(
        same | made.map,
        {name: target[name] for name in own} | (made.arrays or {}) | kept,
        frozenset(arrays) - frozenset(same),
        frozenset(source) - {key for key, _ in same.values()},
        frozenset(spare | _tied(source, used)),
        parts,
        repeated(same, parts, source),
        own,
        made.constants,
    )


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and np.array_equal(one, other)


def _refuse(made: Assignment, source: Arrays, target: Arrays, every: Arrays) -> None:
    """Refuse what is unknown or left over.

    Args:
        made: The assignment.
        source: The reference's tensors, each of which must be used.
        target: The port's.
        every: The reference's tensors and its constants.
    """
    found, idle = made.map, made.idle
    if unknown := [name for name in (*found, *sorted(made.own)) if name not in target]:
        raise InputError(f"weights: the port has no {listed(unknown)}")
    if unknown := [key for key, _ in found.values() if key not in every]:
        raise InputError(f"weights: the reference has no {listed(unknown)}")
    filled = {*found, *made.parts, *made.own}
    if empty := [name for name in target if name not in filled]:
        raise InputError(f"weights: nothing fills {listed(empty)} of the port; {_way(empty[0])}")
    used = {key for key, _ in found.values()} | idle
    used |= {key for part in made.parts.values() for key in part.keys}
    unused = [k for k in source if k not in used and k.rpartition(".")[2] != COUNTER]
    if unused:
        raise InputError(f"weights: nothing uses {listed(unused)} of the reference")
    for key, axes in found.values():
        if axes is not None and sorted(axes) != list(range(every[key].ndim)):
            raise InputError(f"weights: {axes} is no permutation of {key}'s {every[key].ndim} axes")


def _way(name: str) -> str:
    """Return how to say that a tensor has no counterpart."""
    return (
        f"if it is a constant of the port's own, say so: (None, {re.escape(name)!r}) in rules,"
        f" {name!r}: None in a mapping or in what a function gives"
    )


def _refuse_shapes(shapes: Mapping[str, tuple[int, ...]], target: Arrays) -> None:
    for name, shape in shapes.items():
        if shape != target[name].shape:
            raise InputError(
                f"weights: {name} would be {shape}, but the port's is {target[name].shape}"
            )
