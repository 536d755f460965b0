"""The table of calls in docs/api.md: every command has one, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from parity.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[3]
ROW = re.compile(r"^\| `(\w+)` \| (.*) \|$", re.MULTILINE)


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


def test_the_command_calls_it() -> None:
    """Catches a call that is named for a command and that the command does without."""
    for command, text in ROW.findall((ROOT / "docs" / "api.md").read_text()):
        source = (ROOT / "parity" / "cli" / "commands" / f"{command}.py").read_text()
        source += (ROOT / "parity" / "cli" / "by_rules.py").read_text()
        for call in re.findall(r"`[\w.]+\.(\w+)`", text):
            assert re.search(rf"\b{call}\b", source), f"{command}: {call}"
