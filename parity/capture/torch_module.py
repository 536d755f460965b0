"""A PyTorch module in one precision: what it and its layers are, and disturbed copies of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence, Set
from typing import Any, Self

import numpy as np
import torch
from torch import nn

from parity.capture.records import Arrays
from parity.capture.torch_arrays import is_short, to_numpy
from parity.capture.torch_copies import Noise, borrowed, float_tensors, multiply
from parity.spec.errors import InputError

CHANNELS_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)


class TorchModule:
    """A module in one precision.

    Args:
        module: Copied, then cast.
        dtype: The dtype of its parameters and buffers: `float64`, `float32`, `bfloat16`, `float16`.

    Attributes:
        noise: What layers that are run alone are disturbed by.

    Raises:
        InputError: It is not a module, is compiled, or is on another device than the CPU.
    """

    noise: Noise | None = None

    def __init__(self, module: nn.Module, dtype: str) -> None:
        if not isinstance(module, nn.Module):
            kind = type(module).__name__
            raise InputError(f"the reference is a {kind}, expected a torch.nn.Module")
        _refuse_compiled(module)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if isinstance(tensor, nn.parameter.UninitializedParameter):
                raise InputError(f"the reference's {name} has no shape yet: run it once before")
            if tensor.device.type != "cpu":
                raise InputError(f"the reference's {name} is on {tensor.device}, expected the cpu")
        self.dtype = getattr(torch, dtype)
        try:
            self.module = borrowed(module).to(self.dtype)  # what runs is a copy of this one
        except Exception as error:  # a module's own way of copying
            reason = str(error).partition("\n")[0]
            raise InputError(f"the reference cannot be copied: {reason}") from error

    def kind(self, layer: str) -> str:
        """Return the class of a layer."""
        return type(self.module.get_submodule(layer)).__name__

    def is_of_library(self, layer: str) -> bool:
        """Return whether a layer is one of PyTorch's own, or of a class that computes as one.

        One with hooks, or a `forward` of its own, may compute something else.
        """
        module = self.module.get_submodule(layer)
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        return getattr(module.forward, "__module__", "").startswith("torch.nn.")

    def settings(self, layer: str) -> dict[str, Any]:
        """Return a layer's plain attributes, such as `{"eps": 1e-05}`."""
        plain = (bool, int, float, str, tuple)
        attributes = vars(self.module.get_submodule(layer))
        return {k: v for k, v in attributes.items() if k[0] != "_" and isinstance(v, plain)}

    def has_parts(self, layer: str) -> bool:
        """Return whether a layer is made of layers."""
        return any(True for _ in self.module.get_submodule(layer).children())

    def parts(self, layer: str) -> list[str]:
        """Return the dotted names of a layer and of all inside it; of all layers if it is empty."""
        start = f"{layer}." if layer else ""
        inside = self.module.get_submodule(layer).named_modules()
        return [f"{start}{name}" if name else layer for name, _ in inside if name or layer]

    def has_modes(self, layer: str) -> bool:
        """Return whether a layer may compute something else in eval mode."""
        module = self.module.get_submodule(layer)
        return hasattr(module, "track_running_stats") or "Dropout" in type(module).__name__

    def channels_last(self, layer: str) -> bool:
        """Return whether a layer's channels are on the last axis, however many axes there are."""
        return isinstance(self.module.get_submodule(layer), CHANNELS_LAST)

    def state(self) -> Arrays:
        return {k: to_numpy(v) for k, v in self.module.state_dict().items()}

    def unsaved(self) -> Arrays:
        """Return the buffers that no checkpoint holds, by name."""
        stored = self.module.state_dict().keys()
        return {k: to_numpy(v) for k, v in self.module.named_buffers() if k not in stored}

    def parameters(self) -> set[str]:
        """Return the names of the trained parameters; a tied tensor has several."""
        every = self.module.named_parameters(remove_duplicate=False)
        return {name for name, parameter in every if parameter.requires_grad}

    def aliases(self) -> dict[str, tuple[str, ...]]:
        """Return each parameter's first name -> all of its names; a tied tensor has several."""
        names: dict[int, list[str]] = {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
        return {each[0]: tuple(each) for each in names.values()}

    def disturbed(self, scale: float, rng: np.random.Generator) -> Self:
        """Return a copy with every parameter and float buffer times 1 + scale * U(-1, 1)."""
        side = copy.copy(self)
        side.module = copy.deepcopy(self.module)
        multiply(float_tensors(side.module), scale, rng)
        return side

    def noisy(self, scale: float, make: Callable[[], np.random.Generator]) -> Self:
        """Return a side whose layers, run alone, are those of `disturbed`; it takes no memory.

        Args:
            scale: Of the noise.
            make: Returns the generator, at its beginning.
        """
        side = copy.copy(self)
        side.noise = Noise(self.module, scale, make)
        return side

    def constants(self, assigned: Set[str]) -> list[str]:
        """Return float tensors that nobody trains or takes, and that float32 holds rounded."""
        frozen = ((n, p) for n, p in self.module.named_parameters() if not p.requires_grad)
        return [
            name
            for name, tensor in (*self.module.named_buffers(), *frozen)
            if name not in assigned and tensor.is_floating_point() and not is_short(tensor)
        ]

    def with_noise(self, names: Sequence[str], scale: float, rng: np.random.Generator) -> Self:
        """Return a copy with these tensors times 1 + scale * U(-1, 1)."""
        side = copy.copy(self)
        side.module = copy.deepcopy(self.module)
        tensors = dict(side.module.named_parameters()) | dict(side.module.named_buffers())
        multiply([tensors[name] for name in names], scale, rng)
        return side


def _refuse_compiled(module: nn.Module) -> None:
    """Raise InputError of a module whose layers cannot be watched, or run in another precision."""
    for name, layer in module.named_modules():
        what = f"the reference's {name}" if name else "the reference"
        if isinstance(layer, torch.jit.ScriptModule):
            raise InputError(
                f"{what} is of TorchScript, expected the torch.nn.Module that it was made of"
            )
        if hasattr(layer, "_orig_mod"):
            raise InputError(
                f"{what} is compiled by torch.compile, expected the module itself (_orig_mod)"
            )
