"""Records every layer of a module while it runs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import nn

from parity.capture.records import Call, ForwardError, Layout, count_name, mapped
from parity.capture.snapshots import snapshot
from parity.capture.spill import Keeper
from parity.capture.torch_arrays import laid_out, tensors_of


@contextlib.contextmanager
def blamed(running: list[str]) -> Iterator[None]:
    """Name the layer that ran when something was raised."""
    try:
        yield
    except Exception as error:
        raise ForwardError("reference", running[-1] if running else "", error) from error


class Recorder:
    """Context manager that records each call of each layer, with arguments and output gradients.

    Args:
        module: The network.
        layout: The permutations of axes from PyTorch's layout to the port's.
        keep: Stores an array.
        layers: The layers that are recorded; None: all.

    Attributes:
        calls: The calls by `Call.layer`, in the order in which they returned.
        running: The layers that have begun and not returned, innermost last.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        keep: Keeper,
        layers: Collection[str] | None = None,
    ) -> None:
        self.layers = layers
        self.keep = keep
        self.module = module
        self.layout = layout
        self.calls: dict[str, Call] = {}
        self.running: list[str] = []
        self.pending: list[tuple[Any, Any]] = []
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name, layer in self.module.named_modules():
            if name:
                self._hook(layer, name)

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, layer: nn.Module, name: str) -> None:
        if self.layers is not None and name not in self.layers:
            self._watch(layer, name)
            return

        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            # Kept before the layer runs: it may work in place.
            self.pending.append(mapped((args, kwargs), self._keep))
            self.running.append(name)

        def after(_: nn.Module, args: tuple, kwargs: dict, outputs: Any) -> None:
            self.running.pop()
            kept = tuple(self._keep(t) for t in tensors_of(outputs))
            call = Call(count_name(name, self.calls), *self.pending.pop(), kept)
            self.calls[call.layer] = call
            call.cotangents = [None] * len(kept)
            for i, tensor in enumerate(tensors_of(outputs)):
                if tensor.requires_grad:
                    tensor.register_hook(
                        lambda g, i=i: call.cotangents.__setitem__(
                            i, self.keep(laid_out(g, self.layout))
                        )
                    )

        self.handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        self.handles.append(layer.register_forward_hook(after, with_kwargs=True))

    def _watch(self, layer: nn.Module, name: str) -> None:
        """Follow when a layer runs, for messages, and record nothing of it."""

        def before(*_: Any) -> None:
            self.running.append(name)

        def after(*_: Any) -> None:
            self.running.pop()

        self.handles.append(layer.register_forward_pre_hook(before))
        self.handles.append(layer.register_forward_hook(after))

    def _keep(self, value: Any) -> Any:
        """Return a copy; an array passed from one layer to the next is stored once."""
        if not isinstance(value, torch.Tensor):
            return snapshot(value, self._keep)
        version, array = getattr(value, "_parity_kept", (None, None))
        if version != value._version:
            array = self.keep(laid_out(value, self.layout))
            value._parity_kept = (value._version, array)  # type: ignore[attr-defined] # our own
        return array
