"""A network's modules as they ran, each within the one that holds it, and where it is at fault."""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple

from parity.report.quantity import Kind

if TYPE_CHECKING:
    from parity.report.findings import Findings

FEW = 24  # layers of a network that is shown whole


class Node(NamedTuple):
    """A layer, or a module with layers inside.

    Attributes:
        label: The part of the port's name that the module around it does not have.
        name: The layer's name in the port; empty for what is no layer itself.
        failed: Number of comparisons that failed, of it and of all inside.
        first: Whether the layer to look at first is it, or is inside.
        linked: Whether the page has a section on it.
        inside: What it holds, in the order of the forward pass.
        layers: How many layers it is or holds.
        shown: Whether the page shows what is inside from the beginning.
    """

    label: str
    name: str
    failed: int
    first: bool
    linked: bool
    inside: tuple[Node, ...]
    layers: int
    shown: bool


def graph(report: Findings, linked: Set[str]) -> tuple[Node, ...]:
    """Return the outermost modules of the port, in the order of the forward pass.

    A module that is used in several places stands where it is used first.

    Args:
        report: Its layers are those whose outputs were compared.
        linked: The layers of which the page lists failures.
    """
    failed = collections.Counter(c.layer for c in report.failures())
    fault = report.fault()
    first = fault.layer if fault is not None else None
    ran = dict.fromkeys(c.layer for c in report.checks if c.quantity.kind is Kind.OUTPUT)

    def nodes(names: Sequence[str], depth: int) -> Iterator[Node]:
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name.split(".")[depth], []).append(name)
        for label, held in groups.items():
            yield node(label, held, depth)

    def node(label: str, held: list[str], depth: int) -> Node:
        own = next((name for name in held if name.count(".") == depth), "")
        within = [name for name in held if name != own]
        inside = tuple(nodes(within, depth + 1))
        if not own and len(inside) == 1:  # a module that holds but one
            (only,) = inside
            return only._replace(label=f"{label}.{only.label}")
        count = sum(failed[name] for name in held)
        shown = len(ran) <= FEW or count > 0
        here = first in held
        return Node(label or "(network)", own, count, here, own in linked, inside, len(held), shown)

    return tuple(nodes(list(ran), 0))
