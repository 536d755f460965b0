"""Converting recipes to plain values and back, for TOML, JSON and checkpoints.

A table in TOML is a dataclass, its keys are the fields' names. For augmentations, `kind` names the
operation. TOML has no null; `none` is used instead.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from typing import Any

from parity.spec.augmentation import Operation
from parity.spec.datasets import DataSet
from parity.spec.errors import InputError
from parity.spec.training.optimizers import parameters
from parity.spec.training.recipe import Recipe, Stage

# Kind -> operation: `short-side` is `ShortSide`.
OPERATIONS: dict[str, type] = {
    re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(): kind
    for kind in typing.get_args(Operation)
}
KINDS = {kind: name for name, kind in OPERATIONS.items()}

# What decides nothing that is computed.
SILENT = ("name", "about", "published", "devices", "validate_every", "keep")

ALL = "all"  # the stages, together
SCALARS: dict[Any, tuple[tuple[type, ...], str]] = {
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((int, float), "a finite number"),
    str: ((str,), "a text"),
}


@dataclasses.dataclass(frozen=True)
class KeyPath:
    """The location of a value, for messages: a file, and the keys that lead to it."""

    source: str
    path: str = ""

    def __str__(self) -> str:
        return f"{self.source}: {self.path}:" if self.path else f"{self.source}:"

    def inner(self, key: object) -> KeyPath:
        return KeyPath(self.source, f"{self.path}.{key}" if self.path else str(key))


def plain(value: Any) -> Any:
    """Convert a recipe, or a part of it, to JSON values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": KINDS[type(value)]} if type(value) in KINDS else {}
        fields = dataclasses.fields(value)
        return kind | {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    return value


def recipe_of(entries: Mapping[str, Any], where: str, base: Recipe | None = None) -> Recipe:
    """Build a recipe from plain values.

    Args:
        entries: Field -> value. `stages` is a list of whole stages or, where there is a base, a
            table of what is different in the stage of each name, or in `all`; `augmentation` a list
            of operations, or a table of what is different in those of each kind.
        where: What holds them, for messages.
        base: Provides the fields that are left out; else the dataclasses' defaults do.

    Raises:
        InputError: An unknown key, a missing one, a value of another type, or one that cannot be.
    """
    place = KeyPath(where)
    made = _record(Recipe, entries, base, place)
    names = [stage.name for stage in made.stages]
    for stage in made.stages:
        inner = place.inner("stages").inner(stage.name)
        if not re.fullmatch(r"[\w-]+", stage.name) or stage.name == ALL:
            raise InputError(f"{inner} a stage's name is expected to be a word, not {ALL!r}")
        if names.count(stage.name) > 1:
            raise InputError(f"{inner} {names.count(stage.name)} stages have this name")
        for devices, at in ((1, inner), (2, inner.inner("distributed"))):
            try:
                stage.on(devices).config  # noqa: B018  # of the fields, where not all fit each other
            except (TypeError, ValueError) as error:
                sized = (stage.width, stage.depth) != (None, None)  # the error names which
                raise InputError(f"{at if sized else at.inner('dropout')} {error}") from error
        _check_groups(stage, inner.inner("optimizer.groups"))
    return made


def dataset_of(entries: Any, where: KeyPath) -> DataSet:
    """Build a data set from plain values.

    Raises:
        InputError: As for `recipe_of`.
    """
    return _record(DataSet, entries, None, where)


def _check_groups(stage: Stage, where: KeyPath) -> None:
    """Refuse a prefix that matches no parameter, such as a typing error."""
    for prefix in (p for group in stage.optimizer.groups for p in group.prefixes):
        if not any(key.startswith(prefix) for key in parameters(stage.config)):
            raise InputError(f"{where} {prefix!r} begins no parameter of {stage.model}")


def digest(recipe: Recipe) -> str:
    """Return a hash of all that decides what is computed."""
    entries = {k: v for k, v in plain(recipe).items() if k not in SILENT}
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def differences(one: Any, other: Any, path: str = "") -> dict[str, tuple[str, str]]:
    """Compare two recipes from `plain`, except for the fields in `SILENT`.

    Returns:
        Key -> its two values, shortened.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [k for k in dict.fromkeys((*one, *other)) if path or k not in SILENT]
        pairs = {f"{path}.{k}" if path else k: (one.get(k), other.get(k)) for k in keys}
    elif _named(one) and _named(other):
        a, b = ([stage["name"] for stage in stages] for stages in (one, other))
        if a != b:
            return {path: (", ".join(a), ", ".join(b))}
        pairs = {
            f"{path}.{n}": pair for n, pair in zip(a, zip(one, other, strict=True), strict=True)
        }
    else:
        return {} if one == other else {path: (_short(one), _short(other))}
    return {k: v for key, pair in pairs.items() for k, v in differences(*pair, key).items()}


def to_toml(recipe: Recipe) -> str:
    """Return a recipe as TOML that `recipe_of` reads back to an equal one."""
    entries = plain(recipe)
    lines = _pairs({k: v for k, v in entries.items() if k not in ("stages", "parallel")})
    lines += ["", "[parallel]", *_pairs(entries["parallel"])]
    for stage in entries["stages"]:
        lines += ["", "[[stages]]", *_tables(stage, "stages")]
    return "\n".join(lines) + "\n"


def _record(kind: type, entries: Any, old: Any, where: KeyPath) -> Any:
    """Build a dataclass: the old one with the given fields replaced."""
    if not isinstance(entries, Mapping):
        raise InputError(f"{where} {entries!r}, expected a table")
    hints = typing.get_type_hints(kind)
    if unknown := [key for key in entries if key not in hints]:
        raise InputError(f"{where} unknown key {unknown[0]!r}, expected {', '.join(hints)}")
    made = {
        key: _value(hints[key], value, getattr(old, key, None), where.inner(key))
        for key, value in entries.items()
    }
    if old is None:
        needed = [f.name for f in dataclasses.fields(kind) if _needed(f) and f.name not in made]
        if needed:
            raise InputError(f"{where} missing {', '.join(needed)}")
    try:
        return dataclasses.replace(old, **made) if old is not None else kind(**made)
    except ValueError as error:
        raise InputError(f"{where} {error}") from error


def _value(hint: Any, value: Any, old: Any, where: KeyPath) -> Any:
    """Convert a value to a field's type; a nested value changes only parts of the old one."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if set(kinds) >= set(OPERATIONS.values()):
        return _operation(value, where)
    if types.NoneType in kinds and value in (None, "none"):
        return None
    for kind in kinds:
        if typing.get_origin(kind) is tuple:
            return _tuple(typing.get_args(kind), value, old, where)
        if dataclasses.is_dataclass(kind):
            return _record(typing.cast(type, kind), value, old, where)
    for kind in kinds:
        fitting = SCALARS[kind][0] if kind in SCALARS else ()
        wrong = isinstance(value, bool) and kind is not bool
        if isinstance(value, fitting) and not wrong and (kind is not float or _finite(value)):
            return kind(value)
    expected = [SCALARS[kind][1] if kind in SCALARS else "none" for kind in kinds]
    raise InputError(f"{where} {value!r}, expected {' or '.join(expected)}")


def _finite(value: Any) -> bool:
    """Return whether a number is finite; TOML has inf and nan, JSON in checkpoints has neither."""
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _tuple(kinds: tuple[Any, ...], value: Any, old: Any, where: KeyPath) -> tuple:
    item = kinds[0]
    if isinstance(value, Mapping) and old and dataclasses.is_dataclass(old[0]):
        return _changed(value, old, where)
    if not isinstance(value, list):
        raise InputError(f"{where} {value!r}, expected a list")
    if kinds[-1] is not Ellipsis and len(value) != len(kinds):
        raise InputError(f"{where} {value!r}, expected {len(kinds)} values")
    made = tuple(_value(item, v, None, where.inner(i)) for i, v in enumerate(value))
    if where.path.rpartition(".")[2] == "size" and min(made) < 1:
        raise InputError(f"{where} {value!r}, expected 1 pixel or more")
    return made


def _changed(changes: Mapping[str, Any], old: tuple, where: KeyPath) -> tuple:
    """Apply changes to stages by name, or to operations by kind."""
    known = [KINDS.get(type(item)) or item.name for item in old]
    stages = type(old[0]) not in KINDS
    for name in changes:
        if name not in known and not (stages and name == ALL):
            choices = ", ".join(dict.fromkeys(known)) + (f" or {ALL}" if stages else "")
            raise InputError(f"{where} unknown name {name!r}, expected {choices}")
    made = []
    for name, item in zip(known, old, strict=True):
        for key in (ALL, name) if stages else (name,):
            if key in changes:
                item = _record(type(item), changes[key], item, where.inner(key))
        made.append(item)
    return tuple(made)


def _operation(value: Any, where: KeyPath) -> Any:
    kind = value.get("kind") if isinstance(value, Mapping) else None
    if kind not in OPERATIONS:
        choices = ", ".join(OPERATIONS)
        raise InputError(f"{where} {value!r}, expected a table whose kind is one of {choices}")
    entries = {k: v for k, v in value.items() if k != "kind"}
    return _record(OPERATIONS[kind], entries, None, where)


def _needed(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, dict) and "name" in v for v in value)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _tables(entries: Mapping[str, Any], path: str) -> list[str]:
    """Return the pairs of a table, then the tables in it."""
    inner = {k: v for k, v in entries.items() if isinstance(v, dict)}
    lines = _pairs({k: v for k, v in entries.items() if k not in inner})
    for key, value in inner.items():
        lines += ["", f"[{path}.{key}]", *_tables(value, f"{path}.{key}")]
    return lines


def _pairs(entries: Mapping[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in entries.items() if value is not None]


def _toml(value: Any) -> str:
    """Return a value in one line. A text of JSON is one of TOML, too; so are Python's numbers."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(_pairs(value))}}}"
    if isinstance(value, bool | str):
        return json.dumps(value)
    return repr(value)
