"""The speed of loading: batches that are taken, and what is refused before any is made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.benchmarks import loading_speed
from tests.tiny_data import data, tiny

Capture = pytest.CaptureFixture[str]


@pytest.mark.long
def test_batches(tmp_path: Path, capsys: Capture) -> None:
    """Catches batches that are not taken, no more of them than an epoch has, and no training.

    Seven images make four batches of two, of which eleven are asked for, and one before them.
    """
    root, file = data(tmp_path / "data", tiny("enet-camvid")), tmp_path / "x.json"
    argv = ["--data", str(root), "--recipe", "enet-camvid", "--size", "16x24"]
    argv += ["--batch", "2", "--runs", "11", "--json", str(file)]
    assert loading_speed.main([*argv, "--workers", "0,1", "--consumers", "nobody,torch"]) == 0
    rows = json.loads(file.read_text())
    assert [(row["consumer"], row["workers"]) for row in rows] == [
        ("nobody", 0),
        ("nobody", 1),
        ("torch", 0),
        ("torch", 1),
    ]
    for row in rows:
        assert row["images"] == 11 * 2 - 3  # of each fourth batch, one
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert 0 <= row["waited"] <= 1
        assert row["cpu"] > 0
        assert row["workers"] or row["workers_cpu"] == 0
    assert "enet-camvid, batches of 2 images of 16x24" in capsys.readouterr().out


def test_on_paper() -> None:
    """Catches a figure of workers from what the training process does, or the other way round.

    What a thread takes is not what a worker takes, which puts the batches into shared memory.
    """
    rows = [
        loading_speed.LoadingSpeed("nobody", 0, 0.1, 100, 1.0, 0.0, 0.3),
        loading_speed.LoadingSpeed("nobody", 1, 0.1, 100, 1.0, 0.0, 0.05, 0.8),
        loading_speed.LoadingSpeed("torch", 1, 0.1, 100, 9.0, 0.0, 9.0, 1.0),
    ]
    assert loading_speed.on_paper(rows, 8) == (
        "on paper: 8 workers make 1,000 images/s, and the training process can take 2,000 a second"
        " out of shared memory"
    )
    assert loading_speed.on_paper(rows[:1], 8) is None


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        ([], "no: no such folder"),
        (["--recipe", "x"], "unknown recipe 'x'"),
        (["--workers", "1,-1"], "workers '-1'"),
        (["--workers", "999"], "workers '999'"),
        (["--consumers", "me"], "consumer 'me'"),
        (["--runs", "0"], "runs 0, expected 1"),
        (["--size", "31"], "expected HEIGHTxWIDTH"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: Capture) -> None:
    """Catches minutes of timing that begin with what cannot be used."""
    assert loading_speed.main(["--data", "no", "--recipe", "enet-camvid", *argv]) == 2
    assert what in capsys.readouterr().err
