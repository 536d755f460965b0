"""A network as a jaxpr, traced once for a mode and a precision and then evaluated many times."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr

from parity.capture.interpreter import Change, Interpreter
from parity.capture.jaxprs import constants, has_foreign_rules, is_key, sites_of
from parity.capture.marks import SITES, Marker
from parity.capture.records import Call, ForwardError, count_name, is_array, leaves, with_arrays
from parity.capture.remembered import Remembered


@dataclasses.dataclass(frozen=True)
class Calls:
    """What calls of layers gave, as a tree that a compiled function can return.

    An array that is one layer's output and another's argument is there once.

    Attributes:
        arrays: The arrays.
        index: Per call the number of its site, and places in `arrays`: of its arguments, of its
            outputs, and of whether its branch was taken (None for a call in no branch).
    """

    arrays: list[Any]
    index: tuple[tuple[int, tuple[int, ...], tuple[int, ...], int | None], ...]


jax.tree_util.register_dataclass(Calls, data_fields=["arrays"], meta_fields=["index"])


class Traced:
    """A network's program in one mode and one precision.

    Args:
        program: See `jax_models.Program`.
        modes: Keyword arguments of the network.
        trees: The trained arrays, the rest and the inputs, to trace with.
        lift: Whether it is evaluated without casts to a narrower type than float64.

    Attributes:
        lifted: Layers, empty for the network, in which a cast was left out or a constant widened.
        kept: Layers in which something had to be left in a narrower type.
        rounded: Whether a constant is known in a narrower type only.

    Raises:
        ForwardError: The network raised.
    """

    def __init__(
        self, program: Any, modes: Mapping[str, Any], trees: tuple[Any, Any, Any], lift: bool
    ) -> None:
        self.lift = lift
        marker = Marker()
        self.lifted: dict[str, str] = {}
        self.kept: dict[str, str] = {}
        self.rounded = False
        self.changes: Mapping[int, Change] = {}

        def forward(trained: Any, rest: Any, args: Any) -> Any:
            outputs, statistics = program(trained, rest, args, dict(modes), marker)
            arrays, self.rebuilt = taken_apart(outputs)
            return arrays, statistics

        try:
            self.closed, shapes = jax.make_jaxpr(forward, return_shape=True)(*trees)
        except ForwardError:
            raise
        except Exception as error:
            running = marker.running[-1] if marker.running else ""
            raise ForwardError("port", running, error) from error
        self.structure = jax.tree.structure(shapes)

    def __call__(self, trained: Any, rest: Any, args: Any, noise: Any = None) -> Any:
        """Evaluate it, within a trace.

        Args:
            trained: The trained arrays.
            rest: The other arrays.
            args: The inputs.
            noise: See `Interpreter`.

        Returns:
            The outputs, the statistics, and the calls that were seen.
        """
        inter = Interpreter(self.lift, noise, self.changes)
        flat = inter.closed(self.closed, jax.tree.leaves((trained, rest, args)))
        self.lifted |= self._by_layer(inter.lifted)
        self.kept |= self._by_layer(inter.kept)
        self.rounded |= inter.rounded
        arrays, statistics = jax.tree.unflatten(self.structure, flat)
        return self.rebuilt(arrays), statistics, inter.seen

    def changed(self, changes: Mapping[int, Change]) -> Traced:
        """Return the program with some equations, by their `id`, evaluated by other functions."""
        made = copy.copy(self)
        made.changes = changes
        return made

    def _by_layer(self, places: Mapping[int | None, str]) -> dict[str, str]:
        return {"" if s is None else SITES[s].layer: what for s, what in places.items()}

    def modules(self) -> dict[str, Any]:
        """Return the layers by name that their framework made while the network was traced."""
        return {SITES[n].layer: SITES[n].module for n in sites_of(self.closed.jaxpr)}

    def calls(self, seen: Calls) -> dict[str, Call]:
        """Return the calls by name, in the order in which they returned."""
        calls: dict[str, Call] = {}
        for site, fed, outputs, taken in seen.index:
            if taken is not None and not_taken(seen.arrays[taken]):
                continue
            where = SITES[site]
            name = count_name(where.layer, calls)
            arrays = [seen.arrays[i] for i in fed]
            args, kwargs = where.args, where.kwargs
            if arrays and len(arrays) == sum(map(is_array, leaves((args, kwargs)))):
                args, kwargs = with_arrays((args, kwargs), arrays)
            calls[name] = Call(name, args, kwargs, tuple(seen.arrays[i] for i in outputs))
        return calls


def gathered(seen: Sequence[Any], fed: bool) -> Calls:
    """Return the calls that an interpreter saw as one tree; `fed`: with their arguments."""
    places: dict[int, int] = {}
    arrays: list[Any] = []

    def place(array: Any) -> int:
        if id(array) not in places:
            places[id(array)] = len(arrays)
            arrays.append(array)
        return places[id(array)]

    index = tuple(
        (
            call.site,
            tuple(map(place, call.fed)) if fed else (),
            tuple(map(place, call.outputs)),
            None if call.taken is None else place(call.taken),
        )
        for call in seen
    )
    return Calls(arrays, index)


def taken_apart(outputs: Any) -> tuple[list[Any], Callable[[Sequence[Any]], Any]]:
    """Return a network's arrays, and a function that puts them back into what it returned."""
    values, structure = jax.tree.flatten(outputs)
    parts: list[tuple[int, Callable[[Sequence[Any]], Any]]] = []
    arrays: list[Any] = []
    for value in values:
        if is_array(value):
            found, back = [value], _first
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            found, inner = taken_apart(fields)
            back = functools.partial(_replaced, value, inner)
        elif isinstance(value, Mapping):  # of a class that JAX does not know
            found, inner = taken_apart(dict(value))
            back = functools.partial(_refilled, value, inner)
        else:
            found, back = [], functools.partial(_constant, value)
        arrays += found
        parts.append((len(found), back))

    def rebuilt(flat: Sequence[Any]) -> Any:
        rest = iter(flat)
        made = [back([next(rest) for _ in range(count)]) for count, back in parts]
        return jax.tree.unflatten(structure, made)

    return arrays, rebuilt


def _first(arrays: Sequence[Any]) -> Any:
    return arrays[0]


def _constant(value: Any, _: Sequence[Any]) -> Any:
    return value


def _refilled(value: Any, inner: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> Any:
    made = copy.copy(value)
    for key, item in inner(arrays).items():
        made[key] = item
    return made


def _replaced(value: Any, inner: Callable[[Sequence[Any]], Any], arrays: Sequence[Any]) -> Any:
    return dataclasses.replace(value, **inner(arrays))


def not_taken(value: Any) -> bool:
    """Return whether a branch was not taken; one that has not run yet may be."""
    return not isinstance(value, jax.ShapeDtypeStruct) and not bool(value)


TRACED: Remembered[Hashable, Traced] = Remembered(64)  # each holds its network's constants


def traced(
    program: Any, modes: Mapping[str, Any], trees: tuple[Any, Any, Any], lift: bool
) -> Traced:
    """Trace a network; where it is one that was traced before, return that, which is compiled.

    Networks are looked for by what they are made of, but only their traces tell whether they are
    the same: what a network computes may also depend on a global constant, or on a method that was
    replaced since.

    Raises:
        ForwardError: The network raised.
    """
    made = Traced(program, modes, trees, lift)
    key = (program, tuple(sorted(modes.items())), signature(trees), lift)
    try:
        known = TRACED.get(key)
    except TypeError:  # it has no hash, such as a module that holds a list
        return made
    if known is not None:
        if same_program(known.closed, made.closed):
            return known
        jax.clear_caches()  # of layers, too, which are found by what they are made of
    TRACED.put(key, made)
    return made


def same_program(one: ClosedJaxpr, other: ClosedJaxpr) -> bool:
    """Return whether two traces are of the same program, whatever the numbers of its marks.

    They are not called so where a gradient may follow a rule that the program does not show.
    """
    if has_foreign_rules(other.jaxpr) or _text(one) != _text(other):
        return False
    ours, theirs = (list(constants(closed)) for closed in (one, other))
    return len(ours) == len(theirs) and all(map(_same_array, ours, theirs))


def _same_array(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if is_key(one) != is_key(other):
        return False
    a, b = (np.asarray(jax.random.key_data(c) if is_key(c) else c) for c in (one, other))
    return np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _text(closed: ClosedJaxpr) -> str:
    """Return a program as text, with the names of layers, without addresses."""
    text = re.sub(r"\bcall=(\d+)", lambda found: SITES[int(found[1])].layer, str(closed.jaxpr))
    # Where lines are broken depends on how many digits the numbers of the marks had.
    return " ".join(re.sub(r"0x[0-9a-f]+", "", text).split())


def signature(trees: Any) -> Hashable:
    """Return the nesting, shapes and dtypes of arrays."""
    values, structure = jax.tree.flatten(trees)
    return structure, tuple((np.shape(v), str(getattr(v, "dtype", type(v)))) for v in values)
