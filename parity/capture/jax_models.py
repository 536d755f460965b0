"""One interface to JAX networks: Flax NNX modules, Flax Linen modules, plain functions.

Each is split into a static part (a `Program`) and two trees of arrays: the trained ones and the
rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

from parity.capture.jax_dropout import draws, silence, silence_linen
from parity.capture.jax_recording import NAME, join, recording
from parity.capture.jaxprs import is_key, is_narrow
from parity.capture.marks import Marker
from parity.capture.records import Arrays, narrowed, unique
from parity.spec.errors import InputError

Cast = Callable[[Any], Any]


class Program(Protocol):
    """A network or a layer without its arrays; hashable."""

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, marker: Marker | None
    ) -> tuple[Any, Any]:
        """Run it, with marks around the calls of its layers where there is a marker.

        Returns:
            The outputs, and `rest` after the run without random state.
        """

    def moved(self, rest: Any, statistics: Any) -> Any:
        """Return `rest` updated with the statistics of a run."""


class Model(Protocol):
    """A network of some sort."""

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        """Return a layer, or the network if `layer` is empty: program, trained arrays, the rest."""

    def layers(self) -> dict[str, Any]:
        """Dotted name -> layer. Linen's are known once the network has been traced."""

    def cast(self, cast: Cast) -> Model:
        """Return a copy whose arrays went through `cast`."""

    def state(self) -> Arrays:
        """Return every parameter and buffer by dotted name."""

    def filled(self, arrays: Mapping[str, np.ndarray]) -> Model:
        """Return a copy that holds these arrays."""

    def widen(self) -> None:
        """Let layers make their own arrays, such as a recurrent layer's carry, in float64."""

    def meet(self, train: bool, layers: Mapping[str, Any]) -> None:
        """Take note of layers that were made while the network was traced in this mode."""


def wrap(port: Any, params: Any) -> Model:
    """Make a model of what the user gave.

    Raises:
        InputError: It is none of the three, or its parameters are missing.
    """
    if isinstance(port, nnx.Module):
        return NnxModel(port)
    if isinstance(port, type) and issubclass(port, nnx.Module | linen.Module):
        raise InputError(f"the port is the class {port.__name__}, expected a module made of it")
    if isinstance(port, linen.Module) or callable(port):
        if params is None:
            kind = "Linen module" if isinstance(port, linen.Module) else "function"
            raise InputError(f"the port is a {kind} and needs its parameters: Port(params=...)")
        return (
            LinenModel(port, params) if isinstance(port, linen.Module) else Function(port, params)
        )
    raise InputError(
        f"the port is a {type(port).__name__}, expected an NNX module, a Linen module or a function"
    )


@dataclasses.dataclass(frozen=True)
class NnxProgram:
    graph: nnx.GraphDef

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, marker: Marker | None
    ) -> tuple[Any, Any]:
        module = nnx.merge(self.graph, trained, jax.tree.map(_same, rest))
        with recording(module, marker) if marker else contextlib.nullcontext():
            outputs = module(*args, **kwargs)
        return outputs, nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))

    def moved(self, rest: Any, statistics: Any) -> Any:
        return nnx.merge_state(rest, statistics)


class NnxModel:
    """A Flax NNX module."""

    def __init__(self, module: nnx.Module) -> None:
        graph, state = nnx.split(module)
        self.module = nnx.merge(graph, state)  # a copy
        layers = list(nnx.iter_modules(self.module))
        for _, layer in layers:
            silence(layer)
            if isinstance(layer, nnx.Embed) and layer.dtype == layer.param_dtype:
                layer.dtype = layer.embedding.dtype  # not chosen, but taken from the parameter
        self.by_name = unique([(join(path), m) for path, m in layers if path], "layers")
        self.parts: dict[tuple[str, bool], tuple[Program, Any, Any]] = {}

    def widen(self) -> None:
        """Let layers make their own arrays, such as a carry, in float64."""
        self.parts.clear()
        for layer in (self.module, *self.by_name.values()):
            if is_narrow(getattr(layer, "param_dtype", None)):
                setattr(layer, "param_dtype", jnp.float64)  # noqa: B010 - of any class

    def layers(self) -> dict[str, Any]:
        return self.by_name

    def meet(self, train: bool, layers: Mapping[str, Any]) -> None:
        """Do nothing: all layers of a Flax NNX module are known from the beginning."""

    def cast(self, cast: Cast) -> NnxModel:
        graph, state, random = self._parts()
        return NnxModel(nnx.merge(graph, jax.tree.map(cast, state), random))

    def state(self) -> Arrays:
        return named(nnx.state(self.module, nnx.Not(nnx.RngState)))

    def filled(self, arrays: Mapping[str, np.ndarray]) -> NnxModel:
        graph, state, random = self._parts()
        return NnxModel(nnx.merge(graph, like_named(state, arrays), random))

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        """Split it once for each mode: that takes as long as tracing a small network."""
        if (layer, train) not in self.parts:
            self.parts[layer, train] = self._split(layer, train)
        program, trained, rest = self.parts[layer, train]
        return program, jax.tree.map(_same, trained), jax.tree.map(_same, rest)

    def _split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        module = self.layers()[layer] if layer else self.module
        module = nnx.merge(*nnx.split(module))  # a copy: the mode is set on it
        if not layer:
            for path, part in nnx.iter_modules(module):
                setattr(part, NAME, join(path))
        if train:
            module.train()
        else:
            module.eval()
        graph, trained, *rest = nnx.split(module, nnx.Param, ...)
        return NnxProgram(graph), trained, rest[0]

    def _parts(self) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
        """Return the graph, the state, and random state, which is left alone."""
        graph, state, *random = nnx.split(self.module, nnx.Not(nnx.RngState), ...)
        return graph, state, random[0]


@dataclasses.dataclass(frozen=True)
class LinenProgram:
    module: linen.Module
    train: bool
    wide: bool = False  # whether layers make their own arrays, such as a carry, in float64

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, marker: Marker | None
    ) -> tuple[Any, Any]:
        def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            if self.wide:
                _widen(context.module)
            if silence_linen(context.module):
                return args[0]
            name = ".".join(context.module.path)
            if context.method_name != "__call__" or not name or marker is None:
                return call(*args, **kwargs)
            return marker.around(name, call, args, kwargs, context.module.clone(parent=None))

        with linen.intercept_methods(intercept):
            outputs, changed = self.module.apply(
                {"params": trained, **rest}, *args, mutable=list(rest), rngs=draws(), **kwargs
            )
        return outputs, dict(changed)

    def moved(self, rest: Any, statistics: Any) -> Any:
        return rest | statistics


def _widen(module: linen.Module) -> None:
    """Let a layer that runs, and those that it was given, make their own arrays in float64.

    A recurrent layer asks its cell for a carry by a method that nothing intercepts.
    """
    for layer in (module, *vars(module).values()):
        if isinstance(layer, linen.Module) and is_narrow(getattr(layer, "param_dtype", None)):
            object.__setattr__(layer, "param_dtype", jnp.float64)


class LinenModel:
    """A Flax Linen module with its variables; parameters alone will do."""

    def __init__(
        self,
        module: linen.Module,
        variables: Mapping[str, Any],
        wide: bool = False,
        met: dict[bool, dict[str, linen.Module]] | None = None,
    ) -> None:
        self.module = module
        self.variables = variables if "params" in variables else {"params": variables}
        self.wide = wide
        self.met = {} if met is None else met  # the layers by name, detached, of each mode

    def layers(self) -> dict[str, Any]:
        return self.met.get(False, {}) | self.met.get(True, {})

    def meet(self, train: bool, layers: Mapping[str, Any]) -> None:
        self.met.setdefault(train, {}).update(layers)

    def widen(self) -> None:
        self.wide = True

    def cast(self, cast: Cast) -> LinenModel:
        return self._with(jax.tree.map(cast, dict(self.variables)))

    def _with(self, variables: Mapping[str, Any]) -> LinenModel:
        return LinenModel(self.module, variables, self.wide, self.met)

    def state(self) -> Arrays:
        found: Arrays = {}
        for collection in self.variables.values():
            found |= named(collection)
        return found

    def filled(self, arrays: Mapping[str, np.ndarray]) -> LinenModel:
        return self._with({name: refill(tree, arrays) for name, tree in self.variables.items()})

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        module = self.module
        if layer:  # as this mode made it: a mode may be an argument of its making
            module = self.met.get(train, {}).get(layer) or self.layers()[layer]
        trees = {name: below(tree, layer) for name, tree in self.variables.items()}
        trained = trees.pop("params")
        program = LinenProgram(module, train, self.wide)
        return program, trained or {}, {k: v for k, v in trees.items() if v}


@dataclasses.dataclass(frozen=True)
class FunctionProgram:
    function: Callable[..., Any]

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, marker: Marker | None
    ) -> tuple[Any, Any]:
        params = jax.tree.map(
            lambda a, b: b if a is None else a, trained, rest, is_leaf=lambda leaf: leaf is None
        )
        return self.function(params, *args, **kwargs), {}

    def moved(self, rest: Any, statistics: Any) -> Any:
        return rest


class Function:
    """A plain function of its parameters and inputs; it has no layers.

    Parameters that are no floating-point numbers, such as counters and random keys, are not
    trained.
    """

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        self.function = function
        self.params = params

    def layers(self) -> dict[str, Any]:
        return {}

    def meet(self, train: bool, layers: Mapping[str, Any]) -> None:
        """It has none to meet."""

    def widen(self) -> None:
        """It has no layers that could."""

    def cast(self, cast: Cast) -> Function:
        return Function(
            self.function, jax.tree.map(lambda x: x if is_key(x) else cast(x), self.params)
        )

    def state(self) -> Arrays:
        return named(self.params)

    def filled(self, arrays: Mapping[str, np.ndarray]) -> Function:
        return Function(self.function, refill(self.params, arrays))

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        del layer, train

        def chosen(trained: bool) -> Any:
            return jax.tree.map(lambda x: x if is_trained(x) == trained else None, self.params)

        return FunctionProgram(self.function), chosen(True), chosen(False)


def _same(leaf: Any) -> Any:
    """For `jax.tree.map`, which copies what holds the leaves."""
    return leaf


def named(tree: Any) -> Arrays:
    """Dotted path -> array."""
    return unique([(name, to_numpy(leaf)) for name, leaf in named_leaves(tree)], "tensors")


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return the dotted path of each array, and the array, which may be traced."""
    if isinstance(tree, nnx.State):
        return [(join(path), leaf[...]) for path, leaf in nnx.to_flat_state(tree)]
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [(join(keys(path)), leaf) for path, leaf in flat]


def refill(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: like(arrays[join(keys(path))], leaf), tree
    )


def like_named(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return a tree of the same nesting that holds these arrays; the inverse of `named`."""
    if isinstance(tree, nnx.State):
        flat = nnx.to_flat_state(tree)
        return nnx.from_flat_state(
            [(path, _refilled(leaf, like(arrays[join(path)], leaf))) for path, leaf in flat]
        )
    return refill(tree, arrays)


def _refilled(leaf: Any, array: Any) -> Any:
    """Return what holds an array in a state: a variable, or a plain array as an attribute."""
    return leaf.replace(array) if isinstance(leaf, nnx.Variable) else array


def below(tree: Any, path: str) -> Any:
    """Return the part of nested mappings below a dotted path, None if there is none."""
    for part in path.split(".") if path else ():
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def to_numpy(leaf: Any) -> np.ndarray:
    """Return an array; a random key as the numbers that it is made of."""
    return np.asarray(jax.random.key_data(leaf) if is_key(leaf) else leaf)


def is_trained(leaf: Any) -> bool:
    """Return whether it is a floating-point array, which can be differentiated."""
    return jnp.issubdtype(getattr(leaf, "dtype", type(leaf)), jnp.floating)


def like(array: np.ndarray, leaf: Any) -> Any:
    if is_key(leaf):
        return jax.random.wrap_key_data(jnp.asarray(array), impl=jax.random.key_impl(leaf))
    dtype = leaf.get_value().dtype if isinstance(leaf, nnx.Variable) else leaf.dtype
    return narrowed(array, dtype)


def keys(path: tuple) -> tuple:
    """Return the dictionary keys, attribute names and indices of a tree path."""
    return tuple(next(getattr(k, a) for a in ("key", "name", "idx") if hasattr(k, a)) for k in path)


def floats_of(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def restored(tree: Any, floats: list[jax.Array]) -> Any:
    """`tree` with its floating-point leaves replaced, so that they can be differentiated."""
    rest = iter(floats)
    return jax.tree.map(lambda x: next(rest) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
