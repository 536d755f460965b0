"""The JAX side of a comparison: compiles a network and records every layer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.capture.jax_models import (
    Model,
    Program,
    Record,
    abstract,
    floats_of,
    named,
    restored,
    wrap,
)
from parity.capture.records import (
    Arrays,
    Call,
    Cotangents,
    ForwardError,
    Loss,
    Result,
    Returned,
    is_array,
    leaves,
    mapped,
    with_arrays,
)
from parity.capture.signature import CalledProgram, Signature, Static

Sink = Callable[..., None] | None
NARROWER = {np.dtype(np.int64): np.int32, np.dtype(np.uint64): np.uint32}


class JaxSide:
    """A network in one precision.

    Args:
        port: A Flax NNX module, a Flax Linen module, or a function of parameters and inputs; it is
            not modified. Flax's own dropouts are switched off.
        dtype: The dtype of its parameters, buffers and inputs: `float64`, `float32`, `bfloat16`,
            `float16`.
        params: The parameters of a function, or the variables of a Linen module.
        modes: Keyword arguments of the network in eval mode and in train mode.
        signatures: How the network is called in eval mode and in train mode; its inputs are then
            the arrays alone.
        optimize: Whether whole runs are compiled with all of LLVM's optimisation, which pays where
            running takes longer than compiling.

    Raises:
        InputError: The port is none of these, or its parameters are missing.
    """

    def __init__(
        self,
        port: Any,
        dtype: str,
        params: Any = None,
        modes: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
        optimize: bool = False,
        signatures: Mapping[bool, Signature] = MappingProxyType({}),
    ) -> None:
        self.dtype = jnp.dtype(dtype)
        self.modes = modes
        self.optimize = optimize
        self.signatures = signatures
        self.returned: dict[bool, list[Returned]] = {}
        with self.precision():
            self.model: Model = wrap(port, params).cast(self._cast)
        self.layers = self.model.layers()
        self.traced: dict[bool, dict[str, Call]] = {}

    def has(self, layer: str) -> bool:
        """Return whether there is a layer of that name."""
        return layer in self.layers

    def has_parts(self, layer: str) -> bool:
        """Return whether a layer is made of layers."""
        return any(name.startswith(f"{layer}.") for name in self.layers)

    def has_modes(self, layer: str) -> bool:
        """Return whether a layer may compute something else in eval mode."""
        return any(
            hasattr(module, mode)
            for name, module in self.layers.items()
            if name == layer or name.startswith(f"{layer}.")
            for mode in ("use_running_average", "deterministic")
        )

    def kind(self, layer: str) -> str:
        """The class of a layer."""
        return type(self.layers[layer]).__name__

    def state(self) -> Arrays:
        return self.model.state()

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take these arrays, by dotted name, cast to the precision."""
        with self.precision():
            self.model = self.model.filled(arrays).cast(self._cast)
        self.layers = self.model.layers()

    def trace(self, inputs: tuple[Any, ...], train: bool) -> dict[str, Call]:
        """Return every call of a layer, with abstract arguments and outputs; nothing is compiled.

        Raises:
            ForwardError: The network raised.
        """
        if train not in self.traced:
            program, trained, rest = self.network(train)
            record = Record()

            def forward(trained: Any, rest: Any, args: Any) -> Any:
                outputs, _ = program(trained, rest, args, self.modes[train], record)
                kept = {k: abstract(v) for k, v in record.calls.items()}
                record.calls = kept
                return arrays_of(outputs)

            with self.precision():
                self._guarded(record, jax.eval_shape, forward, trained, rest, self._arrays(inputs))
            self.traced[train] = {
                name: Call(name, args, kwargs, tuple(leaves(outputs)))
                for name, (args, kwargs, outputs) in record.calls.items()
            }
            self.layers = self.model.layers()
        return self.traced[train]

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
        sink: Sink = None,
    ) -> Result:
        """Run the whole network; see `TorchSide.run`.

        Args:
            inputs: As in `TorchSide.run`.
            train: Train mode, else eval mode.
            loss: The loss to differentiate; forward only if None.
            targets: The loss's targets.
            sink: Called with each call's name and outputs as they are computed; the result then has
                no calls.

        Raises:
            ForwardError: The network or the loss raised.
        """
        program, trained, rest = self.network(train)
        modes = tuple(sorted(self.modes[train].items()))
        with self.precision():
            run = compiled(run_network, self.optimize)
            arrays = (trained, rest, self._arrays(inputs), self._arrays(targets))
            found = to_result(self._guarded(None, run, (program, modes, sink), loss, *arrays))
            if sink is not None:
                jax.effects_barrier()
            return found

    def run_layer(
        self, call: Call, arrays: list[np.ndarray], cotangents: Cotangents, train: bool
    ) -> Result:
        """Run one layer alone, and pull the cotangents back.

        Args:
            call: The traced call, or the reference's.
            arrays: Replace the arrays among its arguments, in their order.
            cotangents: One per output, None where there is none.
            train: Train mode, else eval mode.

        Raises:
            ForwardError: The layer raised.
        """
        program, trained, rest = self.model.split(call.module, train)
        static = Static((call.args, call.kwargs))
        with self.precision():
            pull = None
            if any(c is not None for c in cotangents or ()):
                pull = [None if c is None else self._cast(c) for c in cotangents or ()]
            run = compiled(run_layer)
            values = [self._cast(a) for a in arrays]
            out = self._guarded(None, run, program, static, trained, rest, values, pull)
            return to_result(out)

    def jaxpr(self, inputs: tuple[Any, ...], train: bool) -> Any:
        """The network's operations, traced and not compiled."""
        program, trained, rest = self.network(train)

        def forward(trained: Any, rest: Any, args: Any) -> Any:
            return arrays_of(program(trained, rest, args, self.modes[train], None)[0])

        with self.precision():
            return jax.make_jaxpr(forward)(trained, rest, self._arrays(inputs))

    def split(self) -> tuple[Program, Any, Any]:
        """The network in train mode: its program, what is trained, and the rest."""
        return self.network(True)

    def network(self, train: bool) -> tuple[Program, Any, Any]:
        """The network in a mode: its program, what is trained, and the rest."""
        program, trained, rest = self.model.split("", train)
        if train in self.signatures:
            program = CalledProgram(program, self.signatures[train], train, self.returned)
        return program, trained, rest

    def outputs(self, train: bool) -> list[Returned]:
        """What the network returned when it was traced; see `CalledProgram.known`."""
        program = self.network(train)[0]
        return program.known() if isinstance(program, CalledProgram) else []

    def parameters(self) -> set[str]:
        """Return the names of the trained parameters."""
        return set(named(self.split()[1]))

    def differentiate(
        self,
        network: tuple[Program, Any, Any],
        inputs: tuple[Any, ...],
        loss: Loss,
        targets: tuple[np.ndarray, ...],
    ) -> dict[str, Any]:
        """Run a network that `split` gave, in train mode, whatever it holds by now.

        Returns:
            `loss`, `d_trained` and `statistics`, as trees.

        Raises:
            ForwardError: The network or the loss raised.
        """
        program, trained, rest = network
        modes = tuple(sorted(self.modes[True].items()))
        # What has been compiled for `run` serves again, but keeps every activation.
        run = compiled(train_network if self.optimize else run_network, self.optimize)
        with self.precision():
            arrays = (trained, rest, self._arrays(inputs), self._arrays(targets))
            return self._guarded(None, run, (program, modes, None), loss, *arrays)

    def precision(self) -> Any:
        """Context in which JAX computes in this precision."""
        return jax.enable_x64(self.dtype == jnp.float64)

    def _arrays(self, tree: Any) -> Any:
        return mapped(tree, self._cast)

    def _cast(self, value: Any) -> np.ndarray:
        """Cast to the side's precision, in NumPy: JAX would compile a cast for every shape.

        64-bit integers become 32-bit ones, as JAX does itself where x64 is off. Left to JAX, a call
        running concurrently with one where x64 is on was seen to get the other's setting.
        """
        array = np.asarray(value)
        if jnp.issubdtype(array.dtype, jnp.floating):
            return array.astype(self.dtype)
        return array.astype(NARROWER.get(array.dtype, array.dtype))

    def _guarded(self, record: Record | None, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except ForwardError:
            raise
        except Exception as error:
            running = record.running if record else []
            raise ForwardError("port", running[-1] if running else "", error) from error


@functools.cache
def compiled(function: Callable[..., Any], optimize: bool = False) -> Callable[..., Any]:
    """Compile for checking, where compiling takes ten times as long as running.

    Without LLVM's optimisation it takes half the time. XLA's own passes, which decide what is
    computed and in which order, are those of every program.
    """
    options = {} if optimize else {"xla_backend_optimization_level": 0}
    return jax.jit(function, static_argnums=(0, 1), compiler_options=options)


def run_network(
    static: tuple[Program, tuple[tuple[str, Any], ...], Sink],
    loss: Loss | None,
    trained: Any,
    rest: Any,
    inputs: Any,
    targets: tuple[jax.Array, ...],
) -> dict[str, Any]:
    """Run a network, and return all results as a pytree."""
    program, modes, sink = static

    def forward(trained: Any, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        record = Record(sink=sink)
        args = restored(inputs, floats)
        try:
            outputs, statistics = program(trained, rest, args, dict(modes), record)
        except Exception as error:  # its place is lost outside the trace
            raise ForwardError(
                "port", record.running[-1] if record.running else "", error
            ) from error
        calls = {k: arrays_of(outputs) for k, (_, _, outputs) in record.calls.items() if not sink}
        found = {"outputs": arrays_of(outputs), "calls": calls, "statistics": statistics}
        return (loss(outputs, *targets) if loss else None), found

    floats = floats_of(inputs)
    if loss is None:
        return forward(trained, floats)[1]
    differentiate = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
    (value, found), (d_trained, d_inputs) = differentiate(trained, floats)
    return found | {"loss": value, "d_trained": d_trained, "d_inputs": d_inputs}


def train_network(
    static: tuple[Program, tuple[tuple[str, Any], ...], Sink], loss: Loss, *arrays: Any
) -> dict[str, Any]:
    """Run a network, and return only the loss, the gradients and the new statistics."""
    found = run_network(static, loss, *arrays)
    return {name: found[name] for name in ("loss", "d_trained", "statistics")}


def run_layer(
    program: Program,
    static: Static,
    trained: Any,
    rest: Any,
    arrays: list[jax.Array],
    cotangents: list[jax.Array | None] | None,
) -> dict[str, Any]:
    """Run one layer, and return all results; layers that differ only in values compile once."""

    def forward(trained: Any, floats: list[jax.Array]) -> tuple[Any, dict[str, Any]]:
        args, kwargs = with_arrays(static.tree, restored(arrays, floats))
        outputs, statistics = program(trained, rest, args, kwargs, None)
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
    d_trained, d_inputs = pull_back([c for c in cotangents if c is not None])
    return found | {"d_trained": d_trained, "d_inputs": d_inputs}


def arrays_of(outputs: Any) -> list[Any]:
    return [leaf for leaf in leaves(outputs) if is_array(leaf)]


def to_result(out: dict[str, Any]) -> Result:
    out = jax.device_get(out)
    return Result(
        outputs=tuple(map(np.asarray, out["outputs"])),
        calls={
            k: Call(k, outputs=tuple(map(np.asarray, v))) for k, v in out.get("calls", {}).items()
        },
        loss=None if "loss" not in out else np.asarray(out["loss"]),
        parameter_gradients=named(out.get("d_trained", {})),
        input_gradients=tuple(map(np.asarray, out.get("d_inputs", []))),
        statistics=flat_statistics(out["statistics"]),
    )


def flat_statistics(tree: Any) -> Arrays:
    """Dotted name -> array; Linen's are in collections, whose names do not count."""
    if not isinstance(tree, dict):
        return named(tree)
    return {name: array for part in tree.values() for name, array in named(part).items()}
