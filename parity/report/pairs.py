"""The table of what of the port answers what of the reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Paired:
    """A tensor, or a call of a layer, of both sides.

    Attributes:
        kind: `tensor` or `layer`.
        reference: The reference's name; several with a plus between.
        port: The port's name.
        reference_shape: The shape in PyTorch's layout for a tensor, in the port's for the first
            output of a layer, such as `64x3x7x7`.
        port_shape: The port's shape.
        how: How they were paired: `given`, `weights`, `name`, `value` or `order`.
    """

    kind: str
    reference: str
    port: str
    reference_shape: str
    port_shape: str
    how: str


def table(pairs: Sequence[Paired]) -> Table:
    """Return a row per pair; `rich` prints it."""
    found = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "reference", "shape", "port", "shape", "paired by"):
        found.add_column(column, overflow="fold")
    for pair in pairs:
        shapes = (pair.reference_shape, pair.port_shape)
        mark = "yellow" if pair.how in ("order", "not paired", "not used") else "default"
        found.add_row(
            pair.kind,
            escape(pair.reference),
            shapes[0],
            escape(pair.port),
            shapes[1],
            f"[{mark}]{pair.how}[/{mark}]",
        )
    return found
