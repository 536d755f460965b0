"""How a network is called: with which arrays, plain values and names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from parity.capture.records import Returned, is_array, leaves, mapped, paths, returned, with_arrays

Call = Callable[..., Any]


class Static:
    """A layer's arguments without their arrays; equal where the rest is."""

    def __init__(self, tree: Any) -> None:
        self.tree = mapped(tree, lambda leaf: ARRAY if is_array(leaf) else leaf)

    def __hash__(self) -> int:
        return hash(repr(self.tree))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Static) and repr(self.tree) == repr(other.tree)


class Placeholder:
    """Stands for an array."""

    shape = dtype = None

    def __repr__(self) -> str:
        return "ARRAY"


ARRAY = Placeholder()


@dataclasses.dataclass(frozen=True)
class Signature:
    """What a network is called with, but for the values of arrays.

    Attributes:
        arguments: Positional and keyword arguments.
        call: Calls the network: `call(network, *args, **kwargs)`; None: it is called with them.
    """

    arguments: Static
    call: Call | None = None

    def run(self, network: Callable[..., Any], arrays: Sequence[Any]) -> Any:
        """Call a network with these arrays, in the order of `leaves`."""
        args, kwargs = with_arrays(self.arguments.tree, arrays)
        if self.call is None:
            return network(*args, **kwargs)
        return self.call(network, *args, **kwargs)

    def names(self) -> list[str]:
        """Return the arrays' names: a positional argument's number or its keyword, then a path."""
        args, kwargs = self.arguments.tree
        return [name for tree in (args, kwargs) for name, leaf in paths(tree) if is_array(leaf)]


def signature(args: Sequence[Any], kwargs: dict[str, Any], call: Call | None) -> Signature:
    """Return the signature of a network that takes these arguments."""
    return Signature(Static((tuple(args), dict(kwargs))), call)


def arrays_in(args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """Return every array among the arguments, in the order of `leaves`."""
    return tuple(leaf for leaf in leaves((tuple(args), dict(kwargs))) if is_array(leaf))


@dataclasses.dataclass(frozen=True)
class CalledProgram:
    """A program that takes a list of arrays, whatever its network is called with.

    Attributes:
        program: The network's; see `jax_models.Program`.
        signature: How the network is called.
        returned: Takes, under `train`, everything that the network returned, by name.
        train: The mode.
    """

    program: Any
    signature: Signature
    train: bool
    returned: dict[bool, list[Returned]] = dataclasses.field(compare=False)

    def __call__(
        self, trained: Any, rest: Any, args: Any, kwargs: Any, marker: Any
    ) -> tuple[Any, Any]:
        statistics: Any = {}

        def network(*given: Any, **named: Any) -> Any:
            nonlocal rest, statistics
            outputs, statistics = self.program(trained, rest, given, {**kwargs, **named}, marker)
            rest = self.program.moved(rest, statistics)
            return outputs

        outputs = self.signature.run(network, args)
        self.returned[self.train] = returned(outputs, is_array)
        return outputs, statistics

    def moved(self, rest: Any, statistics: Any) -> Any:
        return self.program.moved(rest, statistics)
