"""The tutorial: a reader who does what it says sees what it shows."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from parity.cli import main
from tests.pages import follow


def test_the_tutorial_leads_to_a_faithful_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a tutorial whose code does not run, or whose commands print something else."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(arguments: list[str]) -> str:
        main(arguments)
        return capsys.readouterr().out

    assert follow("tutorial.md", tmp_path, run) == 5
