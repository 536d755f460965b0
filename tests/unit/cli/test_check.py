"""The command `parity check`."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from parity import cli


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonet"], "nonet"),
        (["enet", "--size", "0x5"], "0x5"),
        (["enet", "--size", "big"], "big"),
        (["enet", "--levels", "L0,L9"], "L9"),
        (["enet", "--batch", "0"], "batch 0"),
        (["enet", "--weights", "no/such.pth"], "no/such.pth"),
        (["enet", "--json", "no/such/r.json"], "no/such"),
        (["enet", "--devices", "2,3"], "devices '3'"),
        (["enet", "--devices", "2", "--levels", "L1"], "L1"),
        (["enet", "--devices", "2", "--batch", "4"], "--batch"),
        (["erfnet-imagenet", "--devices", "2"], "erfnet-imagenet"),
        (["nonet", "--devices", "2"], "nonet"),
    ],
)
def test_bad_input(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, a second line, or an error that does not say what is wrong."""
    assert cli.main(["check", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert named in err


def test_usage_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches argparse's own page of usage."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["check"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_weights_are_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that ignores its rungs or writes no report."""
    path = tmp_path / "r.json"
    assert cli.main(["check", "enet-camvid", "--levels", "L0", "--json", str(path)]) == 0
    assert "PASSED" in capsys.readouterr().out
    report = json.loads(path.read_text())
    assert {c["rung"] for c in report["checks"]} == {"L0"}
    assert len(report["checks"]) == 622


def test_a_network_is_checked_by_one_call() -> None:
    """Catches a command that does what Python cannot ask for."""
    import parity

    report = parity.check_model("genet-mean2", levels=["L0"], size=(32, 32), batch=1)
    assert report.ok
    assert {check.rung for check in report.checks} == {"L0"}


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a version that nobody can quote in a report of a fault."""
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"parity-suite {importlib.metadata.version('parity-suite')}\n"
