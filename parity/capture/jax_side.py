"""The JAX side of a comparison: compiles a network and records every layer."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from parity.capture.interpreter import Change
from parity.capture.jax_models import (
    Model,
    Program,
    named,
    wrap,
)
from parity.capture.jax_runs import (
    Sink,
    Way,
    compiled,
    hashable,
    run_layer,
    run_network,
    to_result,
    train_network,
)
from parity.capture.records import (
    Arrays,
    Call,
    Cotangents,
    ForwardError,
    Kept,
    Loss,
    Returned,
    RunRecord,
    mapped,
    narrowed,
)
from parity.capture.signature import CalledProgram, Signature, Static
from parity.capture.traced import Traced, signature, traced

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

    Attributes:
        kept: What runs of the whole network record; None: everything.

    Raises:
        InputError: The port is none of these, or its parameters are missing.
    """

    kept: Kept | None = None

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
        self.wide = self.dtype == jnp.float64
        with self.precision():
            self.model: Model = wrap(port, params).cast(self._cast)
            if self.wide:
                self.model.widen()
        self.layers = self.model.layers()
        self.traced: dict[bool, dict[str, Call]] = {}
        self.programs: dict[tuple[bool, Hashable], Traced] = {}
        self.latest: dict[bool, Traced] = {}

    def narrow(self, what: str) -> dict[str, str]:
        """Return layers that compute in a narrower type inside, and what it is that does.

        Args:
            what: `lifted`: in float64 here, although the author wrote a narrower type; `kept`: as
                written, since nothing else can be computed.
        """
        found: dict[str, str] = {}
        for program in self.latest.values():
            found |= getattr(program, what)
        return found

    @property
    def rounded(self) -> bool:
        """Return whether a constant of the network is known in a narrower type only."""
        return any(program.rounded for program in self.latest.values())

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
        """Return the class of a layer."""
        return type(self.layers[layer]).__name__

    def is_of_flax(self, layer: str) -> bool:
        """Return whether a layer is one of Flax's own, or of a class that is made of one."""
        if layer not in self.layers:
            return False
        kinds = type(self.layers[layer]).__mro__
        called = next((kind for kind in kinds if "__call__" in vars(kind)), object)
        return called.__module__.startswith(("flax.nnx.nn.", "flax.linen."))

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
            with self.precision():
                trees = self.trees(inputs, train)
                program = self.program(trees, train)
                way = Way(program, fed=True)
                found = jax.eval_shape(functools.partial(run_network, way, None), *trees, ())
            self.traced[train] = program.calls(found["calls"])
        return self.traced[train]

    def program(self, trees: tuple[Any, Any, Any], train: bool) -> Traced:
        """Return the network traced for arrays of these shapes.

        Raises:
            ForwardError: The network raised.
        """
        key = train, signature(trees)
        if key not in self.programs:
            network = self.network(train)[0]
            self.programs[key] = traced(network, self.modes[train], trees, self.wide)
            self.model.meet(train, self.programs[key].modules())
            self.layers = self.model.layers()
        self.latest[train] = self.programs[key]
        return self.programs[key]

    def changed(self, changes: Mapping[bool, Mapping[int, Change]]) -> JaxSide:
        """Return a copy in which equations of the latest programs are changed, by mode."""
        made = copy.copy(self)
        made.programs = {
            key: program.changed(changes.get(bool(key[0]), {}))
            for key, program in self.programs.items()
        }
        return made

    def trees(self, inputs: tuple[Any, ...], train: bool) -> tuple[Any, Any, Any]:
        _, trained, rest = self.model.split("", train)
        return trained, rest, self._arrays(inputs)

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
        sink: Sink = None,
        fed: bool = False,
        noise: float = 0.0,
    ) -> RunRecord:
        """Run the whole network; see `TorchSide.run`.

        Args:
            inputs: As in `TorchSide.run`.
            train: Train mode, else eval mode.
            loss: The loss to differentiate; forward only if None.
            targets: The loss's targets.
            sink: Called with each call's name and outputs as they are computed; the result then has
                no calls.
            fed: Whether the calls hold their arguments, too.
            noise: How much constants that are known in a narrower type only are disturbed.

        Raises:
            ForwardError: The network or the loss raised.
        """
        with self.precision():
            trees = self.trees(inputs, train)
            program = self.program(trees, train)
            run = compiled(run_network, self.optimize)
            arrays = (*trees, self._arrays(targets), self._cast(noise))
            way = Way(program, sink, fed, self.kept)
            found = to_result(self._guarded(run, way, loss, *arrays), program)
            if sink is not None:
                jax.effects_barrier()
            return found

    def run_layer(
        self,
        call: Call,
        arrays: list[np.ndarray],
        cotangents: Cotangents,
        train: bool,
        noise: float = 0.0,
    ) -> RunRecord:
        """Run one layer alone, and pull the cotangents back.

        Args:
            call: The traced call, or the reference's.
            arrays: Replace the arrays among its arguments, in their order.
            cotangents: One per output, None where there is none.
            train: Train mode, else eval mode.
            noise: See `run`.

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
            layer = (hashable(program), self.wide)
            trees = (trained, rest, values, pull, self._cast(noise))
            return to_result(self._guarded(run, layer, static, *trees))

    def jaxpr(self, inputs: tuple[Any, ...], train: bool) -> Any:
        """Return the network's operations, traced and not compiled."""
        with self.precision():
            return self.program(self.trees(inputs, train), train).closed

    def split(self) -> tuple[Program, Any, Any]:
        """Return the network in train mode: its program, what is trained, and the rest."""
        return self.network(True)

    def network(self, train: bool) -> tuple[Program, Any, Any]:
        """Return the network in a mode: its program, what is trained, and the rest."""
        program, trained, rest = self.model.split("", train)
        if train not in self.signatures:
            return program, trained, rest
        called = CalledProgram(program, self.signatures[train], train, self.returned)
        return called, trained, rest

    def outputs(self, train: bool) -> list[Returned]:
        """Return what the network returned when it was traced: everything, by name."""
        return self.returned.get(train, [])

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
        _, trained, rest = network
        # What has been compiled for `run` serves again, but keeps every activation.
        whole = self.kept is None and not self.optimize
        run = compiled(run_network if whole else train_network, self.optimize)
        with self.precision():
            trees = (trained, rest, self._arrays(inputs))
            program = self.program(trees, True)
            arrays = (*trees, self._arrays(targets), self._cast(0.0))
            return self._guarded(run, Way(program), loss, *arrays)

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
            return narrowed(array, self.dtype)
        return array.astype(NARROWER.get(array.dtype, array.dtype), copy=False)

    def _guarded(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except ForwardError:
            raise
        except Exception as error:
            raise ForwardError("port", "", error) from error
