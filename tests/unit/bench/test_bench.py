"""`parity bench`: what is timed, and what is refused before anything is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli import main

Capture = pytest.CaptureFixture[str]


def test_forward_passes(tmp_path: Path, capsys: Capture) -> None:
    """Catches a side that is not timed, and runs that are not counted."""
    file = tmp_path / "x.json"
    argv = ["bench", "--model", "genet-mean8", "--batch", "1", "--runs", "2", "--json", str(file)]
    assert main(argv) == 0
    seconds = json.loads(file.read_text())["seconds"]
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        ("plain", "torch", "jax"), 2
    )
    assert "genet-mean8, 1 image of 32x32, float32, 2 threads" in capsys.readouterr().out


def test_training_on_devices(tmp_path: Path, capsys: Capture) -> None:
    """Catches a side or a way that is not timed, warm-up that is counted, and a wrong speed."""
    file = tmp_path / "x.json"
    argv = ["bench", "--train", "--devices", "2", "--model", "genet-mean8", "--batch", "4"]
    assert main([*argv, "--runs", "2", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())
    assert [(r["side"], r["devices"], r["way"]) for r in rows] == [
        ("torch", 2, "DDP"),
        ("jax", 2, "pmap"),
        ("jax", 2, "shard_map"),
    ]
    for row in rows:
        assert len(row["seconds"]) == 2
        assert row["images_per_second"] == pytest.approx(4 / (sum(row["seconds"]) / 2))
        assert row["of_each"] == pytest.approx(row["images_per_second"] / 2)
    out = " ".join(capsys.readouterr().out.split())
    assert "the 2 before them, in which all is compiled, are not counted" in out


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--train", "--devices", "3"], "devices '3'"),
        (["--train", "--devices", "2", "--batch", "3"], "does not divide among 2"),
        (["--devices", "2"], "--devices is for --train"),
    ],
)
def test_devices_refused(more: list[str], named: str, capsys: Capture) -> None:
    """Catches a traceback, or minutes of work before bad input is told."""
    assert main(["bench", "--model", "genet-mean8", *more]) == 2
    assert named in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--model", "lenet"], "model 'lenet', expected one of enet"),
        (["--runs", "0"], "runs 0, expected 1 or more"),
        (["--threads", "0"], "threads 0, expected 1 or more"),
        (["--size", "31"], "expected HEIGHTxWIDTH"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: Capture) -> None:
    """Catches minutes of timing that begin with what cannot be used."""
    assert main(["bench", *argv]) == 2
    assert what in capsys.readouterr().err
