"""What a conversion will do, decided from names, shapes and dtypes alone: no tensor is read."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity.spec.errors import InputError, listed
from weights_convert.hashes import text_sha256

# fmt: off
WIDE = (
    "float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool",
    "uint64", "uint32", "uint16", "uint8", "complex64", "complex128",
)
# Dtypes that only `ml_dtypes` has; each is a whole number of bytes.
NARROW = (
    "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz",
    "float8_e5m2fnuz", "float8_e4m3b11fnuz", "float8_e3m4", "float8_e4m3",
)
# fmt: on


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor that is described, not read.

    Attributes:
        shape: Its shape.
        dtype: The name of its dtype, one of `WIDE` or `NARROW`.
    """

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def __str__(self) -> str:
        return f"{self.dtype} {'x'.join(map(str, self.shape)) or 'scalar'}"


def describe(name: str, shape: tuple[int, ...], dtype: str, where: object) -> Tensor:
    """Return a tensor's description.

    Raises:
        InputError: Its dtype is none that is converted.
    """
    if dtype not in (*WIDE, *NARROW):
        raise InputError(f"{where}: {name} is {dtype}, which is not converted")
    return Tensor(tuple(shape), dtype)


@dataclasses.dataclass(frozen=True)
class Step:
    """One application of a rule: some tensors of the source become some of the target.

    Attributes:
        sources: Names of the source's tensors.
        made: Name -> shape and dtype, of the target's tensors.
        make: Makes them, by name, from the source's, by name. They may be views.
    """

    sources: tuple[str, ...]
    made: Mapping[str, Tensor]
    make: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Plan:
    """Every tensor of the target.

    Attributes:
        steps: What makes them.
        unused: Names of the source's tensors that the rules give to nothing.
        rules: The rules as text, for the manifest.
        reverse: Whether they are applied backwards, from the port's names to the reference's.
    """

    steps: tuple[Step, ...]
    unused: tuple[str, ...] = ()
    rules: str = ""
    reverse: bool = False

    @functools.cached_property
    def made(self) -> dict[str, Tensor]:
        """Return every tensor of the target."""
        return {name: tensor for step in self.steps for name, tensor in step.made.items()}

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.made.values())

    def lines(self) -> Iterator[str]:
        """Yield a line for each tensor: what it is, and what it is made of."""
        for step in self.steps:
            for name, tensor in step.made.items():
                yield f"{name}  {tensor}  <- {listed(step.sources)}"
        for name in self.unused:
            yield f"(nothing)  <- {name}"

    def sha256(self) -> str:
        """Return a hash of everything the plan says."""
        return text_sha256("\n".join([self.rules, str(self.reverse), *self.lines()]))


# Names, shapes and dtypes of a source -> what is to be made of them.
Planner = Callable[[Mapping[str, Tensor]], Plan]


def numpy_dtype(name: str) -> np.dtype:
    """Return the NumPy dtype of a name in `WIDE` or `NARROW`."""
    if name in NARROW:
        import ml_dtypes

        return np.dtype(getattr(ml_dtypes, name))
    return np.dtype(name)


def check(plan: Plan, source: Mapping[str, Tensor], where: object) -> None:
    """Refuse a plan that leaves something over, uses what is not there, or fills a name twice.

    Args:
        plan: The plan.
        source: The source's tensors.
        where: The source, for the message.

    Raises:
        InputError: Lists the offenders.
    """
    if not plan.steps:
        raise InputError(f"the rules make nothing of {where}")
    names = Counter(name for step in plan.steps for name in step.made)
    if twice := [name for name, count in names.items() if count > 1]:
        raise InputError(f"the rules fill {listed(twice)} more than once")
    used = {name for step in plan.steps for name in step.sources} | set(plan.unused)
    if missing := [name for name in used if name not in source]:
        raise InputError(f"{where} has no {listed(sorted(missing))}, which the rules take")
    if left := [name for name in source if name not in used]:
        raise InputError(f"no rule for {listed(left)} of {where}")
    if unprintable := [repr(name) for name in names if not name or not name.isprintable()]:
        raise InputError(f"the rules make tensors named {listed(unprintable)}")


def ordered(plan: Plan, source: Mapping[str, Tensor]) -> Plan:
    """Return the plan in the order of the source's tensors, so that each is read about once."""
    place = {name: i for i, name in enumerate(source)}
    steps = sorted(plan.steps, key=lambda s: min((place[n] for n in s.sources), default=0))
    return dataclasses.replace(plan, steps=tuple(steps))


# Some of a plan's steps, and which of the tensors that each makes.
Unit = tuple[tuple[Step, tuple[str, ...]], ...]


def units(plan: Plan, size: int) -> list[Unit]:
    """Divide a plan, in order, into units whose tensors take no more bytes than `size`.

    A tensor that takes more is a unit of its own.
    """
    found: list[list[tuple[Step, list[str]]]] = []
    total = size
    for step in plan.steps:
        for name, tensor in step.made.items():
            if not found or (found[-1] and total + tensor.nbytes > size):
                found.append([])
                total = 0
            if not found[-1] or found[-1][-1][0] is not step:
                found[-1].append((step, []))
            found[-1][-1][1].append(name)
            total += tensor.nbytes
    return [tuple((step, tuple(names)) for step, names in unit) for unit in found]


def tensors_of(unit: Unit) -> dict[str, Tensor]:
    """Return the tensors that a unit makes."""
    return {name: step.made[name] for step, names in unit for name in names}
