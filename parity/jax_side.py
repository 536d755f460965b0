"""The JAX side of a comparison: compiles an NNX module and records every layer."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity.sides import Arrays, Call, Loss, Result, count_name

# Layers are recorded by their class, so one network at a time; compiling is not part of it.
PATCHING = threading.RLock()


class JaxSide:
    """An NNX module in one precision; see `parity.sides.Side`.

    Args:
        module: Not changed.
        dtype: Of its parameters, buffers and inputs: `float32` or `float64`.
    """

    def __init__(self, module: nnx.Module, dtype: str) -> None:
        self.dtype = jnp.dtype(dtype)
        with jax.enable_x64(dtype == "float64"):
            graph, state = nnx.split(module)
            self.module = nnx.merge(graph, jax.tree.map(self._cast, state))
        self.layers = {join(path): m for path, m in nnx.iter_modules(self.module)}

    def has(self, layer: str) -> bool:
        """Whether there is a layer of that name."""
        return layer in self.layers

    def has_modes(self, layer: str) -> bool:
        """Whether a layer computes something else in eval mode."""
        return any(
            hasattr(m, mode)
            for _, m in nnx.iter_modules(self.layers[layer])
            for mode in ("use_running_average", "deterministic")
        )

    def state(self) -> Arrays:
        return named(nnx.state(self.module))

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
    ) -> Result:
        with jax.enable_x64(self.dtype == jnp.float64):
            graph, parameters, rest = split(self.module, train)
            inputs, targets = jax.tree.map(self._cast, (inputs, targets))
            run = compiled(run_network)
            return to_result(run(graph, loss, parameters, rest, inputs, targets))

    def run_layer(
        self,
        layer: str,
        inputs: tuple[Any, ...],
        cotangents: list[np.ndarray | None] | None,
        train: bool,
    ) -> Result:
        with jax.enable_x64(self.dtype == jnp.float64):
            graph, parameters, rest = split(self.layers[layer], train)
            is_array = [isinstance(v, np.ndarray) for v in inputs]
            static = tuple(None if a else v for v, a in zip(inputs, is_array, strict=True))
            arrays = tuple(
                self._cast(v) if a else None for v, a in zip(inputs, is_array, strict=True)
            )
            cot = None
            if any(c is not None for c in cotangents or ()):
                cot = [None if c is None else self._cast(c) for c in cotangents or ()]
            run = compiled(run_layer)
            return to_result(run(graph, static, parameters, rest, arrays, cot))

    def _cast(self, value: Any) -> np.ndarray:
        """To the precision, in NumPy: JAX would compile a cast for every shape."""
        array = np.asarray(value)
        return array.astype(self.dtype) if jnp.issubdtype(array.dtype, jnp.floating) else array


def split(module: nnx.Module, train: bool) -> tuple[nnx.GraphDef, nnx.State, nnx.State]:
    graph, state = nnx.split(module)
    module = nnx.merge(graph, state)  # a copy: the mode is set on it
    if train:
        module.train()
    else:
        module.eval()
    graph, parameters, *rest = nnx.split(module, nnx.Param, ...)
    return graph, parameters, rest[0]


@functools.cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile for checking, where compiling takes ten times as long as running.

    Without LLVM's optimisation it takes half the time. XLA's own passes, which decide what is
    computed and in which order, are those of every program.
    """
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function, static_argnums=(0, 1), compiler_options=options)


def run_network(
    graph: nnx.GraphDef,
    loss: Loss | None,
    parameters: nnx.State,
    rest: nnx.State,
    inputs: Any,
    targets: tuple[jax.Array, ...],
) -> dict[str, Any]:
    """Everything of one run, as a pytree."""

    def forward(parameters: nnx.State, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        module = nnx.merge(graph, parameters, jax.tree.map(lambda x: x, rest))
        calls: dict[str, Any] = {}
        with recording(module, calls):
            outputs = module(*restore(inputs, floats))
        statistics = nnx.state(module, nnx.Not(nnx.Param))
        record = {"outputs": outputs, "calls": calls, "statistics": statistics}
        return (loss(outputs, *targets) if loss else None), record

    floats = floats_of(inputs)
    if loss is None:
        return forward(parameters, floats)[1]
    differentiate = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
    (value, record), (d_parameters, d_inputs) = differentiate(parameters, floats)
    return record | {"loss": value, "d_parameters": d_parameters, "d_inputs": d_inputs}


def run_layer(
    graph: nnx.GraphDef,
    static: tuple[Any, ...],
    parameters: nnx.State,
    rest: nnx.State,
    arrays: tuple[jax.Array | None, ...],
    cotangents: list[jax.Array | None] | None,
) -> dict[str, Any]:
    """Everything of one run of one layer; layers alike in all but their values compile once."""

    def forward(parameters: nnx.State, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        module = nnx.merge(graph, parameters, jax.tree.map(lambda x: x, rest))
        inputs = restore(arrays, floats)
        outputs = module(*(s if a is None else a for s, a in zip(static, inputs, strict=True)))
        leaves = jax.tree.leaves(outputs)
        pulled = leaves
        if cotangents is not None:
            pulled = [o for o, c in zip(leaves, cotangents, strict=True) if c is not None]
        statistics = nnx.state(module, nnx.Not(nnx.Param))
        return pulled, {"outputs": outputs, "statistics": statistics}

    floats = floats_of(arrays)
    if cotangents is None:
        return forward(parameters, floats)[1]
    pulled, pull_back, record = jax.vjp(forward, parameters, floats, has_aux=True)
    if [o.shape for o in pulled] != [c.shape for c in cotangents if c is not None]:
        return record  # outputs of the wrong shape have no gradient to compare
    d_parameters, d_inputs = pull_back([c for c in cotangents if c is not None])
    return record | {"d_parameters": d_parameters, "d_inputs": d_inputs}


@contextlib.contextmanager
def recording(module: nnx.Module, calls: dict[str, Any]) -> Iterator[None]:
    """While it lasts, every call of a layer of `module` leaves its outputs in `calls`."""
    names = {id(m): join(path) for path, m in nnx.iter_modules(module) if path}
    originals: dict[Any, Any] = {
        type(m): type(m).__call__ for _, m in nnx.iter_modules(module) if callable(m)
    }
    own = {cls for cls in originals if "__call__" in vars(cls)}
    running: set[int] = set()

    def wrap(original: Any) -> Any:
        @functools.wraps(original)
        def call(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            name = names.get(id(self))
            if name is None or id(self) in running:  # the latter: a call of the parent class's
                return original(self, *args, **kwargs)
            running.add(id(self))
            outputs = original(self, *args, **kwargs)
            running.discard(id(self))
            calls[count_name(name, calls)] = outputs
            return outputs

        return call

    with PATCHING:
        try:
            for cls, original in originals.items():
                cls.__call__ = wrap(original)
            yield
        finally:
            for cls, original in originals.items():
                if cls in own:
                    cls.__call__ = original
                else:
                    del cls.__call__


def floats_of(inputs: Any) -> list[jax.Array]:
    return [x for x in jax.tree.leaves(inputs) if jnp.issubdtype(x.dtype, jnp.floating)]


def restore(inputs: Any, floats: list[jax.Array]) -> Any:
    """`inputs` with its floating-point leaves replaced, so that they can be differentiated."""
    rest = iter(floats)
    return jax.tree.map(
        lambda x: next(rest) if jnp.issubdtype(x.dtype, jnp.floating) else x, inputs
    )


def to_result(out: dict[str, Any]) -> Result:
    out = jax.device_get(out)
    return Result(
        outputs=leaves(out["outputs"]),
        calls={k: Call(k, outputs=leaves(v)) for k, v in out.get("calls", {}).items()},
        loss=out.get("loss"),
        parameter_gradients=named(out.get("d_parameters", nnx.State({}))),
        input_gradients=leaves(out.get("d_inputs", [])),
        statistics=named(out["statistics"]),
    )


def leaves(tree: Any) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(x) for x in jax.tree.leaves(tree))


def named(state: nnx.State) -> Arrays:
    return {join(path): np.asarray(leaf[...]) for path, leaf in nnx.to_flat_state(state)}


def join(path: tuple) -> str:
    return ".".join(str(part) for part in path)
