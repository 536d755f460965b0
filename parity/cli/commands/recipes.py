"""List the training recipes, or print one whole.

A recipe is a name, or a TOML file: `parity recipes NAME --toml > mine.toml` is one to begin with.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import sys
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from parity.io.files import check_writable, write_atomically
from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.written import KINDS, plain, to_toml

if TYPE_CHECKING:
    from rich.table import Table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", metavar="RECIPE", help="a name, or a file")
    parser.add_argument("--toml", action="store_true", help="print it as TOML")
    parser.add_argument("--json", metavar="FILE", help="write it, or all of them, to this file")


def run(args: argparse.Namespace) -> int:
    import json

    from parity.report.console import standard_output
    from parity.spec.recipes import RECIPES
    from parity.training.overrides import find

    if args.json is not None:
        check_writable(args.json)
    if args.recipe is None:
        if args.toml:
            raise InputError(f"--toml needs a recipe, one of {', '.join(RECIPES)}")
        standard_output().print(table(RECIPES))
        entries: Any = [plain(recipe) for recipe in RECIPES.values()]
    else:
        recipe = find(args.recipe)
        # In a file, a line for each field; at a terminal, none is broken inside of a word.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print(to_toml(recipe).rstrip() if args.toml else "\n".join(facts(recipe, width)))
        entries = plain(recipe)
    if args.json is not None:
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0


# Fields that make a recipe another one than the published, such as for a user's own data.
OTHERWISE = ("own", "outputs", "width", "depth")


def table(recipes: dict[str, Recipe]) -> Table:
    """Return a table with a line for each recipe."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD)
    for name in ("recipe", "network", "data", "stages", "epochs", "batch", "optimizer"):
        right = name in ("epochs", "batch")
        made.add_column(name, justify="right" if right else "left", no_wrap=name == "recipe")
    made.add_column("published, %", justify="right")
    for name, recipe in recipes.items():
        stages = recipe.stages
        made.add_row(
            name,
            _each(stage.model for stage in stages),
            recipe.data,
            _each(stage.name for stage in stages),
            str(recipe.epochs),
            _each(str(stage.batch) for stage in stages),
            _each(f"{s.optimizer.kind} {s.optimizer.lr:g}" for s in stages),
            "-" if recipe.published is None else f"{recipe.published:.2f}",
        )
    return made


def facts(recipe: Recipe, width: int | None = None) -> list[str]:
    """Return a line for each field of a recipe; nested fields at their defaults are left out.

    Args:
        recipe: The recipe.
        width: Characters of a line; longer ones go on below their values. No limit if None.
    """
    lines = [f"{name:<18}{text}" for name, text in _settings(recipe, "stages").items()]
    for stage in recipe.stages:
        lines += ["", f"{'stage':<18}{stage.name}"]
        shown = _settings(stage, "name")
        if stage.dropout is None:
            shown["dropout"] = dropout(stage)
        lines += [f"  {name:<16}{text}" for name, text in shown.items()]
    return lines if width is None else [_wrapped(line, width) for line in lines]


def _wrapped(line: str, width: int) -> str:
    """Break a line between words."""
    return textwrap.fill(
        line,
        width,
        subsequent_indent=" " * 18,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _settings(part: Recipe | Stage, without: str) -> dict[str, str]:
    """Return the text of each field but one, and but those of `OTHERWISE` that are not set."""
    fields = [field.name for field in dataclasses.fields(part) if field.name != without]
    shown = {name: getattr(part, name) for name in fields}
    return {n: _text(v) for n, v in shown.items() if v is not None or n not in OTHERWISE}


def dropout(stage: Stage) -> str:
    """Return the probabilities of a stage that leaves them to its network, each once."""
    config = stage.config
    found = [p for p, _ in config.dropout_sites(*config.check_size).values()]
    return f"{_each(f'{p:g}' for p in found)} (the network's)" if found else "none"


def _each(texts: Iterable[str]) -> str:
    """Return the text once if all are equal."""
    return ", ".join(dict.fromkeys(texts))


def _text(value: Any) -> str:
    """Format a value for people: an operation as `flip, p 0.5`."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        if len(value) == 2 and all(isinstance(v, int) for v in value):
            return "x".join(map(str, value))
        parts = [dataclasses.is_dataclass(v) for v in value]
        return (" | " if any(parts) else ", ").join(map(_text, value)) or "none"
    if dataclasses.is_dataclass(value):
        fields = [f for f in dataclasses.fields(value) if f.name != "kind"]
        shown = [f.name for f in fields if f.default != getattr(value, f.name)]
        kind = KINDS.get(type(value)) or getattr(value, "kind", None)
        pairs = [f"{name} {_text(getattr(value, name))}" for name in shown]
        return ", ".join([kind, *pairs] if kind else pairs) or "as by default"
    return f"{value:g}" if isinstance(value, float) else str(value)
