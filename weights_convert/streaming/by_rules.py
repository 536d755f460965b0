"""Plans made of a table of rules, in either direction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping

from parity.spec.errors import InputError, listed
from weights_convert.rules import Described, Rules
from weights_convert.rules import Step as Applied
from weights_convert.streaming.plan import Plan, Planner, Step, Tensor

COUNTER = "num_batches_tracked"  # of a batch norm: it decides nothing, and ports do without
Tensors = Mapping[str, Described]


def planner(
    rules: Rules,
    reverse: bool | None = None,
    reference: Tensors | None = None,
    port: Tensors | None = None,
    tied: Collection[frozenset[str]] = (),
    strict: bool = True,
) -> Planner:
    """Return what plans the conversion of a source by a table of rules.

    Args:
        rules: The table.
        reverse: Whether the source has the port's names; None: told by which side's names it has.
        reference: The reference's tensors, if they are known: then all of them are to be filled.
        port: The same of the port's.
        tied: Names of the reference's tensors that are one: to fill one of them is enough.
        strict: Whether each rule must fit a tensor.
    """

    def planned(source: Mapping[str, Tensor]) -> Plan:
        back = _is_reverse(rules, source, reference, port) if reverse is None else reverse
        table = rules.inverted() if back else rules
        target = reference if back else port
        made = table.plan(source, target, _spare(table, source), strict)
        if target is not None:
            filled = made.made.keys() | made.own
            filled |= {n for group in tied if group & filled for n in group} if back else set()
            lacking = [n for n in target if n not in filled and not _is_counter(n)]
            if lacking:
                side = "reference" if back else "port"
                raise InputError(f"{rules.name}: nothing fills {listed(lacking)} of the {side}")
        steps = tuple(map(_step, made.steps))
        unused = tuple(name for name in source if name in made.idle)
        return Plan(steps, unused, text(rules), back)

    return planned


def _spare(table: Rules, source: Mapping[str, Tensor]) -> Callable[[str], bool]:
    """Return what says of a tensor whether it needs no rule: counters, and tied to one that has."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, tensor in source.items():
        names[id(tensor)].append(name)

    def spare(name: str) -> bool:
        others = (other for other in names[id(source[name])] if other != name)
        ndim = len(source[name].shape)
        return _is_counter(name) or any(table.find(other, ndim) for other in others)

    return spare


def text(rules: Rules) -> str:
    """Return a table as text, one rule a line, for a manifest."""
    return "\n".join(f"{rule.text} {dict(rule.sizes) or ''}".rstrip() for rule in rules.rules)


def _is_counter(name: str) -> bool:
    return name.rpartition(".")[2] == COUNTER


def _step(applied: Applied) -> Step:
    made = {n: Tensor(tuple(spec.shape), str(spec.dtype)) for n, spec in applied.made.items()}
    return Step(tuple(dict.fromkeys(applied.sources)), made, applied.apply)


def _is_reverse(
    rules: Rules, source: Mapping[str, Tensor], reference: Tensors | None, port: Tensors | None
) -> bool:
    """Return which way a table is to be applied, by the names of the source.

    Raises:
        InputError: They fit both sides, or neither.
    """
    forth, back = (_fitting(rules, source, side) for side in (False, True))
    if reference is not None and port is not None:
        held = [sum(name in side for name in source) for side in (reference, port)]
        forth, back = (f + h for f, h in zip((forth, back), held, strict=True))
    if forth == back:
        what = (
            "fit both sides of the rules: say --forward or --reverse"
            if forth
            else f"fit neither side of the rules{_no_way_back(rules)}"
        )
        raise InputError(
            f"{rules.name}: the source's names, such as {listed(source, shown=2)}, {what}"
        )
    return back > forth


def _no_way_back(rules: Rules) -> str:
    """Return why the names of the port were not looked for, if they were not."""
    try:
        rules.inverted()
    except InputError as error:
        return f"; {error}"
    return ""


def _fitting(rules: Rules, source: Mapping[str, Tensor], back: bool) -> int:
    """Return how many of a source's names fit one side of a table."""
    try:
        table = rules.inverted() if back else rules
    except InputError:  # there is no way back
        return 0
    return sum(table.find(name, len(t.shape)) is not None for name, t in source.items())
