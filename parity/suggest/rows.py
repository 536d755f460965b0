"""Suggested rows: which tensors of the reference become which of the port, and how."""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Mapping

import numpy as np

from parity.suggest import layouts
from parity.suggest.layers import Layer
from parity.suggest.matching import Doubt, DoubtKind, Match

STAR = "*"  # the number, in a name, of layers that the port stacks

Shapes = dict[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class SuggestedRow:
    """Tensors of the reference and what becomes of them.

    Attributes:
        reference: Names of the reference's tensors; `*` stands for the numbers of stacked layers.
        port: Names of the port's.
        formula: The axes; empty: as they are.
        how: Why.
        doubts: What is not decided.
        kind: Tensors of one kind have their axes in one order.
        options: The formulas that are possible by the shapes.
    """

    reference: tuple[str, ...]
    port: tuple[str, ...]
    formula: str
    how: str
    doubts: tuple[Doubt, ...] = ()
    kind: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def doubted(self, kind: DoubtKind) -> list[Doubt]:
        """Return the doubts of a kind."""
        return [doubt for doubt in self.doubts if doubt.kind is kind]


def stacked(reference: Shapes, port: Shapes) -> dict[str, str]:
    """Return the reference's tensors that the port stacks: name -> that with `*` as its number.

    They are those of layers with numbers 0, 1, ... that the port does not have as many of, but
    tensors with as long a first axis.
    """
    families: dict[str, dict[int, str]] = defaultdict(dict)
    for name in reference:
        if found := re.fullmatch(r"(.*?\.)?(\d+)(\..*)", name):
            family = f"{found[1] or ''}{STAR}{found[3]}"
            families[family][int(found[2])] = name
    made: dict[str, str] = {}
    for family, members in families.items():
        count = len(members)
        sizes = {reference[name] for name in members.values()}
        if count < 2 or sorted(members) != list(range(count)) or len(sizes) > 1:
            continue
        if not _numbered(port, count) and any(
            shape[:1] == (count,) and len(shape) > 1 for shape in port.values()
        ):
            made |= dict.fromkeys(members.values(), family)
    return made


def _numbered(names: Shapes, count: int) -> bool:
    """Return whether tensors differ in a number that takes so many values."""
    numbers = defaultdict(set)
    for name in names:
        for found in re.finditer(r"(?<![^._])\d+(?![^._])", name):
            numbers[name[: found.start()]].add(found[0])
    return any(len(found) >= count for found in numbers.values())


def same_values(
    reference: Mapping[str, np.ndarray], port: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Return the port's tensors -> the reference's with the same values, in whatever order.

    Only values that no other tensor has say anything.
    """
    prints: list[dict[bytes, list[str]]] = [defaultdict(list), defaultdict(list)]
    for found, arrays in zip(prints, (reference, port), strict=True):
        for name, array in arrays.items():
            if array.size > 1 and np.unique(array).size > 1:
                values = np.sort(array.astype(np.float64), axis=None)
                found[values.tobytes()].append(name)
    return {
        theirs[0]: prints[0][key][0]
        for key, theirs in prints[1].items()
        if len(theirs) == 1 and len(prints[0].get(key, ())) == 1
    }


def rows_of(
    matches: list[Match],
    reference: Mapping[str, Layer],
    port: Mapping[str, Layer],
    kind: Callable[[str], str],
) -> list[SuggestedRow]:
    """Return the tensors of matched layers, with the axes that their shapes and kinds allow.

    Args:
        matches: Matched layers.
        reference: The reference's layers.
        port: The port's.
        kind: The class of one of the reference's layers; empty if it is none.
    """
    rows: list[SuggestedRow] = []
    for match in matches:
        ours = [reference[name] for name in match.reference]
        theirs = [port[name] for name in match.port]
        for role in ours[0].tensors:
            if all(role in layer.tensors for layer in (*ours, *theirs)):
                rows.append(_row(match, ours, theirs, role, kind))
    return _decided(rows)


def _row(
    match: Match, ours: list[Layer], theirs: list[Layer], role: str, kind: Callable[[str], str]
) -> SuggestedRow:
    names = tuple(layer.tensors[role] for layer in ours)
    made = tuple(layer.tensors[role] for layer in theirs)
    scan = STAR in names[0]
    shapes = [[layer.shapes[role][scan:] for layer in side] for side in (ours, theirs)]
    if scan and any(layer.shapes[role][0] != ours[0].shapes[role][0] for layer in theirs):
        found: list[str] = []
    elif len(names) == len(made) == 1:
        found = layouts.options(shapes[0][0], shapes[1][0], role)
    else:
        splits = len(made) > 1
        whole, parts = shapes if splits else shapes[::-1]
        found = layouts.joins(whole[0], parts, splits)
    found = [_scanned(f, len(made)) if scan else f for f in found]
    doubts = (match.doubt,) if match.doubt else ()
    if not found:
        doubts = (*doubts, Doubt(DoubtKind.MISFIT))
    family = kind(ours[0].name), made[0].rpartition(".")[2], str(len(shapes[0][0])), str(len(made))
    formula = found[0] if found else ""
    return SuggestedRow(names, made, formula, match.how, doubts, family, tuple(found))


def _scanned(formula: str, count: int) -> str:
    """Return a formula for arrays of which each layer has one."""
    if not formula:
        return "layer ... -> layer ..."
    left, right = formula.split(" -> ")
    if count == 1:
        return f"layer {left} -> layer {right}"
    if "," in right:
        return f"layer {left} -> {', '.join('layer ' + part for part in right.split(', '))}"
    first, _, rest = right.partition(" ")
    return f"layer {left} -> {first} layer {rest}"


def _decided(rows: list[SuggestedRow]) -> list[SuggestedRow]:
    """Let tensors whose shapes decide the axes decide those of the same kind."""
    common: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        known = common.setdefault(row.kind, list(row.options))
        common[row.kind] = [f for f in known if f in row.options] or known
    found = []
    for row in rows:
        options = [f for f in common[row.kind] if f in row.options] or list(row.options)
        doubts = row.doubts
        if len(options) > 1:
            choices = tuple(repr(f or "as it is") for f in options)
            doubts = (*doubts, Doubt(DoubtKind.AXES, choices))
        formula = options[0] if options else ""
        found.append(
            dataclasses.replace(row, formula=formula, doubts=doubts, options=tuple(options))
        )
    return found
