"""The table of calls in docs/api.md: every command has one, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from parity.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)

# Calls that a command makes in another way -> which.
OTHERWISE = {
    "parity.suggest.suggestion.suggest": "`suggest_pair`, of a port that is paired already",
    "parity.spec.recipes.recipe": "`parity.training.overrides.find`, which takes files, too",
    "weights_convert.conversion.convert": "as `weights_convert.convert`",
}


def functions(module: str) -> set[str]:
    """Return the names of a module's functions, without importing it."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    tree = ast.parse(path.read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_command_is_a_call() -> None:
    """Catches a command without a Python call, and a call that was moved or renamed."""
    rows = dict(ROW.findall((ROOT / "docs" / "api.md").read_text()))
    assert rows.keys() == COMMANDS.keys()
    for command, text in rows.items():
        calls = re.findall(r"`([\w.]+\.\w+)`", text)
        assert calls, command
        for call in calls:
            module, _, name = call.rpartition(".")
            assert name in functions(module), call


def called(path: Path) -> set[str]:
    """Return the full names of all that a module imports and uses."""
    tree, names = ast.parse(path.read_text()), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    parts = [
        ast.unparse(node).split(".")
        for node in ast.walk(tree)
        if isinstance(node, (ast.Name, ast.Attribute))
    ]
    return {".".join([names[name], *rest]) for name, *rest in parts if name in names}


def test_the_command_calls_it() -> None:
    """Catches a call that is named for a command and that the command does without."""
    for command, text in ROW.findall((ROOT / "docs" / "api.md").read_text()):
        cli = ROOT / "parity" / "cli"
        found = called(cli / "commands" / f"{command}.py") | called(cli / "by_rules.py")
        for call in re.findall(r"`([\w.]+\.\w+)`", text):
            assert call in found or call in OTHERWISE, f"{command}: {call}"
