"""The PyTorch side of a comparison: runs a module and records every layer."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from parity.sides import Arrays, Call, Loss, Result, count_name


class TorchSide:
    """A module in one precision; see `parity.sides.Side`.

    Args:
        module: Copied, then cast.
        dtype: Of its parameters, buffers and inputs: `float32` or `float64`.
    """

    def __init__(self, module: nn.Module, dtype: str) -> None:
        self.dtype = getattr(torch, dtype)
        self.module = copy.deepcopy(module).to(self.dtype)

    def kind(self, layer: str) -> str:
        """The class of a layer."""
        return type(self.module.get_submodule(layer)).__name__

    def has_parts(self, layer: str) -> bool:
        """Whether a layer is made of layers."""
        return any(True for _ in self.module.get_submodule(layer).children())

    def disturbed(self, scale: float, rng: np.random.Generator) -> TorchSide:
        """The same with every parameter and floating-point buffer times 1 + scale * U(-1, 1)."""
        side = copy.copy(self)
        side.module = copy.deepcopy(self.module)
        with torch.no_grad():
            for tensor in (*side.module.parameters(), *side.module.buffers()):
                if tensor.is_floating_point():
                    noise = torch.tensor(rng.uniform(-scale, scale, tuple(tensor.shape)))
                    tensor.mul_(1 + noise.to(tensor.dtype))
        return side

    def state(self) -> Arrays:
        return {k: v.detach().numpy() for k, v in self.module.state_dict().items()}

    def run(
        self,
        inputs: tuple[Any, ...],
        train: bool,
        loss: Loss | None = None,
        targets: tuple[np.ndarray, ...] = (),
    ) -> Result:
        module = copy.deepcopy(self.module).train(train)
        arguments = self._to_torch(inputs, loss is not None)
        calls: dict[str, Call] = {}
        handles = [h for name, m in module.named_modules() if name for h in record(m, name, calls)]
        with torch.set_grad_enabled(loss is not None):
            outputs = module(*arguments)
            value = loss(outputs, *self._to_torch(targets, False)) if loss else None
        for handle in handles:
            handle.remove()
        result = Result(outputs=arrays_of(outputs), calls=calls, statistics=statistics(module))
        if value is not None:
            result.loss = value.detach().numpy()
            value.backward()
            self._gradients(result, module, arguments)
        return result

    def run_layer(
        self,
        layer: str,
        inputs: tuple[Any, ...],
        cotangents: list[np.ndarray | None] | None,
        train: bool,
    ) -> Result:
        module = copy.deepcopy(self.module.get_submodule(layer)).train(train)
        differentiate = any(c is not None for c in cotangents or ())
        arguments = self._to_torch(inputs, differentiate)
        with torch.set_grad_enabled(differentiate):
            outputs = module(*arguments)
        result = Result(outputs=arrays_of(outputs), statistics=statistics(module))
        if differentiate:
            pairs = [
                (o, from_numpy(c).to(o.dtype))
                for o, c in zip(tensors_of(outputs), cotangents or (), strict=True)
                if c is not None
            ]
            torch.autograd.backward([o for o, _ in pairs], [c for _, c in pairs])
            self._gradients(result, module, arguments)
        return result

    def _gradients(self, result: Result, module: nn.Module, arguments: Any) -> None:
        for name, p in module.named_parameters():
            if p.grad is not None:
                result.parameter_gradients[name] = p.grad.numpy()
        result.input_gradients = tuple(
            to_numpy(torch.zeros_like(a) if a.grad is None else a.grad)
            for a in tensors_of(arguments)
            if a.is_floating_point()
        )

    def _to_torch(self, inputs: Any, differentiate: bool) -> Any:
        def convert(value: Any) -> Any:
            if not isinstance(value, np.ndarray):
                return value
            tensor = from_numpy(value)
            if tensor.is_floating_point():
                tensor = tensor.to(self.dtype).requires_grad_(differentiate)
            return tensor

        return pytree.tree_map(convert, inputs)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: layers of a test are small, and XLA compiles beside it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def record(module: nn.Module, name: str, calls: dict[str, Call]) -> list[Any]:
    """Hook a layer so that each call, its inputs and the gradients of its outputs are kept."""
    pending: list[tuple[Any, ...]] = []

    def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
        # Copied before the layer runs: it may work in place.
        values = (*args, *kwargs.values())
        pending.append(
            tuple(to_numpy(v).copy() if isinstance(v, torch.Tensor) else v for v in values)
        )

    def after(_: nn.Module, args: tuple, outputs: Any) -> None:
        call = Call(count_name(name, calls), pending.pop(), arrays_of(outputs))
        calls[call.layer] = call
        call.cotangents = [None] * len(call.outputs)
        for i, tensor in enumerate(tensors_of(outputs)):
            if tensor.requires_grad:
                tensor.register_hook(lambda g, i=i: call.cotangents.__setitem__(i, to_numpy(g)))

    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]


def statistics(module: nn.Module) -> Arrays:
    return {k: v.detach().numpy() for k, v in module.named_buffers()}


def tensors_of(outputs: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, torch.Tensor)]


def arrays_of(outputs: Any) -> tuple[np.ndarray, ...]:
    return tuple(to_numpy(t).copy() for t in tensors_of(outputs))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """(N, C, H, W) to (N, H, W, C); other ranks as they are."""
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def from_numpy(array: np.ndarray) -> torch.Tensor:
    """(N, H, W, C) to (N, C, H, W); other ranks as they are. The tensor owns its memory."""
    return torch.tensor(array.transpose(0, 3, 1, 2).copy() if array.ndim == 4 else array)
