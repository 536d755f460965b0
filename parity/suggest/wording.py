"""From rows to a short table: numbers and names that both sides share become groups."""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from parity.spec.errors import InputError, listed
from parity.suggest.matching import Doubt
from parity.suggest.rows import STAR, SuggestedRow
from weights_convert.rules.rule import Rule, parse

Given = tuple  # a rule as it is written
LAYER = r"(?P<layer>\d+)"
LONGEST = 3  # runs of parts that become groups
AXES = "abcdef"


def literal(row: SuggestedRow) -> Given:
    """Return the rule of one row alone."""
    given = _rule(row, (), row.formula)
    assert given is not None  # there is no run that could be out of order
    return given


def table(
    rows: Sequence[SuggestedRow], shapes: Mapping[str, Sequence[int]]
) -> list[tuple[Given, list[SuggestedRow]]]:
    """Return few rules that make exactly the rows, and the rows of each.

    Args:
        rows: The rows.
        shapes: All of the reference's tensors, none of which may fit a rule by chance.
    """
    answers = {name: row for row in rows for name in _members(row, shapes)}
    candidates: dict[str, Given] = {}
    for row in rows:
        for given in _candidates(row, len(shapes[_members(row, shapes)[0]])):
            candidates.setdefault(repr(given), given)
    covers: list[tuple[Given, list[SuggestedRow]]] = []
    for given in candidates.values():
        if (covered := _covered(given, answers, shapes)) is not None:
            covers.append((given, covered))
    found = []
    places = {row: i for i, row in enumerate(dict.fromkeys(rows))}
    missing = set(places)
    covers.sort(key=lambda c: (-len(c[1]), len(repr(c[0]))))
    while missing:
        given, covered = max(covers, key=lambda c: len(missing.intersection(c[1])))
        new = missing.intersection(covered)
        assert new  # the rule of a row alone covers it
        found.append((given, sorted(new, key=lambda r: places[r])))
        missing -= new
    return sorted(found, key=lambda item: places[item[1][0]])


def _members(row: SuggestedRow, shapes: Mapping[str, Sequence[int]]) -> list[str]:
    """Return the reference's tensors of a row."""
    found = []
    for name in row.reference:
        if STAR in name:
            pattern = re.compile(re.escape(name).replace(r"\*", r"\d+"))
            found += [n for n in shapes if pattern.fullmatch(n)]
        else:
            found.append(name)
    return found


def _candidates(row: SuggestedRow, ndim: int) -> Iterator[Given]:
    """Yield rules that make a row, and perhaps others."""
    formulas = [row.formula]
    if not row.formula and len(row.reference) == len(row.port) == 1:
        formulas += [_same(ndim)] if 0 < ndim <= len(AXES) else []
    parts = [name.split(".") for name in (*row.reference, *row.port)]
    for runs in _runs(parts):
        for formula in formulas:
            given = _rule(row, runs, formula)
            if given is not None:
                yield given


def _same(ndim: int) -> str:
    axes = " ".join(AXES[:ndim])
    return f"{axes} -> {axes}"


def _runs(parts: list[list[str]]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """Yield choices of runs of parts that all names share, in order."""
    matcher = difflib.SequenceMatcher(None, parts[0], parts[-1], autojunk=False)
    shared = []
    for block in matcher.get_matching_blocks():
        common = tuple(parts[0][block.a : block.a + block.size])
        if common and STAR not in common and all(_find(p, common) is not None for p in parts):
            shared.append(common)
    ways = []
    for run in shared[:LONGEST]:
        numbers = tuple((part,) for part in run if part.isdigit())
        each: list[tuple[tuple[str, ...], ...]] = [(), (run,), numbers]
        each += [(run[:-1],)] if len(run) > 1 else []
        each += [(run[:-2],)] if len(run) > 2 else []
        ways.append(list(dict.fromkeys(each)))
    for chosen in itertools.product(*ways):
        yield tuple(run for each in chosen for run in each)


def _find(parts: Sequence[str], run: Sequence[str]) -> int | None:
    size = len(run)
    places = (i for i in range(len(parts) - size + 1) if list(parts[i : i + size]) == list(run))
    return next(places, None)


def _rule(row: SuggestedRow, runs: Sequence[Sequence[str]], formula: str) -> Given | None:
    """Return a rule in which runs of parts are groups; None where they are not in order."""
    parts = [name.split(".") for name in (*row.reference, *row.port)]
    count = len(row.reference)
    texts = []
    for i, name in enumerate(parts):
        at = 0
        text: list[str] = []
        for number, run in enumerate(runs, 1):
            place = _find(name[at:], run)
            if place is None:
                return None
            text += [_text(part, i < count) for part in name[at : at + place]]
            group = r"(\d+)" if len(run) == 1 and run[0].isdigit() else "(.*)"
            text.append(group if i < count else rf"\{number}")
            at += place + len(run)
        text += [_text(part, i < count) for part in name[at:]]
        texts.append((r"\." if i < count else ".").join(text))
    sides = [texts[:count], texts[count:]]
    left, right = (tuple(side) if len(side) > 1 else side[0] for side in sides)
    return (left, right, formula) if formula else (left, right)


def _text(part: str, pattern: bool) -> str:
    if part == STAR:
        return LAYER
    return re.escape(part).replace(r"\-", "-") if pattern else part.replace("\\", r"\\")


def _covered(
    given: Given, answers: Mapping[str, SuggestedRow], shapes: Mapping[str, Sequence[int]]
) -> list[SuggestedRow] | None:
    """Return the rows that a rule makes; None if it makes anything else."""
    try:
        rule = parse(given, 1, {})
    except InputError:
        return None
    found: dict[SuggestedRow, None] = {}
    for name, shape in shapes.items():
        match = rule.match(name, len(shape))
        if match is None:
            continue
        row = answers.get(name)
        if row is None or not _makes(rule, given, row, match[1]):
            return None
        found[row] = None
    return list(found)


def _makes(rule: Rule, given: Given, row: SuggestedRow, values: Mapping[str, str]) -> bool:
    names = tuple(each.expand(values) if each else "" for each in rule.templates)
    axes = given[2] if len(given) > 2 else ""
    left, _, right = axes.partition(" -> ")
    same = axes == row.formula or (not row.formula and left == right)
    return names == row.port and len(rule.patterns) == len(row.reference) and same


def text_of(
    rules: Sequence[tuple[Given, list[SuggestedRow]]],
    left_out: Sequence[Given],
    alone: tuple[Sequence[str], Sequence[str]],
    title: str,
) -> str:
    """Return a table as TOML, with what is in doubt as comments.

    Args:
        rules: Rules and their rows.
        left_out: Rules of what has no counterpart.
        alone: Tensors of either side for which none was found.
        title: The first line.
    """
    lines = [f"# {title}", "rules = ["]
    for given, rows in rules:
        doubts: dict[Doubt, list[str]] = {}
        for row in rows:
            for doubt in row.doubts:
                doubts.setdefault(doubt, []).append(row.port[0])
        for doubt, names in doubts.items():
            lines.append(f"  # IN DOUBT: {doubt} ({listed(names)})")
        lines.append(f"  {_toml(given)},")
    lines += [f"  {_toml(given)}," for given in left_out]
    lines.append("]")
    for side, lonely in zip(("reference", "port"), alone, strict=True):
        lines += [f"# NOT FOUND, of the {side}: {name}" for name in lonely]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if value is None:
        return "[]"
    if isinstance(value, str):
        return f"'{value}'" if "'" not in value and value.isprintable() else _quoted(value)
    assert isinstance(value, tuple | list)
    return f"[{', '.join(map(_toml, value))}]"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
