"""Settling what is in doubt: both sides are run with the same weights, by each candidate's rules.

The reference's tensors are drawn anew, all of them, so that no two are alike: fresh biases are
zeros and fresh norms ones, and would hide that two are exchanged.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch

from parity.capture.records import Arrays, ForwardError
from parity.capture.torch_copies import copied
from parity.ladder.axes import permutation
from parity.ladder.ruled import is_counter
from parity.spec import draw
from parity.spec.errors import InputError
from parity.suggest import wording
from parity.suggest.layers import layer_names
from parity.suggest.matching import DoubtKind
from parity.suggest.rows import SuggestedRow
from parity.suggest.suggestion import Pair, Suggestion
from weights_convert.rules import Rules

MOST = 200  # candidates that are run
LARGEST = 4  # layers side by side whose orders are tried

Change = Callable[[SuggestedRow], SuggestedRow]


@dataclasses.dataclass(frozen=True)
class Settled:
    """What running the candidates showed.

    Attributes:
        suggestion: The table, without the doubts that are settled.
        tried: How many candidates there were.
        agreed: How many gave the reference's outputs.
        reason: Why none could be tried; empty if they were.
    """

    suggestion: Suggestion
    tried: int
    agreed: int
    reason: str = ""


def settle(pair: Pair, made: Suggestion) -> Settled:
    """Run both sides in float64, in eval mode, by each candidate's rules.

    Args:
        pair: Both sides.
        made: What was suggested for it.
    """
    choices = _choices(made.rows)
    count = int(np.prod([len(options) for options in choices], dtype=np.int64))
    if count > MOST:
        reason = f"{count:,} candidates are more than {MOST}"
        return Settled(made, 0, 0, reason)
    if any(made.alone()):
        return Settled(made, 0, 0, "tensors are left for which nothing was found")
    reference, port = copy.copy(pair.sides[0]), pair.sides[1]
    reference.module = copied(reference.module)  # it may share its author's memory
    _draw(reference.module)
    inputs = pair.port.arrays(False)
    expected = reference.run(inputs, False).outputs
    source, before = reference.state(), port.state()
    agreed: list[tuple[SuggestedRow, ...]] = []
    for chosen in itertools.product(*choices):
        rows = tuple(_changed(row, chosen) for row in made.rows)
        arrays = _applied(rows, source, before)
        if arrays is None:
            continue
        port.fill(arrays)
        try:
            found = port.run(inputs, False).outputs
        except ForwardError:
            continue
        if found and all(any(permutation(e, f) is not None for e in expected) for f in found):
            agreed.append(rows)
    port.fill(before)
    rows = agreed[0] if agreed else made.rows
    if len(agreed) == 1:
        rows = tuple(dataclasses.replace(row, doubts=()) for row in rows)
    return Settled(dataclasses.replace(made, rows=rows), count, len(agreed))


def _draw(module: torch.nn.Module) -> None:
    """Draw every tensor anew, near what it was, so that no two are alike."""
    rng = draw.generator(0, "suggest")
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                factor, shift = (
                    torch.tensor(rng.uniform(*bounds, tuple(tensor.shape)))
                    for bounds in ((0.7, 1.3), (-0.1, 0.1))
                )
                tensor.mul_(factor.to(tensor.dtype)).add_(shift.to(tensor.dtype))
                if name.endswith("_var"):
                    tensor.abs_()


def _applied(rows: Sequence[SuggestedRow], source: Arrays, target: Arrays) -> Arrays | None:
    """Return the port's tensors by rows; None where they do not fit."""
    try:
        table = Rules.of([wording.literal(row) for row in rows])
        plan = table.plan(source, target, is_counter)
    except InputError:
        return None
    return {name: array for step in plan.steps for name, array in step.apply(source).items()}


def _choices(rows: Sequence[SuggestedRow]) -> list[list[Change]]:
    """Return, for each thing in doubt, the changes of rows that may be right."""
    found: list[list[Change]] = []
    for kind in dict.fromkeys(r.kind for r in rows if r.doubted(DoubtKind.AXES)):
        options = next(r.options for r in rows if r.kind == kind and len(r.options) > 1)
        found.append([_with_formula(kind, options[0], formula) for formula in options])
    families: dict[str, int] = {}
    for row in rows:
        if row.doubted(DoubtKind.PARTS):
            families[_family(row)] = max(len(row.port), len(row.reference))
    for family, count in families.items():
        orders = itertools.permutations(range(count))
        found.append([_with_order(family, order) for order in orders])
    return found + _exchanges(rows)


def _family(row: SuggestedRow) -> str:
    """Return the layer of a row's first tensor, of whatever number."""
    many = row.port if len(row.port) > 1 else row.reference
    return re.sub(r"\d+", "#", next(iter(layer_names({many[0]: ()}).values()))[0])


def _with_formula(kind: tuple[str, ...], usual: str, formula: str) -> Change:
    def change(row: SuggestedRow) -> SuggestedRow:
        if row.kind != kind or row.formula != usual or formula not in row.options:
            return row
        return dataclasses.replace(row, formula=formula)

    return change


def _with_order(family: str, order: Sequence[int]) -> Change:
    def change(row: SuggestedRow) -> SuggestedRow:
        if not row.doubted(DoubtKind.PARTS) or _family(row) != family:
            return row
        if len(row.port) > 1:
            return dataclasses.replace(row, port=tuple(row.port[i] for i in order))
        return dataclasses.replace(row, reference=tuple(row.reference[i] for i in order))

    return change


def _exchanges(rows: Sequence[SuggestedRow]) -> list[list[Change]]:
    """Return the orders of layers of equal shapes side by side; those of many are not tried."""
    groups: dict[frozenset[str], dict[str, dict[str, SuggestedRow]]] = {}
    for row in rows:
        for doubt in row.doubted(DoubtKind.SIDE_BY_SIDE):
            layer, role = layer_names({row.port[0]: ()})[row.port[0]]
            members = frozenset((_layer(row.reference[0]), *doubt.choices))
            groups.setdefault(members, {}).setdefault(layer, {})[role] = row
    found = []
    for layers in groups.values():
        if 1 < len(layers) <= LARGEST:
            names = list(layers)
            found.append(
                [
                    _with_sources(_exchanged([layers[n] for n in names], order))
                    for order in itertools.permutations(range(len(names)))
                ]
            )
    return found


def _layer(name: str) -> str:
    return layer_names({name: ()})[name][0]


def _exchanged(
    layers: list[dict[str, SuggestedRow]], order: Sequence[int]
) -> dict[SuggestedRow, tuple[str, ...]]:
    """Return rows -> their sources when each layer takes those of another one."""
    return {
        row: layers[i][role].reference
        for layer, i in zip(layers, order, strict=True)
        for role, row in layer.items()
        if role in layers[i]
    }


def _with_sources(sources: dict[SuggestedRow, tuple[str, ...]]) -> Change:
    ports = {row.port: names for row, names in sources.items()}

    def change(row: SuggestedRow) -> SuggestedRow:
        return dataclasses.replace(row, reference=ports.get(row.port, row.reference))

    return change


def _changed(row: SuggestedRow, changes: Sequence[Change]) -> SuggestedRow:
    for change in changes:
        row = change(row)
    return row
