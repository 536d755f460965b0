"""Suggesting a table of rules for a pair."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from parity.capture.jax_side import JaxSide
from parity.capture.run import FLOAT64
from parity.capture.torch_side import TorchSide
from parity.capture.torch_threads import one_thread
from parity.ladder.port import Port
from parity.ladder.ruled import COUNTER, is_counter
from parity.suggest import flow, wording
from parity.suggest.layers import Graph, layer_names, layers_of
from parity.suggest.matching import Match, Matcher
from parity.suggest.rows import Shapes, SuggestedRow, rows_of, same_values, stacked


@dataclasses.dataclass
class Pair:
    """Both sides of a port, whose weights are not assigned yet.

    Attributes:
        port: The port.
        sides: The reference and the port, in float64.
    """

    port: Port
    sides: tuple[TorchSide, JaxSide]

    @classmethod
    def of(cls, port: Port) -> Pair:
        """Make both sides of a port.

        Raises:
            InputError: The port cannot be compared; see `Port`.
        """
        ours, theirs = port.signatures(False)
        reference = TorchSide(port.reference, FLOAT64, port.layout, {False: ours})
        reference.input_axes = port.input_axes(False)
        modes = port.modes
        made = JaxSide(port.port, FLOAT64, port.params, modes, signatures={False: theirs})
        return cls(port, (reference, made))


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """A suggested table.

    Attributes:
        rows: What becomes of what.
        reference: Shapes of the reference's tensors but for counters.
        port: Shapes of the port's tensors.
        counters: Whether the reference counts batches.
    """

    rows: tuple[SuggestedRow, ...]
    reference: Shapes
    port: Shapes
    counters: bool

    def rules(self) -> list[tuple[wording.Given, list[SuggestedRow]]]:
        """Return few rules that make the rows, and the rows of each."""
        return wording.table(self.rows, self.reference)

    def alone(self) -> tuple[list[str], list[str]]:
        """Return the tensors of either side for which nothing was found."""
        ours = {re.sub(r"\*", "0", n) for row in self.rows for n in row.reference}
        stars = [
            re.compile(re.escape(n).replace(r"\*", r"\d+")) for r in self.rows for n in r.reference
        ]
        theirs = {n for row in self.rows for n in row.port}
        left = [
            n for n in self.reference if n not in ours and not any(s.fullmatch(n) for s in stars)
        ]
        return left, [n for n in self.port if n not in theirs]

    def text(self, title: str) -> str:
        """Return the table as TOML."""
        counters = [(rf".*\.{COUNTER}", None)] if self.counters else []
        return wording.text_of(self.rules(), counters, self.alone(), title)


def suggest(port: Port, progress: Callable[[str], None] = lambda _: None) -> Suggestion:
    """Suggest a table for a pair; `Port.weights` is not looked at.

    Args:
        port: The pair.
        progress: Called with what is being done.

    Raises:
        InputError: The port cannot be compared; see `Port`.
        ForwardError: A network raised.
    """
    with ThreadPoolExecutor(1), one_thread():
        return suggest_pair(Pair.of(port), progress)


def suggest_pair(pair: Pair, progress: Callable[[str], None] = lambda _: None) -> Suggestion:
    """Suggest a table for both sides of a pair; see `suggest`."""
    reference, port = pair.sides
    counted = any(map(is_counter, port.state()))
    arrays = {n: a for n, a in reference.state().items() if counted or not is_counter(n)}
    counters = len(arrays) < len(reference.state())
    shapes = {n: tuple(a.shape) for n, a in arrays.items()}
    targets = {n: tuple(a.shape) for n, a in port.state().items()}
    stars = stacked(shapes, targets)
    virtual: Shapes = {}
    for name, shape in shapes.items():
        family = stars.get(name)
        count = sum(f == family for f in stars.values())
        virtual[family or name] = (count, *shape) if family else shape
    inputs = pair.port.arrays(False)
    progress("following the reference")
    roles = layer_names(virtual)
    found = flow.of_reference(reference, inputs, {n: roles[stars.get(n, n)][0] for n in shapes})
    progress("following the port")
    theirs = flow.of_port(port, inputs, {n: la for n, (la, _) in layer_names(targets).items()})
    graphs = Graph(layers_of(virtual), found), Graph(layers_of(targets), theirs)
    progress("matching")
    same = same_values(arrays, port.state())
    matches = Matcher(*graphs).match(_layers_by_values(same, graphs))
    rows = rows_of(matches, graphs[0].layers, graphs[1].layers, lambda n: _kind(reference, n))
    return Suggestion(tuple(rows), shapes, targets, counters)


def _layers_by_values(same: dict[str, str], graphs: tuple[Graph, Graph]) -> dict[str, str]:
    """Return the port's layers -> the reference's whose tensors they hold."""
    owners = [{t: n for n, la in g.layers.items() for t in la.tensors.values()} for g in graphs]
    found: dict[str, set[str]] = {}
    for port, reference in same.items():
        if reference in owners[0]:
            found.setdefault(owners[1][port], set()).add(owners[0][reference])
    return {n: next(iter(keys)) for n, keys in found.items() if len(keys) == 1}


def _kind(side: TorchSide, layer: str) -> str:
    """Return the class of one of the reference's layers; of stacked ones, of the first."""
    try:
        return side.kind(layer.replace("*", "0"))
    except AttributeError:  # a tensor that is no layer's
        return ""


__all__ = ["Match", "Pair", "Suggestion", "suggest"]
