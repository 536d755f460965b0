"""The operations of a JAX port, with a fingerprint of each value."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import JaxprEqn
from jax.extend.core import primitives as p

from parity.capture.fingerprints import fingerprint
from parity.capture.interpreter import INLINED, Interpreter
from parity.capture.jax_runs import compiled
from parity.capture.jax_side import JaxSide
from parity.capture.marks import BEGIN, SITES, mark_p
from parity.capture.records import count_name
from parity.capture.source_lines import line_of, place_of
from parity.capture.traced import Traced
from parity.report.source import SourceLine

# A value of one of these is that of its operand, in another shape or type.
MOVES = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "copy_p",
    "reshape",
    "rev",
    "squeeze",
    "stop_gradient",
    "transpose",
}


@dataclasses.dataclass(frozen=True)
class Operation:
    """One equation of the port's program, or a function that was called in it.

    Attributes:
        name: The primitive's name, such as `reduce_window_max`, behind that of the function of
            JAX's that it stands in, such as `softmax`, if there is one.
        line: The line of the user's code; false where there is none.
        layer: The innermost layer that runs; empty outside of any.
        operands: The values that it takes, by their place among all.
        results: The values that it gives.
        moves: Whether it gives what it takes in another shape or type.
    """

    name: str
    line: SourceLine
    layer: str
    operands: tuple[int, ...]
    results: tuple[int, ...]
    moves: bool

    def __str__(self) -> str:
        return place_of(self.name, self.layer, self.line)


@dataclasses.dataclass(frozen=True)
class Operations:
    """The operations, in order, and what identifies their values.

    Attributes:
        prints: Per value its fingerprint; see `fingerprints.fingerprint`.
        operations: The operations.
    """

    prints: list[Any]
    operations: tuple[Operation, ...]


jax.tree_util.register_dataclass(Operations, data_fields=["prints"], meta_fields=["operations"])


class Recording(Interpreter):
    """An interpreter that keeps the operations.

    Args:
        lift: See `Interpreter`.
    """

    def __init__(self, lift: bool) -> None:
        super().__init__(lift)
        self.begun: dict[str, None] = {}
        self.calls: list[str] = []
        self.within: list[str] = []
        self.places: dict[int, int] = {}
        self.values: list[Any] = []
        self.found: list[Operation] = []

    def equation(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        """Evaluate one equation, and keep it."""
        if eqn.primitive is mark_p:
            return self._at_mark(eqn, values)
        if eqn.primitive in INLINED:
            name = eqn.params.get("name", "")
            self.within.append(name if isinstance(name, str) else "")
            found = self._inlined(eqn.params[INLINED[eqn.primitive]], values)
            self.within.pop()
            return found
        found = super().equation(eqn, values)
        self._keep(eqn, values, found)
        return found

    def _at_mark(self, eqn: JaxprEqn, values: list[Any]) -> list[Any]:
        site = SITES[eqn.params["call"]]
        if eqn.params["place"] == BEGIN:
            name = count_name(site.layer, self.begun)
            self.begun[name] = None
            self.calls.append(name)
        else:
            self.calls.pop()
        return super().equation(eqn, values)

    def _keep(self, eqn: JaxprEqn, values: list[Any], found: list[Any]) -> None:
        name = eqn.primitive.name
        inner = [*self.within, *_function(eqn)]
        known = [part for part in inner if part and not part.startswith(("<", "_"))]
        name = f"{known[-1]} ({name})" if known and eqn.primitive not in OPAQUE else name
        if known and eqn.primitive in OPAQUE:
            name = known[-1]
        self.found.append(
            Operation(
                name,
                line_of(eqn),
                self.calls[-1] if self.calls else "",
                tuple(self._place(v) for v in values if _is_number(v)),
                tuple(self._place(v) for v in found if _is_number(v)),
                eqn.primitive.name in MOVES,
            )
        )

    def _place(self, value: Any) -> int:
        if id(value) not in self.places:
            self.places[id(value)] = len(self.values)
            self.values.append(value)
        return self.places[id(value)]


OPAQUE = {p.custom_jvp_call_p, p.custom_vjp_call_p}


def _function(eqn: JaxprEqn) -> list[str]:
    """Return the name of the function that an equation with a program of its own was made of."""
    if eqn.primitive not in OPAQUE:
        return []
    info = getattr(eqn.params["call_jaxpr"].jaxpr, "debug_info", None)
    return [str(getattr(info, "func_name", ""))]


def _is_number(value: Any) -> bool:
    """Return whether it is an array of numbers; a key of random numbers is none."""
    if not hasattr(value, "dtype") or jnp.issubdtype(value.dtype, jax.dtypes.extended):
        return False
    return np.dtype(value.dtype).kind in "biuf"


def recorded(side: JaxSide, inputs: tuple[Any, ...], train: bool) -> Operations:
    """Run a port, and return its operations.

    Args:
        side: The port, in float64.
        inputs: As for `JaxSide.run`.
        train: Train mode, else eval mode.

    Raises:
        ForwardError: The port raised.
    """
    with side.precision():
        trees = side.trees(inputs, train)
        run: Callable[..., Any] = compiled(_run)
        return jax.device_get(run(side.program(trees, train), None, *trees))


def _run(program: Traced, _: None, trained: Any, rest: Any, args: Any) -> Operations:
    recording = Recording(program.lift)
    recording.closed(program.closed, jax.tree.leaves((trained, rest, args)))
    prints = [fingerprint(value, jnp) for value in recording.values]
    return Operations(prints, tuple(recording.found))
