"""Faults in the operations of a user's port: `parity faults FILE.py:FUNCTION`."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from parity import cli
from parity.faults.operations import Power, campaign
from parity.spec.errors import InputError
from tests.unit.capture.test_transformations import transformed

FACTORY = """
from tests.unit.capture.test_transformations import transformed


def make_port():
    return transformed("checkpoint")


def make_wrong():
    return transformed("checkpoint", factor=1.1)
"""


def test_faults_of_every_kind_are_found_also_inside_transformations(tmp_path: Path) -> None:
    """Catches a check that misses a fault in a port, or a campaign that injects none."""
    power = campaign(transformed("scan"), most=30)
    assert power.ok
    kinds = {o.mutant.kind for o in power.outcomes if o.outcome == "killed"}
    assert {"left out", "another function", "gradient stopped", "result times 1.001"} <= kinds
    inside = [o for o in power.outcomes if o.mutant.layer == "b" and o.outcome == "killed"]
    assert inside
    assert all(o.placed for o in power.outcomes if o.outcome == "killed")
    power.to_json(tmp_path / "power.json")
    assert len(json.loads((tmp_path / "power.json").read_text())["mutants"]) == len(power.outcomes)


def test_names_that_look_like_markup() -> None:
    """Catches a table that raises, or drops a folder's name, where a port is called after it."""
    console = Console(file=io.StringIO(), width=80)
    console.print(Power("[old]/a[/b].py", [], 0).table())
    assert "[old]/a[/b].py: injected faults" in console.file.getvalue()  # type: ignore[attr-defined]  # a StringIO


def test_a_fault_that_changes_nothing_is_not_counted() -> None:
    """Catches a mutant that computes the same, called a fault that was missed."""
    power = campaign(transformed("jit"), most=60)
    idle = [o.mutant for o in power.outcomes if o.outcome == "equivalent"]
    assert [(m.kind, m.operation) for m in idle] == [("left out", "mul")]  # a factor of 1


def test_a_port_that_is_wrong_as_it_is_is_refused() -> None:
    """Catches a score of a check that fails before any fault is injected."""
    with pytest.raises(InputError, match="not right as it is"):
        campaign(transformed("jit", factor=1.1))


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that prints no score, takes options of another kind, or a wrong status."""
    (tmp_path / "port.py").write_text(FACTORY)
    name = f"{tmp_path / 'port.py'}:make_port"
    assert cli.main(["faults", name, "--count", "6"]) == 0
    assert "6 of 6 faults found" in capsys.readouterr().out
    for wrong in (
        [name, "--fast"],
        [name, "--count", "0"],
        ["enet"],
        ["--count", "5"],
        [f"{tmp_path / 'port.py'}:make_wrong"],
    ):
        assert cli.main(["faults", *wrong]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
