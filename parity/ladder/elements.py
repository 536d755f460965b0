"""Tracing which element of the reference each element of the port is, through a function.

The function is applied to tags instead of values; where a tag ends up, its element does. Tags are
small whole numbers, exact in every precision, so that they survive a cast; an element's number is
written in several of them, one run of the function for each digit.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from parity.capture.records import Arrays, is_float
from parity.ladder.axes import Axes
from parity.spec import draw

# From the reference's arrays by name to the port's; None: the port's own.
Converter = Callable[[Arrays], Mapping[str, Any]]

# The port's tensor -> the reference's that it is the whole of, and the axes.
Whole = dict[str, tuple[str, Axes]]

BASE = 255  # digits and one more are whole numbers of up to 255: exact even in bfloat16


@dataclasses.dataclass(frozen=True)
class Elements:
    """One of the port's tensors as elements of the reference's tensors.

    Attributes:
        keys: The reference's tensors that it is made of.
        index: In the port's shape, indices into these tensors, ravelled and concatenated.
    """

    keys: tuple[str, ...]
    index: np.ndarray

    def gathered(self, arrays: Arrays, zeros: Mapping[str, tuple[int, ...]]) -> np.ndarray | None:
        """Gather other arrays of the reference, such as gradients.

        Args:
            arrays: Arrays by the reference's names.
            zeros: Name -> shape of arrays that are zero if absent from `arrays`.

        Returns:
            The gathered array; None where a tensor is in neither, or all of them are zeros.
        """
        if not any(key in arrays for key in self.keys):
            return None
        if not all(key in arrays or key in zeros for key in self.keys):
            return None
        dtype = next(arrays[k].dtype for k in self.keys if k in arrays)
        parts = [arrays[k] if k in arrays else np.zeros(zeros[k], dtype) for k in self.keys]
        return np.concatenate([part.ravel() for part in parts])[self.index]

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the permutation that makes the whole of its tensor of `shape`, if one does."""
        if len(self.keys) != 1 or sorted(shape) != sorted(self.index.shape):
            return None
        if not self.index.size:
            return None
        strides = np.cumprod((1, *shape[:0:-1]))[::-1]  # in elements, of the reference's axes
        first, axes = int(self.index.flat[0]), []
        for axis, length in enumerate(self.index.shape):
            free = [a for a in range(len(shape)) if a not in axes and shape[a] == length]
            if length > 1:
                step = int(np.take(self.index, 1, axis).flat[0]) - first
                free = [a for a in free if strides[a] == step]
            if not free:
                return None
            axes.append(free[0])
        whole = np.arange(self.index.size).reshape(shape).transpose(axes)
        return tuple(axes) if np.array_equal(whole, self.index) else None


def followed(convert: Converter, source: Arrays, made: Arrays) -> dict[str, Elements]:
    """Follow every element through a function.

    Args:
        convert: Maps the reference's arrays to the port's.
        source: The reference's arrays.
        made: The function's result.

    Returns:
        Those of the port's arrays that consist of elements of the reference's as they are. An array
        with a sum, a product or a constant in it is absent; so is everything where the function
        does something else for other values, or raises.
    """
    tagged = {k: a for k, a in source.items() if a.size and _takes_tags(a)}
    total = sum(a.size for a in tagged.values())
    numbers: dict[str, np.ndarray] = {}
    power = 1
    while power <= total:
        found = _converted(convert, source | _tags(tagged, power), made)
        for name in list(numbers) if power > 1 else found:
            digit = _digit(found.get(name))
            if digit is None:
                numbers.pop(name, None)
            else:
                numbers[name] = digit * power + numbers.get(name, 0)
        power *= BASE
    elements = {n: _elements(a, tagged) for n, a in numbers.items() if a.size and a.max() < total}
    return _confirmed(convert, source, tagged, made, elements)


def _takes_tags(array: np.ndarray) -> bool:
    return is_float(array.dtype) or (array.dtype.kind in "iu" and array.dtype.itemsize > 1)


def _tags(tagged: Arrays, power: int) -> Arrays:
    """Return one digit of each element's number, plus 1, so that none is zero."""
    tags, start = {}, 0
    for key, array in tagged.items():
        numbers = np.arange(start, start + array.size)
        tags[key] = (numbers // power % BASE + 1).astype(array.dtype).reshape(array.shape)
        start += array.size
    return tags


def _converted(convert: Converter, source: Arrays, made: Arrays) -> Arrays:
    """Apply the function to other values; return nothing where it does not accept them."""
    try:
        with np.errstate(all="ignore"):
            found = {name: np.asarray(array) for name, array in convert(Watched(source)).items()}
    except Exception:  # it expects something of the values
        return {}
    return {n: a for n, a in found.items() if n in made and a.shape == made[n].shape}


def _digit(found: np.ndarray | None) -> np.ndarray | None:
    """Return the digits stored in tags; None if the values are not tags."""
    if found is None or not (is_float(found.dtype) or found.dtype.kind in "iu"):
        return None
    values = found.astype(np.float64)
    whole = np.isfinite(values).all() and (values == np.rint(values)).all()
    if not whole or (values < 1).any() or (values > BASE).any():
        return None
    return values.astype(np.int64) - 1


def _elements(numbers: np.ndarray, tagged: Arrays) -> Elements:
    names = list(tagged)
    ends = np.cumsum([a.size for a in tagged.values()])
    holders = np.searchsorted(ends, numbers.ravel(), side="right")
    used = np.unique(holders)
    shift = np.zeros(len(names), np.int64)  # from places among all to places among those used
    sizes = np.array([tagged[names[i]].size for i in used])
    shift[used] = np.cumsum(sizes) - sizes - (ends[used] - sizes)
    index = numbers + shift[holders].reshape(numbers.shape)
    return Elements(tuple(names[i] for i in used), index)


def _confirmed(
    convert: Converter,
    source: Arrays,
    tagged: Arrays,
    made: Arrays,
    elements: dict[str, Elements],
) -> dict[str, Elements]:
    """Keep elements that also hold for drawn and real values: a sum may look like a tag."""
    rng = draw.generator(0, "elements")
    drawn = {
        key: (rng.uniform(1, 2, a.shape) if is_float(a.dtype) else rng.integers(1, 99, a.shape))
        for key, a in tagged.items()
    }
    drawn = {key: array.astype(source[key].dtype) for key, array in drawn.items()}
    again = _converted(convert, source | drawn, made) if elements else {}

    def holds(name: str, values: Arrays, found: np.ndarray) -> bool:
        expected = elements[name].gathered(values, {})
        return expected is not None and np.array_equal(expected.astype(found.dtype), found)

    return {
        name: e
        for name, e in elements.items()
        if name in again and holds(name, drawn, again[name]) and holds(name, source, made[name])
    }


def whole_tensors(parts: Mapping[str, Elements], source: Arrays) -> Whole:
    """Return those derived tensors that are one whole tensor of the reference, transposed."""
    found: Whole = {}
    taken: set[str] = set()
    for name, part in parts.items():
        key = part.keys[0]
        axes = part.axes(source[key].shape)
        if axes is not None and key not in taken:
            found[name] = (key, None if axes == tuple(range(len(axes))) else axes)
            taken.add(key)
    return found


def repeated(same: Whole, parts: Mapping[str, Elements], source: Arrays) -> frozenset[str]:
    """Return names of what holds an element that is held elsewhere too."""
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
    """A dictionary that remembers which keys were read, and gives copies: they may be written to.

    An array is copied when it is first read; so one that is given twice is one array.
    """

    def __init__(self, arrays: Arrays) -> None:
        super().__init__(arrays)
        self.seen: set[str] = set()
        self._own: set[str] = set()

    def __iter__(self) -> Iterator[str]:
        return super().__iter__()  # with its own `__iter__`, `dict` copies through `__getitem__`

    def __getitem__(self, key: str) -> np.ndarray:
        self.seen.add(key)
        if key in self and key not in self._own:
            self[key] = super().__getitem__(key).copy()
        return super().__getitem__(key)

    def __setitem__(self, key: str, array: Any) -> None:
        self._own.add(key)
        super().__setitem__(key, array)

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 - marks it as read

    def pop(self, key: str, *default: Any) -> Any:
        self.seen.add(key)
        if key in self:
            return (self[key], super().pop(key))[0]
        return super().pop(key, *default)

    def items(self) -> Any:
        return [(key, self[key]) for key in self]

    def values(self) -> Any:
        return [self[key] for key in self]
