"""One interface to JAX networks: Flax NNX modules, Flax Linen modules, plain functions.

Each is split into a static part (a `Program`) and two trees of arrays: the trained ones and the
rest.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx
from jax.experimental import io_callback

from parity.capture.jax_dropout import draws, is_dropout, silence
from parity.capture.records import Arrays, count_name, is_array, leaves, mapped, unique
from parity.spec.errors import InputError

# Layers are recorded by their class, so one network at a time; compiling is not part of it.
PATCHING = threading.RLock()

Cast = Callable[[Any], Any]


@dataclasses.dataclass
class Record:
    """Record of a network's run: the arguments and outputs of each call of a layer.

    Attributes:
        calls: `Call.layer` -> (args, kwargs, outputs), in the order in which they returned.
        running: The layers that have begun and not returned, innermost last.
        sink: If there is one, it is called with a call's name and its outputs as soon as they are
            computed, and the outputs are not kept.
    """

    calls: dict[str, tuple[Any, Any, Any]] = dataclasses.field(default_factory=dict)
    running: list[str] = dataclasses.field(default_factory=list)
    sink: Callable[..., None] | None = None

    def around(self, name: str, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a layer, and keep it."""
        self.running.append(name)
        outputs = call(*args, **kwargs)
        self.running.pop()
        name = count_name(name, self.calls)
        self.calls[name] = (args, kwargs, outputs)
        if self.sink is not None:
            hand_over(functools.partial(self.sink, name), outputs)
            self.calls[name] = ((), {}, ())
        return outputs


def hand_over(sink: Callable[..., None], outputs: Any) -> None:
    """Send a traced call's outputs to the host when they are computed.

    They are sent as 4-byte words, since the thread that receives them cannot handle 64-bit numbers.
    """
    arrays = [jax.lax.stop_gradient(x) for x in leaves(outputs) if is_array(x)]
    dtypes = [np.dtype(x.dtype) for x in arrays]

    def take(*words: jax.Array) -> None:
        sink(
            *(
                np.asarray(w).view(d)[..., 0] if d.itemsize == 8 else np.asarray(w)
                for w, d in zip(words, dtypes, strict=True)
            )
        )

    io_callback(
        take,
        None,
        *(
            jax.lax.bitcast_convert_type(x, jnp.uint32) if d.itemsize == 8 else x
            for x, d in zip(arrays, dtypes, strict=True)
        ),
    )


class Program(Protocol):
    """A network or a layer without its arrays; hashable."""

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, record: Record | None
    ) -> tuple[Any, Any]:
        """Run it.

        Returns:
            The outputs, and `rest` after the run without random state.
        """

    def moved(self, rest: Any, statistics: Any) -> Any:
        """Return `rest` updated with the statistics of a run."""


class Model(Protocol):
    """A network of some sort."""

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        """A layer, or the network where `layer` is empty: program, trained arrays and the rest."""

    def layers(self) -> dict[str, Any]:
        """Dotted name -> layer. Linen's are known once the network has been traced."""

    def cast(self, cast: Cast) -> Model:
        """A copy whose arrays went through `cast`."""

    def state(self) -> Arrays:
        """Return every parameter and buffer by dotted name."""

    def filled(self, arrays: Mapping[str, np.ndarray]) -> Model:
        """A copy that holds these arrays."""


def wrap(port: Any, params: Any) -> Model:
    """Make a model of what the user gave.

    Raises:
        InputError: It is none of the three, or its parameters are missing.
    """
    if isinstance(port, nnx.Module):
        return NnxModel(port)
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
        self, trained: Any, rest: Any, args: Any, kwargs: Any, record: Record | None
    ) -> tuple[Any, Any]:
        module = nnx.merge(self.graph, trained, jax.tree.map(lambda x: x, rest))
        with recording(module, record) if record else contextlib.nullcontext():
            outputs = module(*args, **kwargs)
        return outputs, nnx.state(module, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))

    def moved(self, rest: Any, statistics: Any) -> Any:
        return nnx.merge_state(rest, statistics)


class NnxModel:
    """A Flax NNX module."""

    def __init__(self, module: nnx.Module) -> None:
        graph, state = nnx.split(module)
        self.module = nnx.merge(graph, state)  # a copy
        for _, layer in nnx.iter_modules(self.module):
            silence(layer)
            if isinstance(layer, nnx.Embed) and layer.dtype == layer.param_dtype:
                layer.dtype = layer.embedding.dtype  # not chosen, but taken from the parameter
        layers = [(join(path), m) for path, m in nnx.iter_modules(self.module) if path]
        self.by_name = unique(layers, "layers")

    def layers(self) -> dict[str, Any]:
        return self.by_name

    def cast(self, cast: Cast) -> NnxModel:
        graph, state, random = self._parts()
        return NnxModel(nnx.merge(graph, jax.tree.map(cast, state), random))

    def state(self) -> Arrays:
        return named(nnx.state(self.module, nnx.Not(nnx.RngState)))

    def filled(self, arrays: Mapping[str, np.ndarray]) -> NnxModel:
        graph, state, random = self._parts()
        return NnxModel(nnx.merge(graph, like_named(state, arrays), random))

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        module = self.layers()[layer] if layer else self.module
        module = nnx.merge(*nnx.split(module))  # a copy: the mode is set on it
        if train:
            module.train()
        else:
            module.eval()
        graph, trained, *rest = nnx.split(module, nnx.Param, ...)
        return NnxProgram(graph), trained, rest[0]

    def _parts(self) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
        """The graph, the state, and random state, which is left alone."""
        graph, state, *random = nnx.split(self.module, nnx.Not(nnx.RngState), ...)
        return graph, state, random[0]


@dataclasses.dataclass(frozen=True)
class LinenProgram:
    module: linen.Module
    train: bool

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, record: Record | None
    ) -> tuple[Any, Any]:
        def intercept(call: Callable, args: Any, kwargs: Any, context: Any) -> Any:
            if is_dropout(context.module):
                return args[0]
            name = ".".join(context.module.path)
            if context.method_name != "__call__" or not name or record is None:
                return call(*args, **kwargs)
            layers = MODULES.setdefault((self.module, self.train), {})
            layers[name] = context.module.clone(parent=None)
            return record.around(name, call, args, kwargs)

        with linen.intercept_methods(intercept):
            outputs, changed = self.module.apply(
                {"params": trained, **rest}, *args, mutable=list(rest), rngs=draws(), **kwargs
            )
        return outputs, dict(changed)

    def moved(self, rest: Any, statistics: Any) -> Any:
        return rest | statistics


# Linen module and mode -> its layers by name, detached; filled when it is traced.
MODULES: dict[tuple[linen.Module, bool], dict[str, linen.Module]] = {}


class LinenModel:
    """A Flax Linen module with its variables; parameters alone will do."""

    def __init__(self, module: linen.Module, variables: Mapping[str, Any]) -> None:
        self.module = module
        self.variables = variables if "params" in variables else {"params": variables}

    def layers(self) -> dict[str, Any]:
        return MODULES.get((self.module, False), {}) | MODULES.get((self.module, True), {})

    def cast(self, cast: Cast) -> LinenModel:
        return LinenModel(self.module, jax.tree.map(cast, dict(self.variables)))

    def state(self) -> Arrays:
        found: Arrays = {}
        for collection in self.variables.values():
            found |= named(collection)
        return found

    def filled(self, arrays: Mapping[str, np.ndarray]) -> LinenModel:
        variables = {name: refill(tree, arrays) for name, tree in self.variables.items()}
        return LinenModel(self.module, variables)

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        module = self.module
        if layer:  # as this mode made it: a mode may be an argument of its making
            module = MODULES.get((self.module, train), {}).get(layer) or self.layers()[layer]
        trees = {name: below(tree, layer) for name, tree in self.variables.items()}
        trained = trees.pop("params")
        return LinenProgram(module, train), trained or {}, {k: v for k, v in trees.items() if v}


@dataclasses.dataclass(frozen=True)
class FunctionProgram:
    function: Callable[..., Any]

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, record: Record | None
    ) -> tuple[Any, Any]:
        return self.function(trained, *args, **kwargs), {}

    def moved(self, rest: Any, statistics: Any) -> Any:
        return rest


class Function:
    """A plain function of its parameters and inputs; it has no layers."""

    def __init__(self, function: Callable[..., Any], params: Any) -> None:
        self.function = function
        self.params = params

    def layers(self) -> dict[str, Any]:
        return {}

    def cast(self, cast: Cast) -> Function:
        return Function(self.function, jax.tree.map(cast, self.params))

    def state(self) -> Arrays:
        return named(self.params)

    def filled(self, arrays: Mapping[str, np.ndarray]) -> Function:
        return Function(self.function, refill(self.params, arrays))

    def split(self, layer: str, train: bool) -> tuple[Program, Any, Any]:
        del layer, train
        return FunctionProgram(self.function), self.params, {}


@contextlib.contextmanager
def recording(module: nnx.Module, record: Record) -> Iterator[None]:
    """Context that records every call of a layer of `module`."""
    names = {id(m): join(path) for path, m in nnx.iter_modules(module) if path}
    originals: dict[Any, Any] = {
        type(m): type(m).__call__ for _, m in nnx.iter_modules(module) if callable(m)
    }
    own = {cls for cls in originals if "__call__" in vars(cls)}
    running: set[int] = set()

    def wrapped(original: Any) -> Any:
        @functools.wraps(original)
        def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            name = names.get(id(self))
            if name is None or id(self) in running:  # the latter: a call of the parent class's
                return original(self, *args, **kwargs)
            running.add(id(self))
            outputs = record.around(name, functools.partial(original, self), args, kwargs)
            running.discard(id(self))
            return outputs

        return call

    with PATCHING:
        try:
            for cls, original in originals.items():
                cls.__call__ = wrapped(original)
            yield
        finally:
            for cls, original in originals.items():
                if cls in own:
                    cls.__call__ = original
                else:
                    del cls.__call__


def named(tree: Any) -> Arrays:
    """Dotted path -> array."""
    if isinstance(tree, nnx.State):
        state = nnx.to_flat_state(tree)
        return unique([(join(path), np.asarray(leaf[...])) for path, leaf in state], "tensors")
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return unique([(join(keys(path)), np.asarray(leaf)) for path, leaf in flat], "tensors")


def refill(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: like(arrays[join(keys(path))], leaf), tree
    )


def like_named(tree: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """A tree of the same nesting that holds these arrays; the inverse of `named`."""
    if isinstance(tree, nnx.State):
        flat = nnx.to_flat_state(tree)
        return nnx.from_flat_state(
            [(path, leaf.replace(like(arrays[join(path)], leaf))) for path, leaf in flat]
        )
    return refill(tree, arrays)


def below(tree: Any, path: str) -> Any:
    """Return the part of nested mappings below a dotted path, None if there is none."""
    for part in path.split(".") if path else ():
        tree = tree.get(part) if isinstance(tree, Mapping) else None
    return tree


def like(array: np.ndarray, leaf: Any) -> np.ndarray:
    dtype = leaf.get_value().dtype if isinstance(leaf, nnx.Variable) else leaf.dtype
    return np.asarray(array, dtype)


def keys(path: tuple) -> tuple:
    """Return the dictionary keys, attribute names and indices of a tree path."""
    return tuple(next(getattr(k, a) for a in ("key", "name", "idx") if hasattr(k, a)) for k in path)


def join(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def abstract(tree: Any) -> Any:
    """Replace arrays by their shapes and dtypes; other leaves stay."""
    return mapped(
        tree, lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if is_array(leaf) else leaf
    )


def floats_of(tree: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def restored(tree: Any, floats: list[jax.Array]) -> Any:
    """`tree` with its floating-point leaves replaced, so that they can be differentiated."""
    rest = iter(floats)
    return jax.tree.map(lambda x: next(rest) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
