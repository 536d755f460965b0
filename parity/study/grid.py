"""The rows of a sweep: combinations of settings, each in one spelling."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any

from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.written import SILENT
from parity.training import overrides

ALL = "stages.all."


def parse_grid(texts: Sequence[str]) -> list[tuple[str, ...]]:
    """Parse `optimizer.lr=0.06,0.08` and others to rows: every combination of their values.

    Keys are sorted, and written as `short_setting` does: the order and spelling of the command do
    not matter.

    Raises:
        InputError: A malformed entry, or a key or value that is given twice.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, values = text.partition("=")
        options = values.split(",")
        if not equals or not re.fullmatch(r"[\w.-]+", key) or not all(options):
            raise InputError(f"--grid {text!r}, expected KEY=VALUE,VALUE such as level=O1,O2")
        if key == "devices":
            raise InputError(f"--grid {text!r}: --devices sets it for the whole study")
        if key in SILENT:
            raise InputError(f"--grid {text!r}: {key} decides nothing that is trained")
        if bad := [v for v in options if not re.fullmatch(r"[\w.+-]+", v)]:
            raise InputError(f"--grid {text!r}: {bad[0]!r}, expected a number or a word")
        settings = [short_setting(f"{key}={value}") for value in options]
        full = full_key(settings[0]).partition("=")[0]
        if full in axes or len({same_row([setting]) for setting in settings}) < len(settings):
            raise InputError(f"--grid {text!r}: a key or value is given twice")
        axes[full] = settings
    return list(itertools.product(*(axes[key] for key in sorted(axes))))


def same_row(row: Sequence[str]) -> frozenset[tuple[str, str]]:
    """Return what is equal of two rows that set the same: whole keys, and values as TOML has them.

    `lr=0.10` and `optimizer.lr=0.1` are the same, `batch=4` and `batch=4.0`, too.
    """
    pairs = (full_key(setting).partition("=") for setting in row)
    return frozenset((key, _plain(overrides.value_of(text))) for key, _, text in pairs)


def _plain(value: Any) -> str:
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


def as_there(
    grid: Iterable[tuple[str, ...]], there: Iterable[tuple[str, ...]]
) -> list[tuple[str, ...]]:
    """Replace rows by those that are there and set the same, in whatever order or spelling."""
    known: dict[frozenset, tuple[str, ...]] = {}
    for row in there:
        known.setdefault(same_row(row), row)
    return [known.get(same_row(row), row) for row in grid]


def short_setting(setting: str) -> str:
    """Return a setting as names of rows have it, such as `optimizer.lr=0.1` for `lr=0.1`."""
    return full_key(setting).removeprefix(ALL)


def full_key(setting: str) -> str:
    """Return a setting with a recipe's whole key: `batch=4` is that of all stages."""
    key, _, value = setting.partition("=")
    first = key.split(".")[0]
    fields = {field.name for field in dataclasses.fields(Recipe)}
    of_stage = {field.name for field in dataclasses.fields(Stage)} - fields
    key = {"lr": "optimizer.lr"}.get(key, key)
    return f"{ALL}{key}={value}" if first in of_stage or first == "lr" else f"{key}={value}"
