"""Recording the operations of a PyTorch module, and running it again with some of them replaced.

Operations are seen at the level of functions (`torch.overrides.TorchFunctionMode`): a layer norm is
one operation that still knows its eps, not the ten of which it is made.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, resolve_name

import parity
from parity.capture.fingerprints import fingerprint
from parity.capture.records import count_name
from parity.capture.torch_side import TorchSide, laid_out, tensors_of, to_numpy

# The names of what functions written in C take, in order; `inspect` knows those of the others.
POOL = "input kernel_size stride=None padding=0 "
SIGNATURES = {
    "conv1d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
    "conv2d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
    "conv3d": "input weight bias=None stride=1 padding=0 dilation=1 groups=1",
    "conv_transpose1d": "input weight bias=None stride=1 padding=0 output_padding=0 groups=1"
    " dilation=1",
    "conv_transpose2d": "input weight bias=None stride=1 padding=0 output_padding=0 groups=1"
    " dilation=1",
    "conv_transpose3d": "input weight bias=None stride=1 padding=0 output_padding=0 groups=1"
    " dilation=1",
    "linear": "input weight bias=None",
    "max_pool1d": POOL + "dilation=1 ceil_mode=False return_indices=False",
    "max_pool2d": POOL + "dilation=1 ceil_mode=False return_indices=False",
    "max_pool2d_with_indices": POOL + "dilation=1 ceil_mode=False return_indices=True",
    "avg_pool1d": POOL + "ceil_mode=False count_include_pad=True",
    "avg_pool2d": POOL + "ceil_mode=False count_include_pad=True divisor_override=None",
    "adaptive_avg_pool2d": "input output_size",
    "adaptive_max_pool2d": "input output_size return_indices=False",
    "gelu": "input approximate='none'",
    "scaled_dot_product_attention": "query key value attn_mask=None dropout_p=0.0 is_causal=False"
    " scale=None enable_gqa=False",
    "prelu": "input weight",
    "softmax": "input dim=None dtype=None",
    "log_softmax": "input dim=None dtype=None",
    "softplus": "input beta=1 threshold=20",
    "mean": "input dim=None keepdim=False dtype=None",
    "sum": "input dim=None keepdim=False dtype=None",
    "var": "input dim=None unbiased=True keepdim=False",
    "std": "input dim=None unbiased=True keepdim=False",
    "flatten": "input start_dim=0 end_dim=-1",
    "transpose": "input dim0 dim1",
    "cat": "tensors dim=0",
    "stack": "tensors dim=0",
    "chunk": "input chunks dim=0",
    "split": "input split_size dim=0",
    "repeat_interleave": "input repeats dim=None",
    "masked_fill": "input mask value",
    "where": "condition input other",
    "tril": "input diagonal=0",
    "triu": "input diagonal=0",
    "roll": "input shifts dims=None",
    "einsum": "equation",
    "to": "input dtype",
    "bmm": "input mat2",
    "addmm": "input mat1 mat2",
    "pixel_shuffle": "input upscale_factor",
    **dict.fromkeys(
        ("add", "sub", "mul", "div", "matmul", "pow", "rsub", "rdiv", "rpow"), "input other"
    ),
    "getitem": "input index",
    "repeat": "input",
    "expand": "input",
    "unbind": "input dim=0",
    "embedding": "input weight padding_idx=None max_norm=None norm_type=2.0"
    " scale_grad_by_freq=False sparse=False",
    "view_as_complex": "input",
    "view_as_real": "input",
    **dict.fromkeys(("reshape", "view", "permute", "neg", "sqrt", "rsqrt", "exp"), "input"),
    **dict.fromkeys(("sigmoid", "tanh", "erf", "clone", "contiguous", "square", "float"), "input"),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "minimum", "maximum"), "input other"),
}
SAME_NAME = {"truediv": "div", "rtruediv": "rdiv", "radd": "add", "rmul": "mul", "iadd": "add"}
SAME_NAME |= {"subtract": "sub", "multiply": "mul", "divide": "div", "isub": "sub", "imul": "mul"}
SAME_NAME |= {"itruediv": "div", "concat": "cat", "hardtanh": "hardtanh"}
# Frames of these are no user's code.
PACKAGES = tuple(str(Path(file).parent) for file in (torch.__file__, parity.__file__))


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that an operation was given, or gave.

    Attributes:
        shape: Its shape.
        dtype: Such as `float64`.
        source: Where it comes from, such as `input 0`, `weight`, or the operation's name.
        operation: The index of the operation that made it; None where none did.
    """

    shape: tuple[int, ...]
    dtype: str
    source: str
    operation: int | None = None

    def __str__(self) -> str:
        return f"{self.source} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One call of a function in a module's forward pass.

    Attributes:
        index: Its number in the run, from 0.
        name: Such as `layer_norm`; an operator or a method in place has the function's name.
        arguments: By name, with defaults; tensors are `Value`s.
        outputs: The tensors that it gave.
        module: Dotted name of the innermost module that ran; empty for the outermost.
        line: File and line of the user's code.
        given: Names of the arguments that are no defaults.
    """

    index: int
    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Value, ...]
    module: str
    line: str
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [f"{k}={_shown(v)}" for k, v in self.arguments.items() if not _is_default(v)]
        where = f" [{self.line}]" if self.line else ""
        module = f" of {self.module}" if self.module else ""
        return f"{self.name}({', '.join(shown)}){module}{where}"

    def tensor(self, name: str) -> Value | None:
        """The tensor among its arguments; None where there is none of this name."""
        value = self.arguments.get(name)
        return value if isinstance(value, Value) else None

    def values(self) -> list[Value]:
        """Every tensor among its arguments."""
        return [leaf for leaf in _flat(self.arguments) if isinstance(leaf, Value)]


class Invocation:
    """A function with its arguments, about to be called."""

    def __init__(self, function: Callable[..., Any], args: tuple, kwargs: Mapping) -> None:
        self.function = function
        self.name = short_name(function)
        self.args, self.kwargs = args, dict(kwargs)
        self.names, defaults = _parameters(function, self.name, len(args))
        self.given = dict(zip(self.names, args, strict=False)) | self.kwargs
        self.arguments = {k: v for k, v in defaults.items() if k not in self.given}
        self.arguments = self.given | self.arguments

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, default)

    def __call__(self, **changes: Any) -> Any:
        """Call the function, with some of its arguments changed."""
        args = [changes.pop(n, a) for n, a in zip(self.names, self.args, strict=False)]
        kept = {k: changes.pop(k, v) for k, v in self.kwargs.items()}
        return self.function(*args, **(kept | changes))


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
        made = []
        for tensor in tensors_of(args[0] if invocation.name == "__setitem__" else outputs):
            value = Value(tuple(tensor.shape), _dtype(tensor), invocation.name, index)
            self._remember(tensor, value)
            made.append(value)
        module = self.modules[-1] if self.modules else ""
        given = tuple(invocation.given)
        self.found.append(
            Operation(index, invocation.name, described, tuple(made), module, _line(), given)
        )
        return outputs

    def name_tensors(self, module: nn.Module, arguments: Any) -> None:
        """Name the tensors that a module holds, and those that it is given."""
        for kind in (module.named_parameters, module.named_buffers):
            for name, tensor in kind():
                self._remember(tensor, Value(tuple(tensor.shape), _dtype(tensor), name))
        for i, tensor in enumerate(tensors_of(arguments)):
            self._remember(tensor, Value(tuple(tensor.shape), _dtype(tensor), f"input {i}"))

    def _remember(self, tensor: torch.Tensor, value: Value) -> None:
        self.sources[id(tensor)] = value
        self.kept.append(tensor)

    def _property(self, function: Any, args: tuple) -> Any:
        """A tensor's attribute; a transposed one comes from where the tensor does."""
        found = function(*args)
        if self.record and isinstance(found, torch.Tensor) and id(args[0]) in self.sources:
            known = self.sources[id(args[0])]
            self._remember(found, dataclasses.replace(known, shape=tuple(found.shape)))
        return found

    def _value(self, leaf: Any) -> Any:
        """An argument with its tensors described."""
        if isinstance(leaf, tuple | list):
            return [self._value(item) for item in leaf]
        if isinstance(leaf, slice):
            return slice(*map(self._value, (leaf.start, leaf.stop, leaf.step)))
        if not isinstance(leaf, torch.Tensor):
            return leaf
        known = self.sources.get(id(leaf))
        return known or Value(tuple(leaf.shape), _dtype(leaf), "a tensor")


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
        """The side, with these operations replaced."""
        made = cls.__new__(cls)
        made.__dict__.update(side.__dict__)
        made.replacements, made.record, made.operations = replacements, record, ()
        return made

    def called(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        mode = Operations(self.replacements(), self.record)
        if self.record:
            mode.name_tensors(module, (args, kwargs))
        with _named_modules(module, mode, self.record), mode:
            outputs = module(*args, **kwargs)
        self.operations = tuple(mode.found)
        return outputs


@dataclasses.dataclass(frozen=True)
class Place:
    """A value in a module's forward pass.

    Attributes:
        call: A call of a layer, by `Call.layer`; empty for the module itself.
        fed: Whether what the layer is fed is meant, or what it gives.
        index: Which tensor of these.
    """

    call: str = ""
    fed: bool = True
    index: int = 0


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
        place: Place,
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
        """The value, in the port's layout, where these operations are replaced."""
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
                for tensor in tensors_of(outputs):
                    value = Value(tuple(tensor.shape), _dtype(tensor), f"the output of {call}")
                    mode._remember(tensor, value)

        try:
            named = _named_modules(module, mode, True, fed, gave)
            quiet = self.side.quietly([])
            with torch.no_grad(), self.side._wide([]), quiet, named, mode:
                outputs = self.side.whole(module, arguments, self.train)
        except _Reached as reached:
            return reached.tensor
        return tensors_of(outputs)[self.place.index]

    def _leading_to(self, value: Value | None) -> tuple[Operation, ...]:
        """The operations that a value was made by, but for those before known ones."""
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


def short_name(function: Any) -> str:
    """A function's name, the same for an operator, a method, and one that works in place."""
    name = (resolve_name(function) or getattr(function, "__name__", "?")).rpartition(".")[2]
    if name == "__setitem__":
        return name
    bare = name.strip("_")
    return SAME_NAME.get(bare, bare)


def _parameters(function: Any, name: str, count: int) -> tuple[list[str], dict[str, Any]]:
    """The names of a function's arguments, at least `count`, and its defaults."""
    names: list[str] = []
    defaults: dict[str, Any] = {}
    if name in SIGNATURES:
        for word in SIGNATURES[name].split():
            key, _, value = word.partition("=")
            names.append(key)
            if value:
                defaults[key] = DEFAULTS[value] if value in DEFAULTS else float(value)
    else:
        try:
            found = inspect.signature(function).parameters.values()
            names = [p.name for p in found if p.kind == p.POSITIONAL_OR_KEYWORD]
            defaults = {p.name: p.default for p in found if p.default is not p.empty}
        except (TypeError, ValueError):
            names = ["input"]
    names += [f"argument {i}" for i in range(len(names), count)]
    return names, defaults


DEFAULTS: dict[str, Any] = {"None": None, "True": True, "False": False, "'none'": "none"}
DEFAULTS |= {"0.0": 0.0, "2.0": 2.0, **{str(i): i for i in range(-1, 21)}}


def _opened(function: Any) -> Any:
    """A function of PyTorch written in Python, whose own operations are seen."""
    known = {**function.__globals__, "has_torch_function": lambda tensors: False}
    made = types.FunctionType(
        function.__code__, known, function.__name__, function.__defaults__, function.__closure__
    )
    made.__kwdefaults__ = function.__kwdefaults__
    return made


OPENED = {functional.multi_head_attention_forward: _opened(functional.multi_head_attention_forward)}


def _line() -> str:
    """File and line of the innermost frame outside PyTorch; empty where there is no user's."""
    frame: Any = sys._getframe(2)  # past this function and the mode's
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGES[1]):
            return ""
        if not file.startswith((PACKAGES[0], "<")):
            break
        frame = frame.f_back
    if frame is None:
        return ""
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _flat(tree: Any) -> Iterator[Any]:
    """Leaves in the order in which they are given."""
    if isinstance(tree, Mapping | tuple | list):
        for item in tree.values() if isinstance(tree, Mapping) else tree:
            yield from _flat(item)
    else:
        yield tree


def _is_default(value: Any) -> bool:
    return value is None or value is False


def _shown(value: Any) -> str:
    if isinstance(value, Value):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_shown, value))})"
    return str(value)
