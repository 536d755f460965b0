"""Tables of rules as TOML files."""

from __future__ import annotations

import tomllib
from pathlib import Path

from parity.spec.errors import InputError
from weights_convert.rules.table import Rules

LARGEST = 2**24  # bytes of a table


def load(path: str | Path) -> Rules:
    """Read a table.

    Raises:
        InputError: The file cannot be read, or holds no table of rules.
    """
    place = Path(path)
    try:
        if place.stat().st_size > LARGEST:
            raise InputError(f"{path}: larger than {LARGEST:,} bytes, so no table of rules")
        content = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # also of a number of 5,000 digits
        raise InputError(f"{path}: no TOML: {error}") from error
    if unknown := sorted(content.keys() - {"rules", "sizes"}):
        raise InputError(f"{path}: {unknown[0]!r} is unknown, expected rules and sizes")
    sizes = content.get("sizes", {})
    if not isinstance(sizes, dict):
        raise InputError(f"{path}: sizes are {sizes!r}, expected a table of axes")
    rules = content.get("rules")
    if not isinstance(rules, list) or not rules:
        raise InputError(f"{path}: expected rules = [[pattern, name, axes], ...]")
    return Rules.of([_rule(rule) for rule in rules], str(path), sizes)


def _rule(given: object) -> object:
    """Return a rule as it is written in Python: TOML has no None, so it is an empty list."""
    if isinstance(given, list):
        return tuple(None if item == [] else item for item in given)
    return given
