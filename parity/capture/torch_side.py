"""The PyTorch side of a comparison: runs a module and records every layer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from parity.capture.rates import set_rates
from parity.capture.records import (
    NHWC,
    Call,
    Cotangents,
    Kept,
    Layout,
    Loss,
    RunRecord,
    mapped,
    returned,
)
from parity.capture.signature import Signature
from parity.capture.snapshots import Snapshot
from parity.capture.spill import Keeper, in_memory
from parity.capture.torch_arrays import (
    Axes,
    forget_gradients,
    gradients_of,
    laid_out,
    statistics,
    tensors_of,
    to_numpy,
    turned_back,
)
from parity.capture.torch_backward import pull_back
from parity.capture.torch_draws import Quiet, silence
from parity.capture.torch_lifting import Lifted
from parity.capture.torch_module import TorchModule
from parity.capture.torch_recorder import Recorder, blamed


class TorchSide(TorchModule):
    """A module that is run in one precision.

    Args:
        module: Copied, then cast. Dropouts that are layers, or settings of layers, are switched
            off.
        dtype: The dtype of its parameters, buffers and inputs: `float64`, `float32`, `bfloat16`,
            `float16`.
        layout: The permutations of axes from PyTorch's layout to the port's.
        signatures: How the network is called in eval mode and in train mode; its inputs are then
            the arrays alone.

    Attributes:
        input_axes: The network's inputs by number, whose permutation is not that of `layout`.
        output_axes: The same of its outputs, in eval mode and in train mode.
        silenced: Names of the dropouts.
        quieted: Layers with a dropout inside that was switched off -> what it was.
        quiet: Whether functions of dropout that modules call are switched off, too.
        kept: What runs of the whole network record; None: everything.

    Raises:
        InputError: It is not a module, or on another device than the CPU.
    """

    kept: Kept | None = None

    def __init__(
        self,
        module: nn.Module,
        dtype: str,
        layout: Layout = NHWC,
        signatures: Mapping[bool, Signature] = MappingProxyType({}),
    ) -> None:
        super().__init__(module, dtype)
        self.layout = layout
        self.signatures = signatures
        self.input_axes: dict[int, Axes] = {}
        self.output_axes: dict[bool, dict[int, Axes]] = {False: {}, True: {}}
        self.lifted: dict[str, str] = {}  # layers in which a cast was left out, and what it was
        self.silenced, inside = silence(self.module)
        self.quieted = dict.fromkeys(inside, "dropout")
        self.quiet = False

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
        keep: Keeper = in_memory,
    ) -> RunRecord:
        """Run the whole network on a fresh copy of its state.

        Args:
            inputs: Arrays, or nests of them; floating-point ones are cast to the precision.
            train: Train mode, else eval mode.
            loss: Maps the network's outputs and `targets` to the scalar to differentiate; forward
                only if None.
            targets: Such as labels and class weights; cast like the inputs.
            keep: Stores layers' inputs and outputs, such as a `SpillFile`.

        Raises:
            ForwardError: The network or the loss raised.
        """
        module = copy.deepcopy(self.module).train(train)
        arguments = self.inputs(inputs, loss is not None)
        layers = None
        if self.kept is not None:
            layers = self.kept.layers
            forget_gradients(module, self.kept.tensors)
        recorder = Recorder(module, self.layout, keep, layers)
        running = recorder.running
        graded = torch.set_grad_enabled(loss is not None)
        with graded, recorder, blamed(running), self.wide(running), self.quietly(running):
            outputs = self.whole(module, _apart(arguments), train)
            value = loss(outputs, *self._to_torch(targets, False)) if loss else None
        result = RunRecord(
            outputs=self._arrays(outputs, self.output_axes[train]),
            calls=recorder.calls,
            statistics=statistics(module),
            returned=returned(outputs, lambda leaf: isinstance(leaf, torch.Tensor)),
        )
        if value is not None:
            result.loss = to_numpy(value)
            with blamed([]):
                self.pull_back([value])
            result.statistics = statistics(module)  # what is computed again may replace them
            self._gradients(result, module, arguments, self.input_axes)
        return result

    def whole(self, module: nn.Module, arguments: Any, train: bool) -> Any:
        """Call the network, or a copy of it, with what `inputs` gave."""
        if train in self.signatures:
            signature = self.signatures[train]
            return signature.run(
                lambda *args, **kwargs: self.called(module, args, kwargs), arguments
            )
        return self.called(module, arguments, {})

    def inputs(self, inputs: Any, differentiate: bool = False) -> Any:
        """Return the network's inputs as tensors of this precision."""
        if not self.input_axes:
            return self._to_torch(inputs, differentiate)
        return tuple(
            self._tensor(array, differentiate, self.input_axes.get(i, self.layout.get(array.ndim)))
            for i, array in enumerate(inputs)
        )

    def run_layer(self, call: Call, cotangents: Cotangents, train: bool) -> RunRecord:
        """Run one layer alone on a fresh copy of its state, and pull the cotangents back.

        Raises:
            ForwardError: The layer raised.
        """
        layer = self.module.get_submodule(call.module)
        module = copy.deepcopy(layer).train(train)
        if self.noise is not None:
            self.noise.disturb(layer, module)
        differentiate = any(c is not None for c in cotangents or ())
        args, kwargs = self._to_torch((call.args, call.kwargs), differentiate)
        running = [call.layer]
        graded = torch.set_grad_enabled(differentiate)
        with graded, blamed(running), self.wide(running), self.quietly(running):
            outputs = self.called(module, *_apart((args, kwargs)))
        result = RunRecord(outputs=self._arrays(outputs), statistics=statistics(module))
        if differentiate:
            pairs = [
                (o, self._from_numpy(c).to(o.dtype))
                for o, c in zip(tensors_of(outputs), cotangents or (), strict=True)
                if c is not None
            ]
            if any(o.shape != c.shape for o, c in pairs):
                return result  # outputs of another shape have no gradient to compare
            with blamed([call.layer]):
                self.pull_back([o for o, _ in pairs], [c for _, c in pairs])
            result.statistics = statistics(module)
            self._gradients(result, module, (args, kwargs), {})
        return result

    def quietly(self, running: list[str]) -> Any:
        """Context in which functions of dropout do nothing, where that was asked for.

        Args:
            running: The layers that have begun and not returned, innermost last.
        """
        return Quiet(running, self.quieted) if self.quiet else contextlib.nullcontext()

    def silence(self, layer: str) -> bool:
        """Switch off what all layers of a layer's class draw, by their attributes.

        Returns:
            Whether it has an attribute that holds a rate.
        """
        kind = type(self.module.get_submodule(layer))
        alike = [n for n, m in self.module.named_modules() if type(m) is kind]
        rates = {name: set_rates(self.module.get_submodule(name)) for name in alike}
        self.quieted |= {name: ", ".join(found) for name, found in rates.items() if found}
        return bool(rates[layer])

    @contextlib.contextmanager
    def wide(self, running: Sequence[str]) -> Iterator[None]:
        """Context that leaves casts to a narrower type out, if this side is in float64."""
        if self.dtype != torch.float64:
            yield
            return
        with Lifted(running) as lifted:
            yield
        self.lifted |= lifted.layers

    def pull_back(
        self, outputs: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor] | None = None
    ) -> None:
        """Run backward as a run of this side is made; see the function."""
        pull_back(outputs, gradients, self.dtype, self.quiet)

    def called(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Run a module; what changes it while it runs overrides this."""
        return module(*args, **kwargs)

    def arguments(self, inputs: Any) -> Any:
        """Return arrays of the port's layout as tensors of this precision."""
        return self._to_torch(inputs, False)

    def _gradients(
        self, result: RunRecord, module: nn.Module, arguments: Any, given: Mapping[int, Axes]
    ) -> None:
        result.parameter_gradients = gradients_of(module)
        result.input_gradients = tuple(
            laid_out(
                torch.zeros_like(a) if a.grad is None else a.grad,
                {a.ndim: given[i]} if i in given else self.layout,
            )
            for i, a in enumerate(tensors_of(arguments))
            if a.is_floating_point()
        )

    def _arrays(
        self, outputs: Any, given: Mapping[int, Axes] = MappingProxyType({})
    ) -> tuple[np.ndarray, ...]:
        return tuple(
            laid_out(t, {t.ndim: given[i]} if i in given else self.layout).copy()
            for i, t in enumerate(tensors_of(outputs))
        )

    def _to_torch(self, inputs: Any, differentiate: bool) -> Any:
        def convert(value: Any) -> Any:
            if isinstance(value, Snapshot):
                return value.object(lambda a: self._tensor(a, False, self.layout.get(a.ndim)))
            if not isinstance(value, np.ndarray):
                return value
            return self._tensor(value, differentiate, self.layout.get(value.ndim))

        return mapped(inputs, convert)

    def _tensor(self, array: np.ndarray, differentiate: bool, axes: Axes) -> torch.Tensor:
        tensor = turned_back(array, axes)
        if tensor.is_floating_point():
            tensor = tensor.to(self.dtype).requires_grad_(differentiate)
        return tensor

    def _from_numpy(self, array: np.ndarray) -> torch.Tensor:
        """Convert from the port's layout; the tensor owns its memory."""
        return turned_back(array, self.layout.get(array.ndim))


def _apart(arguments: Any) -> Any:
    """Return arguments with a copy of every leaf that has a gradient: a layer may work in place.

    PyTorch refuses that for the leaf itself.
    """

    def copied(leaf: Any) -> Any:
        return leaf.clone() if isinstance(leaf, torch.Tensor) and leaf.requires_grad else leaf

    return mapped(arguments, copied)
