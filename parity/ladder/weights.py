"""Assigning the reference's tensors to the port's, by a map, rules, a function or by value."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np

from parity.capture.records import Arrays, is_float, transposed
from parity.ladder.elements import Elements, followed
from parity.spec.errors import InputError, listed

Axes = tuple[int, ...] | None

# Port's parameter or buffer -> the reference's, and the reference's axes in the port's order.
WeightMap = Mapping[str, tuple[str, Axes]]

# Rules, of which the first that fits the whole of the reference's name is taken: a pattern of `re`,
# what the port calls it (None: it has none), and the axes.
Rules = Sequence[tuple[str, str | None, Axes] | tuple[str, str | None]]

# From the reference's arrays by name to the port's.
Converter = Callable[[Arrays], Arrays]

Weights = WeightMap | Rules | Converter | None

# Counters decide nothing where the momentum is fixed; a port may do without.
COUNTER = "num_batches_tracked"

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
    """

    map: dict[str, tuple[str, Axes]]
    arrays: Arrays | None = None
    derived: frozenset[str] = frozenset()
    idle: frozenset[str] = frozenset()
    tied: frozenset[str] = frozenset()
    parts: Mapping[str, Elements] = dataclasses.field(default_factory=dict)
    repeated: frozenset[str] = frozenset()


def assign(weights: Weights, source: Arrays, target: Arrays, filled: bool) -> Assignment:
    """Decide where each tensor of the port comes from.

    Args:
        weights: A map, rules, a function, or None: both sides hold the same values, by which the
            tensors are found.
        source: The reference's tensors by name, in their order.
        target: The port's tensors by name.
        filled: Whether the port holds its weights already; then nothing is refused here, and L0
            says what is wrong.

    Raises:
        InputError: A tensor is left over on either side, named twice, unknown or of another shape.
    """
    if weights is None:
        return Assignment(by_value(source, target))
    if callable(weights):
        return _converted(weights, source, target)
    idle: set[str] = set()
    if isinstance(weights, Mapping):
        found = {name: _entry(name, entry) for name, entry in weights.items()}
    elif isinstance(weights, Sequence) and not isinstance(weights, str):
        found, idle = _by_rules(weights, source)
    else:
        raise InputError(f"weights are {weights!r}, expected a mapping, rules or a function")
    tied = _tied(source, {key for key, _ in found.values()})
    idle |= tied
    if filled:
        return Assignment(found, idle=frozenset(idle), tied=frozenset(tied))
    _refuse(found, source, target, idle)
    arrays = {name: transposed(source[key], axes) for name, (key, axes) in found.items()}
    _refuse_shapes({n: a.shape for n, a in arrays.items()}, target)
    return Assignment(found, arrays, idle=frozenset(idle), tied=frozenset(tied))


def _entry(name: str, entry: Any) -> tuple[str, Axes]:
    """Parse one entry of a mapping."""
    if isinstance(entry, str) or not isinstance(entry, Sequence) or len(entry) != 2:
        raise InputError(f"weights: {name} is {entry!r}, expected (the reference's name, axes)")
    return entry[0], entry[1]


def _tied(source: Arrays, used: set[str]) -> set[str]:
    """Names of tensors that share their memory with one that is used."""
    memory = {_memory(source[key]) for key in used if key in source}
    return {k for k, a in source.items() if k not in used and a.size and _memory(a) in memory}


def _memory(array: np.ndarray) -> Any:
    return array.__array_interface__["data"][0], array.shape, array.strides


def by_value(source: Arrays, target: Arrays) -> dict[str, tuple[str, Axes]]:
    """Find the tensor of the reference that each of the port's equals up to a permutation.

    Where several do, names decide: of the last part, and of layers already found; else the order.
    What nothing equals is given what fits its name and shape, so that L0 can show both.
    """
    alike: dict[Any, list[str]] = defaultdict(list)
    for key, array in source.items():
        alike[_fingerprint(array)].append(key)
    candidates = {name: alike.get(_fingerprint(a), []) for name, a in target.items()}
    found: dict[str, tuple[str, Axes]] = {}
    taken: set[str] = set()
    layers: dict[str, str] = {}  # of the port -> of the reference
    for exact in (True, False):
        rest = [name for name in target if name not in found]
        for name in sorted(rest, key=lambda n: len(candidates[n])):
            keys = candidates[name] if exact else list(source)
            options = [k for k in keys if k not in taken and (exact or _fits(k, name))]
            options.sort(key=lambda k: (layers.get(_layer(name)) != _layer(k), not _fits(k, name)))
            for key in options:
                axes = _axes(source[key], target[name], exact)
                if axes is not False:
                    found[name] = (key, cast(Axes, axes))
                    taken.add(key)
                    layers.setdefault(_layer(name), _layer(key))
                    break
    return {name: found[name] for name in target if name in found}


def _fingerprint(array: np.ndarray) -> Any:
    values = np.sort(array.astype(np.float64), axis=None)
    return tuple(sorted(array.shape)), values.tobytes()


def _axes(source: np.ndarray, target: np.ndarray, exact: bool) -> Axes | bool:
    """The permutation that makes `target` of `source`, False if there is none."""
    identity = tuple(range(source.ndim))
    if source.ndim != target.ndim:
        return False
    if not exact:
        usual = {4: (2, 3, 1, 0), 2: (1, 0)}.get(source.ndim, identity)
        for axes in (usual, identity):
            if source.transpose(axes).shape == target.shape:
                return None if axes == identity else axes
        return False
    for axes in itertools.permutations(identity):
        if source.transpose(axes).shape == target.shape and np.array_equal(
            source.transpose(axes), target
        ):
            return None if axes == identity else axes
    return False


def _fits(key: str, name: str) -> bool:
    last = key.rpartition(".")[2]
    return name.rpartition(".")[2] in SYNONYMS.get(last, {last})


def _layer(name: str) -> str:
    return name.rpartition(".")[0]


def _by_rules(rules: Rules, source: Arrays) -> tuple[dict[str, tuple[str, Axes]], set[str]]:
    found: dict[str, tuple[str, Axes]] = {}
    idle: set[str] = set()
    unused = []
    for rule in rules:
        if isinstance(rule, str) or not isinstance(rule, Sequence) or len(rule) not in (2, 3):
            raise InputError(f"weights: {rule!r} is no rule: (pattern, name in the port, axes)")
    for key in source:
        for pattern, template, *axes in rules:
            if match := _matched(pattern, key):
                if template is None:
                    idle.add(key)
                    break
                name = _expanded(match, template)
                if name in found:
                    raise InputError(f"weights: {key} and {found[name][0]} both become {name}")
                found[name] = (key, axes[0] if axes else None)
                break
        else:
            if key.rpartition(".")[2] != COUNTER:
                unused.append(key)
    if unused:
        raise InputError(f"weights: no rule for {listed(unused)} of the reference")
    return found, idle


def _matched(pattern: str, key: str) -> re.Match[str] | None:
    try:
        return re.fullmatch(pattern, key)
    except re.error as error:
        raise InputError(f"weights: {pattern!r} is no pattern: {error}") from error


def _expanded(match: re.Match[str], template: str) -> str:
    try:
        return match.expand(template)
    except (re.error, IndexError) as error:
        raise InputError(f"weights: {template!r} is no template: {error}") from error


def _converted(convert: Converter, source: Arrays, target: Arrays) -> Assignment:
    """Let a function make the port's tensors, and watch which of the reference's it reads."""
    read = Watched(source)
    try:
        arrays = convert(read)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise InputError(f"weights: the function raised {reason}") from error
    if not isinstance(arrays, Mapping):
        raise InputError(f"weights: the function gave a {type(arrays).__name__}, expected a dict")
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    spare = _tied(source, read.seen)
    unread = [k for k in source if k not in read.seen | spare and k.rpartition(".")[2] != COUNTER]
    if unread:
        raise InputError(f"weights: the function does not read {listed(unread)} of the reference")
    if missing := [name for name in target if name not in arrays]:
        raise InputError(f"weights: the function gives no {listed(missing)} of the port")
    if extra := [name for name in arrays if name not in target]:
        raise InputError(f"weights: the port has no {listed(extra)}")
    _refuse_shapes({n: a.shape for n, a in arrays.items()}, target)
    parts = followed(convert, source, arrays)
    same = _whole(parts, source)
    parts = {name: part for name, part in parts.items() if name not in same}
    rest = {n: a for n, a in arrays.items() if n not in same and n not in parts}
    free = {k: a for k, a in source.items() if k not in {key for key, _ in same.values()}}
    same |= {
        name: (key, axes)
        for name, (key, axes) in by_value(free, rest).items()
        if np.array_equal(transposed(source[key], axes), arrays[name])
    }
    return Assignment(
        same,
        arrays,
        frozenset(arrays) - frozenset(same),
        frozenset(source) - {key for key, _ in same.values()},
        frozenset(spare),
        parts,
        _repeated(same, parts, source),
    )


def _whole(parts: Mapping[str, Elements], source: Arrays) -> dict[str, tuple[str, Axes]]:
    """Return those derived tensors that are one whole tensor of the reference, transposed."""
    found: dict[str, tuple[str, Axes]] = {}
    taken: set[str] = set()
    for name, part in parts.items():
        key = part.keys[0]
        axes = part.axes(source[key].shape)
        if axes is not None and key not in taken:
            found[name] = (key, None if axes == tuple(range(len(axes))) else axes)
            taken.add(key)
    return found


def _repeated(same: WeightMap, parts: Mapping[str, Elements], source: Arrays) -> frozenset[str]:
    """Names of what holds an element that is held elsewhere too."""
    uses = {key: np.zeros(array.size, np.int64) for key, array in source.items()}
    for key, _ in same.values():
        uses[key] += 1
    for part in parts.values():
        counts = np.bincount(part.index.ravel(), minlength=sum(uses[k].size for k in part.keys))
        start = 0
        for key in part.keys:
            uses[key] += counts[start : start + uses[key].size]
            start += uses[key].size
    held = {name: part.gathered(uses, {}) for name, part in parts.items()}
    return frozenset(n for n, count in held.items() if count is not None and (count > 1).any())


class Watched(dict[str, np.ndarray]):
    """A dictionary that remembers which keys were read."""

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.seen: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # with its own `__iter__`, `dict` copies through `__getitem__`

    def __getitem__(self, key: str) -> np.ndarray:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - marks it as read

    def pop(self, key: str, *default: Any) -> Any:
        self.seen.add(key)
        return super().pop(key, *default)

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]


def _refuse(found: WeightMap, source: Arrays, target: Arrays, idle: set[str]) -> None:
    if unknown := [name for name in found if name not in target]:
        raise InputError(f"weights: the port has no {listed(unknown)}")
    if unknown := [key for key, _ in found.values() if key not in source]:
        raise InputError(f"weights: the reference has no {listed(unknown)}")
    if empty := [name for name in target if name not in found]:
        raise InputError(f"weights: nothing fills {listed(empty)} of the port")
    used = {key for key, _ in found.values()} | idle
    unused = [k for k in source if k not in used and k.rpartition(".")[2] != COUNTER]
    if unused:
        raise InputError(f"weights: nothing uses {listed(unused)} of the reference")
    for key, axes in found.values():
        if axes is not None and sorted(axes) != list(range(source[key].ndim)):
            raise InputError(
                f"weights: {axes} is no permutation of {key}'s {source[key].ndim} axes"
            )


def _refuse_shapes(shapes: Mapping[str, tuple[int, ...]], target: Arrays) -> None:
    for name, shape in shapes.items():
        if shape != target[name].shape:
            raise InputError(
                f"weights: {name} would be {shape}, but the port's is {target[name].shape}"
            )


def floating(arrays: Arrays) -> Iterator[str]:
    """Names of the floating-point ones."""
    return (name for name, array in arrays.items() if is_float(array.dtype))
