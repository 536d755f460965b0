"""What a PyTorch function is called with: its arguments by name, and how that is shown."""

from __future__ import annotations

import dataclasses
import enum
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.overrides import resolve_name

from parity.report.source import SourceLine

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
    "max_pool3d": POOL + "dilation=1 ceil_mode=False return_indices=False",
    "avg_pool3d": POOL + "ceil_mode=False count_include_pad=True divisor_override=None",
    "bilinear": "input1 input2 weight bias=None",
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
    "unflatten": "input dim sizes",
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
        ("lstm", "gru", "rnn_tanh", "rnn_relu"),
        "input hx params has_biases num_layers dropout train bidirectional batch_first",
    ),
    **dict.fromkeys(("var_mean", "std_mean"), "input dim=None unbiased=True keepdim=False"),
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
    **dict.fromkeys(
        ("sigmoid", "tanh", "erf", "clone", "contiguous", "square", "float", "detach"), "input"
    ),
    **dict.fromkeys(("eq", "ne", "lt", "le", "gt", "ge", "minimum", "maximum"), "input other"),
}
SAME_NAME = {"truediv": "div", "rtruediv": "rdiv", "radd": "add", "rmul": "mul", "iadd": "add"}
SAME_NAME |= {"subtract": "sub", "multiply": "mul", "divide": "div", "isub": "sub", "imul": "mul"}
SAME_NAME |= {"itruediv": "div", "concat": "cat", "hardtanh": "hardtanh"}
UNNAMED = "argument "  # and its number: of an argument whose name is not known


class Origin(enum.Enum):
    """What a tensor is that an operation takes or gives."""

    INPUT = enum.auto()  # of the module
    STORED = enum.auto()  # a parameter or buffer of the module
    LAYER = enum.auto()  # the output of a layer that agrees in the port
    OPERATION = enum.auto()  # made by an operation
    UNKNOWN = enum.auto()


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor that an operation was given, or gave.

    Attributes:
        shape: Its shape.
        dtype: Such as `float64`.
        origin: What it is.
        source: That in words, such as `input 0`, `weight`, or the operation's name.
        operation: The index of the operation that made it; None where none did.
        part: Which of several tensors of that source it is, such as `[1]` or `.T`; two values are
            equal only where they are the same one.
        number: Which of the tensors of unknown origin it is.
    """

    shape: tuple[int, ...]
    dtype: str
    origin: Origin
    source: str
    operation: int | None = None
    part: str = ""
    number: int = 0

    @classmethod
    def of(
        cls, tensor: torch.Tensor, origin: Origin, source: str, operation: int | None = None
    ) -> Value:
        """Describe a tensor."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(tuple(tensor.shape), dtype, origin, source, operation)

    @classmethod
    def of_each(
        cls,
        tensors: Sequence[torch.Tensor],
        origin: Origin,
        source: str,
        operation: int | None = None,
    ) -> list[Value]:
        """Describe the tensors that one call gave: of several, which is which."""
        made = [cls.of(tensor, origin, source, operation) for tensor in tensors]
        if len(made) < 2:
            return made
        return [dataclasses.replace(value, part=f"[{i}]") for i, value in enumerate(made)]

    def __str__(self) -> str:
        return f"{self.source}{self.part} {self.shape}"


@dataclasses.dataclass(frozen=True)
class Operation:
    """One call of a function in a module's forward pass.

    Attributes:
        index: Its number in the run, from 0.
        name: Such as `layer_norm`; an operator or a method in place has the function's name.
        arguments: By name, with defaults; tensors are `Value`s.
        outputs: The tensors that it gave.
        module: Dotted name of the innermost module that ran; empty for the outermost.
        line: The line of the user's code; false where there is none.
        given: Names of the arguments that are no defaults.
    """

    index: int
    name: str
    arguments: Mapping[str, Any]
    outputs: tuple[Value, ...]
    module: str
    line: SourceLine
    given: tuple[str, ...] = ()

    def __str__(self) -> str:
        shown = [
            _shown(v) if k.startswith(UNNAMED) else f"{k}={_shown(v)}"
            for k, v in self.arguments.items()
            if not _is_default(v)
        ]
        where = f" [{self.line}]" if self.line else ""
        module = f" of {self.module}" if self.module else ""
        return f"{self.name}({', '.join(shown)}){module}{where}"

    def tensor(self, name: str) -> Value | None:
        """Return the tensor among its arguments; None where there is none of this name."""
        value = self.arguments.get(name)
        return value if isinstance(value, Value) else None

    def values(self) -> list[Value]:
        """Return every tensor among its arguments."""
        return [leaf for leaf in _flat(self.arguments) if isinstance(leaf, Value)]


class Invocation:
    """A function with its arguments, about to be called."""

    def __init__(self, function: Callable[..., Any], args: tuple, kwargs: Mapping) -> None:
        self.function = function
        whole = isinstance(function, nn.Module)
        self.name = type(function).__name__ if whole else short_name(function)
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


def short_name(function: Any) -> str:
    """Return a function's name, the same for an operator, a method, and one that works in place."""
    name = (resolve_name(function) or getattr(function, "__name__", "?")).rpartition(".")[2]
    if name == "__setitem__":
        return name
    bare = name.strip("_")
    return SAME_NAME.get(bare, bare)


def _parameters(function: Any, name: str, count: int) -> tuple[list[str], dict[str, Any]]:
    """Return the names of a function's arguments, at least `count`, and its defaults."""
    names: list[str] = []
    defaults: dict[str, Any] = {}
    if isinstance(function, nn.Module):
        names = ["input"]
    elif name in SIGNATURES:
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
    names += [f"{UNNAMED}{i}" for i in range(len(names), count)]
    return names, defaults


DEFAULTS: dict[str, Any] = {"None": None, "True": True, "False": False, "'none'": "none"}
DEFAULTS |= {"0.0": 0.0, "2.0": 2.0, **{str(i): i for i in range(-1, 21)}}


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
