"""Types shared by both sides of a comparison: runs, recorded calls, and helpers for nested arrays.

Arrays cross this boundary as NumPy arrays in the port's layout: with `NHWC`, arrays with four axes
are (N, H, W, C).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from parity.report.source import raised_at
from parity.spec.errors import InputError, one_line

Arrays = dict[str, np.ndarray]
Cotangents = Sequence[np.ndarray | None] | None  # None: forward only
Loss = Callable[..., Any]

# Axes of the reference's arrays in the port's order, by their number; others are as they are.
Layout = Mapping[int, tuple[int, ...]]
NHWC: Layout = {4: (0, 2, 3, 1)}

NETWORK = "(network)"  # the layer that stands for the whole


@dataclasses.dataclass(frozen=True)
class Kept:
    """What is kept of a run of a whole network; all the rest is computed and forgotten.

    The network's outputs, its loss, the gradients of its inputs and its statistics always are.

    Attributes:
        layers: The layers whose calls are kept, by dotted name.
        tensors: The parameters whose gradients are kept.
    """

    layers: frozenset[str] = frozenset()
    tensors: frozenset[str] = frozenset()


@dataclasses.dataclass
class Call:
    """One call of one layer.

    Attributes:
        layer: Dotted name in the framework it was recorded in; `#2` and so on behind the name
            from its second call on.
        args: Positional arguments: arrays, plain values, or nests of them.
        kwargs: Keyword arguments.
        outputs: Every array it returned.
        cotangents: The loss's gradient for each output, None where it has none.
    """

    layer: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    outputs: tuple[np.ndarray, ...] = ()
    cotangents: list[np.ndarray | None] = dataclasses.field(default_factory=list)

    @property
    def module(self) -> str:
        """The layer without the count of its calls."""
        return self.layer.partition("#")[0]

    def arrays(self) -> list[np.ndarray]:
        """Return every array among the arguments."""
        return [leaf for leaf in leaves((self.args, self.kwargs)) if is_array(leaf)]


class Returned(NamedTuple):
    """Something that a network returned.

    Attributes:
        name: Its dotted path; see `paths`.
        kind: Its type's name; empty for an array.
        place: Of an array: its number among all arrays.
    """

    name: str
    kind: str = ""
    place: int = -1


def returned(outputs: Any, is_output: Callable[[Any], bool]) -> list[Returned]:
    """Everything that a network returned, mappings in the order in which they were made."""
    arrays = [name for name, value in paths(outputs) if is_output(value)]
    places = {name: i for i, name in enumerate(arrays)}
    return [
        Returned(name, "" if name in places else type(value).__name__, places.get(name, -1))
        for name, value in paths(outputs, given=True)
    ]


@dataclasses.dataclass
class RunRecord:
    """The result of one run of a network or of a layer.

    Attributes:
        outputs: The network's outputs.
        calls: Every layer's calls, by `Call.layer`, in the order in which they returned.
        loss: The scalar that was differentiated, None in eval mode.
        parameter_gradients: Gradients by the framework's own parameter names.
        input_gradients: One per floating-point array among the inputs.
        statistics: Buffers after the run, by the framework's own name.
        returned: All that the network returned; the reference's only.
    """

    outputs: tuple[np.ndarray, ...] = ()
    calls: dict[str, Call] = dataclasses.field(default_factory=dict)
    loss: np.ndarray | None = None
    parameter_gradients: Arrays = dataclasses.field(default_factory=dict)
    input_gradients: tuple[np.ndarray, ...] = ()
    statistics: Arrays = dataclasses.field(default_factory=dict)
    returned: list[Returned] = dataclasses.field(default_factory=list)


class ForwardError(InputError):
    """A network or a layer raised while it ran.

    Args:
        side: `reference` or `port`.
        layer: The innermost layer that was running, empty if none was.
        error: The exception it raised.
    """

    def __init__(self, side: str, layer: str, error: BaseException) -> None:
        text = str(error)
        if type(error).__name__ == "UnexpectedTracerError":
            text = f"it leaks a tracer: an array of one call is used in another. {text}"
        where = f" in {layer}" if layer else ""
        line = raised_at(error)
        at = f" [{line}]" if line else ""
        self.report: Any = None  # what was compared before, where something was
        super().__init__(f"the {side} raised {type(error).__name__}{where}: {one_line(text)}{at}")
        self.side = side
        self.layer = layer


def count_name(layer: str, seen: Mapping[str, Any]) -> str:
    """Return the name of a layer's next call."""
    if layer not in seen:
        return layer
    n = 2
    while f"{layer}#{n}" in seen:
        n += 1
    return f"{layer}#{n}"


def unique(named: list[tuple[str, Any]], what: str) -> dict[str, Any]:
    """Return what has names by its name.

    Raises:
        InputError: Two have one name, such as `a.b` and `b` in `a`.
    """
    found = dict(named)
    if len(found) < len(named):
        names = [name for name, _ in named]
        twice = next(name for name in found if names.count(name) > 1)
        raise InputError(f"the port has two {what} of the name {twice}, expected one")
    return found


def is_array(value: Any) -> bool:
    """Return whether it is an array or a tensor of any framework, or an abstract one."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def is_float(dtype: Any) -> bool:
    """Return whether a NumPy dtype is floating-point; `bfloat16` counts, though NumPy lacks it."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def narrowed(array: np.ndarray, dtype: Any) -> np.ndarray:
    """Return an array in another type; numbers that are too large for it become infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(array, dtype)


def is_exact(array: np.ndarray) -> bool:
    """Return whether float32 numbers have so few digits that they are meant as they are."""
    finite = np.ascontiguousarray(array[np.isfinite(array)])
    return bool((finite.view(np.uint32) & 0xFFF == 0).all())


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested tuples, lists and mappings; mappings by sorted key, as JAX does."""
    if isinstance(tree, Mapping):
        for key in sorted(tree):
            yield from leaves(tree[key])
    elif isinstance(tree, tuple | list):
        for item in tree:
            yield from leaves(item)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not is_array(tree):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    elif tree is not None:
        yield tree


def paths(tree: Any, place: str = "", given: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its dotted path of keys, fields and indices.

    What stands in no nest has the empty path.

    Args:
        tree: The nest.
        place: The path of the nest itself.
        given: Whether mappings are in the order in which they were made, not in that of `leaves`.
    """
    inner: Iterable[tuple[Any, Any]]
    if isinstance(tree, Mapping):
        inner = ((key, tree[key]) for key in (tree if given else sorted(tree)))
    elif isinstance(tree, tuple | list):
        inner = zip(getattr(tree, "_fields", range(len(tree))), tree, strict=True)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type) and not is_array(tree):
        inner = ((field.name, getattr(tree, field.name)) for field in dataclasses.fields(tree))
    else:
        if tree is not None:
            yield place, tree
        return
    for key, value in inner:
        yield from paths(value, f"{place}.{key}" if place else str(key), given)


def mapped(tree: Any, function: Callable[[Any], Any]) -> Any:
    """Return the nest with `function` applied to each leaf, in the order of `leaves`."""
    if isinstance(tree, Mapping):
        return {key: mapped(tree[key], function) for key in sorted(tree)}
    if isinstance(tree, tuple | list):
        items = [mapped(item, function) for item in tree]
        if isinstance(tree, list):
            return items
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree if tree is None else function(tree)


def with_arrays(tree: Any, arrays: Iterable[Any]) -> Any:
    """Return the nest with its arrays replaced, one after the other."""
    rest = iter(arrays)
    return mapped(tree, lambda leaf: next(rest) if is_array(leaf) else leaf)


def transposed(array: np.ndarray, axes: Sequence[int] | None) -> np.ndarray:
    return array if axes is None else array.transpose(axes)
