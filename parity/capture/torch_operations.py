"""Recording the operations of a PyTorch module, and running it again with some of them replaced.

Operations are seen at the level of functions (`torch.overrides.TorchFunctionMode`): a layer norm is
one operation that still knows its eps, not the ten of which it is made.
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import parity
from parity.capture.fingerprints import fingerprint
from parity.capture.records import count_name
from parity.capture.torch_arrays import laid_out, tensors_of, to_numpy
from parity.capture.torch_calls import Invocation, Operation, Origin, Value
from parity.capture.torch_side import TorchSide
from parity.report.source import NO_LINE, SourceLine

TURNED = ("T", "mT", "H", "mH", "real", "imag")  # attributes that hold other values than a tensor
WHOLE = -1  # the index that stands for a whole module in `Replacements`
# Frames of these are no user's code.
PACKAGES = tuple(str(Path(file).parent) for file in (torch.__file__, parity.__file__))


Replacement = Callable[[Invocation], Any]
Replacements = Mapping[int, Replacement]


class Operations(TorchFunctionMode):
    """Context in which operations are numbered, recorded, and replaced.

    Args:
        replacements: Index of an operation -> what to call instead.
        record: Whether to record; else operations are only numbered.
        prints: Whether to keep fingerprints of what each operation is fed and gives.
    """

    def __init__(
        self,
        replacements: Replacements | None = None,
        record: bool = False,
        prints: bool = False,
    ) -> None:
        super().__init__()
        self.prints: dict[int, list[np.ndarray]] | None = {} if prints else None
        self.fed_prints: dict[int, list[np.ndarray]] = {}
        self.replacements = replacements or {}
        self.record = record
        self.count = 0
        self.found: list[Operation] = []
        self.modules: list[str] = []
        self.sources: dict[int, Value] = {}
        self.unknown = 0
        self.kept: list[torch.Tensor] = []  # so that no tensor takes another's identity

    def __torch_function__(
        self, function: Any, kinds: Any, args: tuple = (), kwargs: Mapping | None = None
    ) -> Any:
        del kinds
        kwargs = kwargs or {}
        if function in OPENED:
            with self:
                return OPENED[function](*args, **kwargs)
        if getattr(function, "__name__", "") == "__get__":
            return self._property(function, args)
        if sys._getframe(1).f_code.co_filename.startswith(PACKAGES[1]):
            return function(*args, **kwargs)  # what our own hooks do
        index = self.count
        self.count += 1
        change = self.replacements.get(index)
        if not self.record:
            return (
                function(*args, **kwargs)
                if change is None
                else change(Invocation(function, args, kwargs))
            )
        invocation = Invocation(function, args, kwargs)
        described = {name: self._value(a) for name, a in invocation.arguments.items()}
        fed = prints_of(args, kwargs) if self.prints is not None else []
        outputs = function(*args, **kwargs) if change is None else change(invocation)
        if self.prints is not None:
            self.fed_prints[index], self.prints[index] = fed, prints_of(outputs)
        tensors = tensors_of(args[0] if invocation.name == "__setitem__" else outputs)
        made = Value.of_each(tensors, Origin.OPERATION, invocation.name, index)
        for tensor, value in zip(tensors, made, strict=True):
            self._remember(tensor, value)
        module = self.modules[-1] if self.modules else ""
        given = tuple(invocation.given)
        self.found.append(
            Operation(index, invocation.name, described, tuple(made), module, line_of_call(), given)
        )
        return outputs

    def name_tensors(self, module: nn.Module, arguments: Any) -> None:
        """Name the tensors that a module holds, and those that it is given."""
        for kind in (module.named_parameters, module.named_buffers):
            for name, tensor in kind():
                self._remember(tensor, Value.of(tensor, Origin.STORED, name))
        for i, tensor in enumerate(tensors_of(arguments)):
            self._remember(tensor, Value.of(tensor, Origin.INPUT, f"input {i}"))

    def _remember(self, tensor: torch.Tensor, value: Value) -> None:
        self.sources[id(tensor)] = value
        self.kept.append(tensor)

    def _property(self, function: Any, args: tuple) -> Any:
        """Return a tensor's attribute. A transposed one comes from where the tensor does."""
        found = function(*args)
        if self.record and isinstance(found, torch.Tensor) and id(args[0]) in self.sources:
            known = self.sources[id(args[0])]
            name = getattr(getattr(function, "__self__", None), "__name__", "")
            part = f"{known.part}.{name}" if name in TURNED else known.part
            self._remember(found, dataclasses.replace(known, shape=tuple(found.shape), part=part))
        return found

    def _value(self, leaf: Any) -> Any:
        """Return an argument with its tensors described."""
        if isinstance(leaf, tuple | list):
            items = [self._value(item) for item in leaf]
            return items if isinstance(leaf, list) else tuple(items)
        if isinstance(leaf, slice):
            return slice(*map(self._value, (leaf.start, leaf.stop, leaf.step)))
        if not isinstance(leaf, torch.Tensor):
            return leaf
        if id(leaf) not in self.sources:
            self.unknown += 1
            value = Value.of(leaf, Origin.UNKNOWN, "a tensor")
            self._remember(leaf, dataclasses.replace(value, number=self.unknown))
        return self.sources[id(leaf)]


class ChangedSide(TorchSide):
    """A reference in which some operations are replaced. Make one with `of`.

    Attributes:
        replacements: Maps to what to call instead, made anew for each run.
        operations: Those of the last run, where it was recorded.
    """

    replacements: Callable[[], Replacements]
    record: bool
    operations: tuple[Operation, ...]

    @classmethod
    def of(
        cls,
        side: TorchSide,
        replacements: Callable[[], Replacements] = dict,
        record: bool = False,
    ) -> ChangedSide:
        """Return the side, with these operations replaced."""
        made = cls.__new__(cls)
        made.__dict__.update(side.__dict__)
        made.replacements, made.record, made.operations = replacements, record, ()
        return made

    def called(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        mode = Operations(self.replacements(), self.record)
        if self.record:
            mode.name_tensors(module, (args, kwargs))
        if WHOLE in mode.replacements:
            return mode.replacements[WHOLE](Invocation(module, args, kwargs))
        with _named_modules(module, mode, self.record), mode:
            outputs = module(*args, **kwargs)
        self.operations = tuple(mode.found)
        if self.record and len(mode.found) > 1 and not any(True for _ in module.parameters()):
            self.operations += _whole(module, mode, args, kwargs, outputs)
        return outputs


@dataclasses.dataclass(frozen=True)
class CallValue:
    """A value in a module's forward pass.

    Attributes:
        call: A call of a layer, by `Call.layer`; empty for the module itself.
        fed: Whether what the layer is fed is meant, or what it gives.
        index: Which tensor of these.
    """

    call: str = ""
    fed: bool = True
    index: int = 0


def _whole(
    module: nn.Module, mode: Operations, args: tuple, kwargs: Any, outputs: Any
) -> tuple[Operation, ...]:
    """Return a module that maps a tensor to one of its shape, as one operation."""
    inputs, made = tensors_of((args, kwargs)), tensors_of(outputs)
    if len(inputs) != 1 or len(args) != 1 or len(made) != 1 or inputs[0].shape != made[0].shape:
        return ()
    value = Value.of(made[0], Origin.OPERATION, type(module).__name__, WHOLE)
    given = {"input": mode.sources[id(inputs[0])]}
    return (Operation(WHOLE, type(module).__name__, given, (value,), "", NO_LINE),)


class _Reached(Exception):  # noqa: N818 - no error: how a run is ended early
    """Carries a value out of a forward pass that is not needed any further."""

    def __init__(self, tensor: torch.Tensor) -> None:
        super().__init__()
        self.tensor = tensor


class Tape:
    """The operations that lead to one value of a module's forward pass.

    Args:
        side: The reference.
        inputs: The network's inputs, in the port's layout.
        train: Train mode, else eval mode.
        place: The value.
        known: Calls of layers whose outputs agree in the port: operations before them are left out.
        prints: Whether to keep fingerprints of what operations are fed and give.
    """

    def __init__(
        self,
        side: TorchSide,
        inputs: tuple[Any, ...],
        train: bool,
        place: CallValue,
        known: Sequence[str] = (),
        prints: bool = False,
    ) -> None:
        self.side, self.inputs, self.train, self.place = side, inputs, train, place
        mode = Operations(record=True, prints=prints)
        self._ends: dict[str, int | None] = {}
        target = self._run(mode, set(known))
        self.every = tuple(mode.found)
        self.prints, self.fed_prints = mode.prints or {}, mode.fed_prints
        self.operations = self._leading_to(mode.sources.get(id(target)))
        self.value = self._laid_out(target)

    def replay(self, replacements: Replacements) -> Any:
        """Return the value, in the port's layout, where these operations are replaced."""
        found = self._run(Operations(replacements), set())
        return self._laid_out(found)

    def _laid_out(self, tensor: torch.Tensor) -> Any:
        given = {} if self.place.call else self.side.output_axes[self.train]
        if self.place.index in given:
            return laid_out(tensor, {tensor.ndim: given[self.place.index]})
        return laid_out(tensor, self.side.layout)

    def _run(self, mode: Operations, known: set[str]) -> torch.Tensor:
        module = copy.deepcopy(self.side.module).train(self.train)
        arguments = self.side.inputs(self.inputs)
        if mode.record:
            mode.name_tensors(module, arguments)
        seen: dict[str, None] = {}

        def fed(name: str, args: Any) -> None:
            call = count_name(name, seen)
            if self.place.fed and call == self.place.call:
                raise _Reached(tensors_of(args)[self.place.index])

        def gave(name: str, outputs: Any) -> None:
            call = count_name(name, seen)
            seen[call] = None
            if not self.place.fed and call == self.place.call:
                raise _Reached(tensors_of(outputs)[self.place.index])
            if call in known:
                tensors = tensors_of(outputs)
                made = Value.of_each(tensors, Origin.LAYER, f"the output of {call}")
                for tensor, value in zip(tensors, made, strict=True):
                    mode._remember(tensor, value)

        try:
            named = _named_modules(module, mode, True, fed, gave)
            quiet = self.side.quietly([])
            with torch.no_grad(), self.side.wide([]), quiet, named, mode:
                outputs = self.side.whole(module, arguments, self.train)
        except _Reached as reached:
            return reached.tensor
        return tensors_of(outputs)[self.place.index]

    def _leading_to(self, value: Value | None) -> tuple[Operation, ...]:
        """Return the operations that a value was made by, but for those before known ones."""
        wanted = {value.operation} if value is not None else set()
        found = []
        for operation in reversed(self.every):
            if operation.index in wanted:
                found.append(operation)
                wanted |= {v.operation for v in operation.values()}
        return tuple(reversed(found))


class _named_modules:  # noqa: N801 - a context manager
    """Context in which a mode knows which module runs, and is told what it is fed and gives."""

    def __init__(
        self,
        module: nn.Module,
        mode: Operations,
        wanted: bool,
        fed: Callable[[str, Any], None] | None = None,
        gave: Callable[[str, Any], None] | None = None,
    ) -> None:
        self.module, self.mode, self.wanted = module, mode, wanted
        self.fed, self.gave = fed, gave
        self.handles: list[Any] = []

    def __enter__(self) -> None:
        for name, layer in self.module.named_modules() if self.wanted else ():
            if name:
                self._hook(name, layer)

    def __exit__(self, *_: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _hook(self, name: str, layer: nn.Module) -> None:
        def before(_: nn.Module, args: tuple, kwargs: dict) -> None:
            self.mode.modules.append(name)
            if self.fed is not None:
                self.fed(name, (args, kwargs))

        def after(_: nn.Module, args: tuple, kwargs: dict, outputs: Any) -> None:
            self.mode.modules.pop()
            if self.gave is not None:
                self.gave(name, outputs)

        self.handles.append(layer.register_forward_pre_hook(before, with_kwargs=True))
        self.handles.append(layer.register_forward_hook(after, with_kwargs=True))


def prints_of(*trees: Any) -> list[np.ndarray]:
    """Return the fingerprints of the floating-point tensors in nests."""
    return [
        fingerprint(to_numpy(t)) for t in tensors_of(trees) if t.is_floating_point() and t.numel()
    ]


def _opened(function: Any) -> Any:
    """Return a function of PyTorch written in Python, whose own operations are seen."""
    known = {**function.__globals__, "has_torch_function": lambda tensors: False}
    made = types.FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


OPENED = {functional.multi_head_attention_forward: _opened(functional.multi_head_attention_forward)}


def line_of_call() -> SourceLine:
    """Return the line of the innermost frame outside PyTorch; a false one if there is none."""
    frame: Any = sys._getframe(2)  # past this function and the mode's
    while frame is not None:
        file = frame.f_code.co_filename
        of_mode = frame.f_code.co_name == "__torch_function__"  # of another context that is open
        if file.startswith(PACKAGES[1]) and not of_mode:
            return NO_LINE
        if not of_mode and not file.startswith((PACKAGES[0], "<")):
            break
        frame = frame.f_back
    if frame is None:
        return NO_LINE
    return SourceLine(frame.f_code.co_filename, frame.f_lineno)
