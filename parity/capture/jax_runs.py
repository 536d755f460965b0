"""Compiled runs of a JAX network, or of one of its layers, that return everything recorded."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback

from parity.capture.interpreter import Interpreter
from parity.capture.jax_models import Program, floats_of, named, named_leaves, restored
from parity.capture.marks import SITES
from parity.capture.records import Arrays, Kept, Loss, RunRecord, is_array, leaves, with_arrays
from parity.capture.signature import Static
from parity.capture.traced import Traced, gathered
from parity.io import quick_compilation

Sink = Callable[..., None] | None


class Alone:
    """A program that has no hash, such as of a layer that holds a list: equal to itself alone."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __call__(self, *args: Any) -> tuple[Any, Any]:
        return self.program(*args)


def hashable(program: Program) -> Any:
    """Return a program that can be a static argument of a compiled function."""
    try:
        hash(program)
    except TypeError:
        return Alone(program)
    return program


@functools.cache
def compiled(function: Callable[..., Any], optimize: bool = False) -> Callable[..., Any]:
    """Compile for checking, where compiling takes ten times as long as running.

    Without LLVM's optimisation it takes half the time; see also `parity.io.quick_compilation`.
    """
    options = {} if optimize else quick_compilation.options(level=0)
    return jax.jit(function, static_argnums=(0, 1), compiler_options=options)


class Way(NamedTuple):
    """How a network is run.

    Attributes:
        program: The network.
        sink: See `JaxSide.run`.
        fed: Whether calls hold their arguments, too.
        kept: What is returned of the layers and gradients; None: everything.
    """

    program: Traced
    sink: Sink = None
    fed: bool = False
    kept: Kept | None = None


def run_network(
    way: Way,
    loss: Loss | None,
    trained: Any,
    rest: Any,
    inputs: Any,
    targets: tuple[jax.Array, ...],
    noise: Any = None,
) -> dict[str, Any]:
    """Run a network, and return all results as a pytree."""
    program, sink, fed, kept = way

    def forward(trained: Any, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        args = restored(inputs, floats)
        outputs, statistics, seen = program(trained, rest, args, noise)
        if kept is not None:
            seen = [call for call in seen if SITES[call.site].layer in kept.layers]
        if sink is not None:
            for name, call in program.calls(gathered(seen, False)).items():
                hand_over(functools.partial(sink, name), call.outputs)
            seen = []
        found = {"outputs": arrays_of(outputs), "statistics": statistics}
        return (loss(outputs, *targets) if loss else None), found | {"calls": gathered(seen, fed)}

    floats = floats_of(inputs)
    if loss is None:
        return forward(trained, floats)[1]
    differentiate = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
    (value, found), (d_trained, d_inputs) = differentiate(trained, floats)
    if kept is not None:
        d_trained = {n: g for n, g in named_leaves(d_trained) if n in kept.tensors}
    return found | {"loss": value, "d_trained": d_trained, "d_inputs": d_inputs}


def hand_over(sink: Callable[..., None], outputs: Sequence[Any]) -> None:
    """Send a traced call's outputs to the host when they are computed.

    They are sent as 4-byte words, since the thread that receives them cannot handle 64-bit numbers.
    """
    arrays = [jax.lax.stop_gradient(x) for x in outputs]
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


def train_network(way: Way, loss: Loss, *arrays: Any) -> dict[str, Any]:
    """Run a network, and return only the loss, the gradients and the new statistics."""
    found = run_network(way, loss, *arrays)
    return {name: found[name] for name in ("loss", "d_trained", "statistics")}


def run_layer(
    layer: tuple[Any, bool],
    static: Static,
    trained: Any,
    rest: Any,
    arrays: list[jax.Array],
    cotangents: list[jax.Array | None] | None,
    noise: Any,
) -> dict[str, Any]:
    """Run one layer, and return all results; layers that differ only in values compile once."""

    def forward(trained: Any, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        values = restored(arrays, floats)
        outputs, statistics = evaluated(layer, static, trained, rest, values, noise)
        found = arrays_of(outputs)
        pulled = found
        if cotangents is not None:
            pulled = [o for o, c in zip(found, cotangents, strict=True) if c is not None]
        return pulled, {"outputs": found, "statistics": statistics}

    floats = floats_of(arrays)
    if cotangents is None:
        return forward(trained, floats)[1]
    pulled, pull_back, found = jax.vjp(forward, trained, floats, has_aux=True)
    if [o.shape for o in pulled] != [c.shape for c in cotangents if c is not None]:
        return found  # outputs of the wrong shape have no gradient to compare
    given = [c for c in cotangents if c is not None]
    # A layer may give a narrower type than it is fed.
    d_trained, d_inputs = pull_back([c.astype(o.dtype) for o, c in zip(pulled, given, strict=True)])
    return found | {"d_trained": d_trained, "d_inputs": d_inputs}


def evaluated(
    layer: tuple[Any, bool], static: Static, trained: Any, rest: Any, arrays: Any, noise: Any
) -> tuple[list[Any], Any]:
    """Return a layer's arrays and statistics; in float64 without casts to a narrower type."""
    program, wide = layer

    def run(trained: Any, rest: Any, arrays: Any) -> tuple[list[Any], Any]:
        args, kwargs = with_arrays(static.tree, arrays)
        outputs, statistics = program(trained, rest, args, kwargs, None)
        return arrays_of(outputs), statistics

    if not wide:
        return run(trained, rest, arrays)
    closed, shapes = jax.make_jaxpr(run, return_shape=True)(trained, rest, arrays)
    flat = Interpreter(True, noise).closed(closed, jax.tree.leaves((trained, rest, arrays)))
    return jax.tree.unflatten(jax.tree.structure(shapes), flat)


def arrays_of(outputs: Any) -> list[Any]:
    return [leaf for leaf in leaves(outputs) if is_array(leaf)]


def to_result(out: dict[str, Any], program: Traced | None = None) -> RunRecord:
    out = jax.device_get(out)
    return RunRecord(
        outputs=tuple(map(np.asarray, out["outputs"])),
        calls=program.calls(out["calls"]) if program else {},
        loss=None if "loss" not in out else np.asarray(out["loss"]),
        parameter_gradients=named(out.get("d_trained", {})),
        input_gradients=tuple(map(np.asarray, out.get("d_inputs", []))),
        statistics=flat_statistics(out["statistics"]),
    )


def flat_statistics(tree: Any) -> Arrays:
    """Return statistics by dotted name; names of Linen's collections are no part of it."""
    if not isinstance(tree, dict):
        return named(tree)
    return {name: array for part in tree.values() for name, array in named(part).items()}
