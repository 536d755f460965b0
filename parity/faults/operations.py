"""Faults injected in the operations of any port, to measure how much a check of it would find.

They fit whatever the network is made of: an operation is left out, its result scaled, its operands
exchanged, a constant changed, another function taken, its gradient stopped. Each is injected alone
in the port's program, and both sides are compared as on L2 and L3, in float64.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, JaxprEqn, Literal
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from parity.capture.equations import equations
from parity.capture.interpreter import Change
from parity.capture.jax_operations import MOVES
from parity.capture.jax_side import JaxSide
from parity.capture.jaxprs import bind
from parity.capture.records import RunRecord
from parity.capture.source_lines import line_of, place_of
from parity.capture.torch_threads import one_thread
from parity.io.files import write_atomically
from parity.ladder.l2_l3_network import Gradients, Whole
from parity.ladder.port import Port
from parity.ladder.runs import PORT64, Runs
from parity.report.report import Check
from parity.report.source import SourceLine
from parity.spec import draw
from parity.spec.errors import InputError

SCALE = 1.001
STOPPED = "gradient stopped"  # a mutant's kind
SAME = 1e-13  # relative difference of the faulty port from the right one that is none
OTHERS: dict[str, Callable[..., Any]] = {
    "add": jnp.subtract,
    "cos": jnp.sin,
    "cumsum": lambda x: x,
    "erf": jnp.tanh,
    "exp": lambda x: 1 + x,
    "logistic": lambda x: 0.5 + x / 4,
    "max": jnp.minimum,
    "mul": jnp.add,
    "rsqrt": lambda x: 1 / x,
    "sin": jnp.cos,
    "sqrt": lambda x: x,
    "sub": jnp.add,
    "tanh": lambda x: x / (1 + abs(x)),
}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A fault at one operation.

    Attributes:
        kind: What is done to it.
        operation: Its name.
        layer: The innermost layer that it is in, empty outside of any.
        line: The line of the user's code; false where there is none.
        at: Its number in the program, in order.
        change: What is evaluated instead.
    """

    kind: str
    operation: str
    layer: str
    line: SourceLine
    at: int
    change: Change

    def __str__(self) -> str:
        return f"{self.kind}: {place_of(self.operation, self.layer, self.line)}"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    Attributes:
        mutant: The fault.
        outcome: `killed`, `survived`, or `equivalent`: the port computes the same with it.
        named: The layer that the first failure names.
        placed: Whether that is where the fault is: the layer, or the next one that the fault
            reaches.
    """

    mutant: Mutant
    outcome: str
    named: str = ""
    placed: bool = False


def mutants(jaxpr: Jaxpr) -> list[Mutant]:
    """Return every mutant of a program, in order."""
    return [
        Mutant(kind, eqn.primitive.name, layer, line_of(eqn), at, change)
        for at, (eqn, layer) in enumerate(equations(jaxpr))
        for kind, change in _kinds(eqn)
    ]


def _kinds(eqn: JaxprEqn) -> Iterator[tuple[str, Change]]:
    """Yield what can be done to an equation."""
    name = eqn.primitive.name
    if not _is_float(eqn.outvars[0]) or name in MOVES:
        return
    yield "result times 1.001", _after(lambda x: x * SCALE)
    yield STOPPED, _after(jax.lax.stop_gradient)
    same = [i for i, v in enumerate(eqn.invars) if _alike(v, eqn.outvars[0])]
    if same:
        yield "left out", lambda eqn, values: [values[same[0]]]
    if name in OTHERS:
        yield "another function", lambda eqn, values: [OTHERS[name](*values)]
    if name in ("sub", "div", "pow") and _alike(eqn.invars[0], eqn.invars[1]):
        yield "operands exchanged", lambda eqn, values: bind(eqn, values[::-1])
    if any(isinstance(v, Literal) and _is_float(v) for v in eqn.invars):
        yield "constant 1 % larger", _with_constant
    if name in ("conv_general_dilated", "reduce_window_max", "reduce_window_sum"):
        yield "padding moved by one", _with_padding


def _after(function: Callable[[Any], Any]) -> Change:
    return lambda eqn, values: [function(x) for x in bind(eqn, values)]


def _with_constant(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    changed = [
        v * 1.01 if isinstance(atom, Literal) and _is_float(atom) else v
        for v, atom in zip(values, eqn.invars, strict=True)
    ]
    return bind(eqn, changed)


def _with_padding(eqn: JaxprEqn, values: list[Any]) -> list[Any]:
    given = eqn.params["padding"]
    padding = tuple((low + 1, high - 1) if high else (low, high) for low, high in given)
    return bind(eqn, values, {**eqn.params, "padding": padding})


def _is_float(atom: Any) -> bool:
    return jnp.issubdtype(getattr(atom.aval, "dtype", np.int32), jnp.floating)


def _alike(a: Any, b: Any) -> bool:
    shapes = [getattr(v.aval, "shape", None) for v in (a, b)]
    return _is_float(a) and _is_float(b) and shapes[0] == shapes[1]


def sample(found: Sequence[Mutant], most: int, seed: int = 0) -> list[Mutant]:
    """Choose mutants: of each kind as many as of any other, as far as there are."""
    rng = draw.generator(seed, "mutants")
    by_kind: dict[str, list[Mutant]] = {}
    for i in rng.permutation(len(found)):
        by_kind.setdefault(found[i].kind, []).append(found[i])
    chosen: list[Mutant] = []
    while len(chosen) < most and any(by_kind.values()):
        chosen += [ms.pop() for ms in by_kind.values() if ms]
    return sorted(chosen[:most], key=lambda m: (m.at, m.kind))


def campaign(
    port: Port,
    most: int = 60,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Power:
    """Inject faults in a port's operations, one at a time, and compare.

    Args:
        port: A port that passes.
        most: How many faults.
        seed: Chooses them.
        progress: Called with a line before each.

    Raises:
        InputError: The port cannot be compared, or is not right as it is.
    """
    with ThreadPoolExecutor(1) as pool, one_thread():
        runs = Runs(port, "float32", pool)
        if runs.failed:
            raise runs.failed
        if failed := [c for c in _compared(runs, runs.port64) if not c.ok]:
            raise InputError(f"the port is not right as it is: {failed[0].sentence()}")
        program = runs.port64.latest[True]
        every = mutants(program.closed.jaxpr)
        chosen = sample(every, most, seed)
        right = _results(runs, runs.port64)
        outcomes = []
        for i, mutant in enumerate(chosen):
            progress(f"{i + 1} of {len(chosen)}: {mutant}")
            outcomes.append(_outcome(runs, mutant, right))
        return Power(port.name, outcomes, len(every))


def _outcome(runs: Runs, mutant: Mutant, right: list[np.ndarray]) -> Outcome:
    side = runs.port64.changed(
        {
            train: {id(eqn): mutant.change for eqn in _at(program.closed.jaxpr, mutant)}
            for train, program in runs.port64.latest.items()
        }
    )
    failed = [c for c in _compared(runs, side) if not c.ok]
    if failed:
        order = {name: i for i, name in enumerate(runs.port64.traced[True])}
        first = min(failed, key=lambda c: (c.rung, order.get(c.layer, len(order))))
        return Outcome(mutant, "killed", first.layer, _reaches(runs, mutant, first))
    changed = _results(runs, side)
    same = all(_close(a, b) for a, b in zip(right, changed, strict=True))
    return Outcome(mutant, "equivalent" if same else "survived")


def _at(jaxpr: Jaxpr, mutant: Mutant) -> Iterator[JaxprEqn]:
    """The equation of a program of the same network that a mutant is about, in either mode."""
    for at, (eqn, layer) in enumerate(equations(jaxpr)):
        same = (eqn.primitive.name, layer, line_of(eqn)) == (
            mutant.operation,
            mutant.layer,
            mutant.line,
        )
        if same and at == mutant.at:
            yield eqn


def _reaches(runs: Runs, mutant: Mutant, first: Check) -> bool:
    """Return whether the first failure is at the fault's layer, in it, or where it ends up."""
    if not mutant.layer or mutant.kind == STOPPED:  # it shows in all layers before it
        return True
    layer = first.layer.partition("#")[0]
    known = mutant.layer in {name.partition("#")[0] for name in runs.by_port}
    return not known or layer == mutant.layer or layer.startswith(f"{mutant.layer}.")


def _compared(runs: Runs, side: JaxSide) -> list[Check]:
    """Compare one port with the reference as on L2 and L3, in float64 alone."""
    own = copy.copy(runs)
    own.port64, own.compared, own.results, own.jobs = side, (PORT64,), {}, {}
    return Whole(own, []).climb() + Gradients(own, []).climb()


def _results(runs: Runs, side: JaxSide) -> list[np.ndarray]:
    found: list[RunRecord] = [runs.run(side, train) for train in (False, True)]
    return [a for r in found for a in (*r.outputs, *r.parameter_gradients.values())]


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    scale = float(np.linalg.norm(np.ravel(a)))
    return bool(np.linalg.norm(np.ravel(a - b)) <= SAME * scale)


@dataclasses.dataclass(frozen=True)
class Power:
    """How many injected faults a check of one port finds.

    Attributes:
        name: The port's name.
        outcomes: What became of each mutant.
        possible: How many mutants there are to choose from.
    """

    name: str
    outcomes: Sequence[Outcome]
    possible: int

    @property
    def ok(self) -> bool:
        """Whether every mutant was killed that changes what the port computes."""
        return all(o.outcome != "survived" for o in self.outcomes)

    def count(self, outcome: str) -> int:
        return sum(o.outcome == outcome for o in self.outcomes)

    def table(self) -> Table:
        """Return a row per kind of fault; `rich` prints it."""
        table = Table(
            title=f"{escape(self.name)}: injected faults", box=SIMPLE_HEAD, pad_edge=False
        )
        table.add_column("fault")
        for column in ("injected", "found", "no effect", "layer right"):
            table.add_column(column, justify="right")
        for kind in dict.fromkeys(o.mutant.kind for o in self.outcomes):
            here = [o for o in self.outcomes if o.mutant.kind == kind]
            killed = [o for o in here if o.outcome == "killed"]
            idle = sum(o.outcome == "equivalent" for o in here)
            placed = f"{sum(o.placed for o in killed)} of {len(killed)}"
            table.add_row(kind, f"{len(here)}", f"{len(killed)}", f"{idle}", placed)
        return table

    def print(self, console: Console) -> None:
        """Print the table, every mutant that survived, and the score."""
        console.print(self.table())
        for o in self.outcomes:
            if o.outcome == "survived":
                console.print(f"[red]NOT FOUND[/red] {escape(str(o.mutant))}", soft_wrap=True)
        real = len(self.outcomes) - self.count("equivalent")
        verdict = "[green]PASSED[/green]" if self.ok else "[red]FAILED[/red]"
        console.print(
            f"{verdict} {self.count('killed')} of {real} faults found"
            f" ({len(self.outcomes)} injected of {self.possible} possible,"
            f" {self.count('equivalent')} change nothing)",
            soft_wrap=True,
        )

    def to_json(self, path: str | Path) -> None:
        """Write every mutant and what became of it."""
        rows = [
            {
                "kind": o.mutant.kind,
                "operation": o.mutant.operation,
                "layer": o.mutant.layer,
                "line": str(o.mutant.line),
                "outcome": o.outcome,
                "named": o.named,
                "placed": o.placed,
            }
            for o in self.outcomes
        ]
        found = {"name": self.name, "ok": self.ok, "possible": self.possible, "mutants": rows}
        write_atomically(path, json.dumps(found, indent=1).encode())
