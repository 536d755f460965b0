"""`parity bench`: what is timed, and what is refused before anything is."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.cli import main
from parity.report import console
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.training.parallel import WAYS
from parity.training import scaling
from tests.benchmarks import conversion_speed
from tests.fuzz.pairs import smallest
from tests.test_pipeline import data, tiny
from weights_convert import formats

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


def seconds_of(
    arguments: list[str], side: str, devices: int, progress: Callable[[str], None]
) -> dict[str, list[float]]:
    """In the place of `scaling.in_processes`."""
    progress("its processes start" if side == "torch" else "pmap: first run, in which all is")
    assert arguments[-1] == f"--devices={devices}"
    return {way: [0.5, 0.25 * devices] for way in (("DDP",) if side == "torch" else WAYS)}


@pytest.mark.parametrize(
    "measured", [False, pytest.param(True, marks=pytest.mark.long)], ids=["told", "measured"]
)
def test_training_on_devices(
    measured: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a side or a way not timed, warm-up counted, a wrong speed, silence meanwhile.

    In real processes: `long`; `test_devices.py` trains in such ones.
    """
    monkeypatch.setattr(console, "QUIET", 0)
    if not measured:
        monkeypatch.setattr(scaling, "in_processes", seconds_of)
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
    captured = capsys.readouterr()
    assert "torch on 2 devices, its processes start" in captured.err
    assert "jax on 2 devices, pmap: first run, in which all is" in captured.err
    out = " ".join(captured.out.split())
    assert "the 2 before them, in which all is compiled, are not counted" in out


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--train", "--devices", "3"], "devices '3'"),
        (["--train", "--devices", "2", "--batch", "3"], "does not divide among 2"),
        (["--devices", "2"], "--devices is for --train"),
        (["--devices", "2", "--convert"], "--devices is for forward passes"),
    ],
)
def test_devices_refused(more: list[str], named: str, capsys: Capture) -> None:
    """Catches a traceback, or minutes of work before bad input is told."""
    assert (
        main(
            ["bench", "--model", "genet-mean8", *more]
            if "--convert" not in more
            else ["bench", *more]
        )
        == 2
    )
    assert named in capsys.readouterr().err


def test_conversions(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a conversion that is not timed, a ratio of other numbers, and files that stay.

    Only the first conversion is a process of its own, the others are made by this one.
    """
    small = dataclasses.replace(MODELS["genet"], depth=10, width=1)
    monkeypatch.setattr(conversion_speed, "LARGE", small)
    monkeypatch.setitem(conversion_speed.MODELS, "icnet", smallest("icnet"))
    monkeypatch.setattr(
        formats, "FORMATS", {k: formats.FORMATS[k] for k in ("torch", "safetensors")}
    )
    seen: list[set[str]] = []
    timed = conversion_speed.timed

    def watched(command: tuple[str, ...], made: Path) -> float:
        seconds = timed(command, made)
        seen.append({path.name for path in made.parent.iterdir()})
        return seconds

    monkeypatch.setattr(conversion_speed, "timed", watched)
    process, started = subprocess.run, []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess:
        if "parity.cli" not in command:
            return process(command, **options)
        if not started:
            started.append(command)
            return process(command, **options)
        with contextlib.redirect_stdout(io.StringIO()):
            return subprocess.CompletedProcess(command, main(list(command[3:])), stderr="")

    monkeypatch.setattr(subprocess, "run", run)
    file = tmp_path / "x.json"
    assert main(["bench", "--convert", "--runs", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    for format in ("torch", "safetensors"):
        (copied,), (carried,) = found["copied"][format], found["carried"][format]
        assert found["ratio"][format] == pytest.approx(carried / copied)
    assert found["carried"]["torch"][0] > 0.1  # a process that imports NumPy
    pairs = {f"{a} to {b}" for a in formats.FORMATS for b in formats.FORMATS}
    assert found["between"].keys() == pairs
    assert all(name.startswith("source") for names in seen for name in names)
    out = capsys.readouterr().out
    assert "torch to safetensors" in out
    assert "icnet, one run of each" in out


def test_a_conversion_that_fails_is_not_a_fast_one(tmp_path: Path) -> None:
    """Catches the time of a process that did nothing."""
    (tmp_path / "x").write_text("no checkpoint")
    with pytest.raises(InputError, match="of no known format"):
        conversion_speed.converting(tmp_path / "x", tmp_path, "npz")
    with pytest.raises(InputError, match="no-such"):
        conversion_speed.copying(tmp_path / "no-such", tmp_path / "copy")


def test_batches(tmp_path: Path, capsys: Capture) -> None:
    """Catches batches that are not taken, no more of them than an epoch has, and no training.

    Seven images make four batches of two, of which eleven are asked for, and one before them.
    """
    root, file = data(tmp_path / "data", tiny("enet-camvid")), tmp_path / "x.json"
    argv = ["bench", "--data", str(root), "--recipe", "enet-camvid", "--size", "16x24"]
    argv += ["--batch", "2", "--runs", "11", "--json", str(file)]
    rows = []
    for workers, consumers in (("0,1", "nobody"), ("0", "nobody,torch")):
        assert main([*argv, "--workers", workers, "--consumers", consumers]) == 0
        rows += json.loads(file.read_text())
    assert [(row["consumer"], row["workers"]) for row in rows] == [
        ("nobody", 0),
        ("nobody", 1),
        ("nobody", 0),
        ("torch", 0),
    ]
    for row in rows:
        assert row["images"] == 11 * 2 - 3  # of each fourth batch, one
        assert row["images_per_second"] == pytest.approx(row["images"] / row["seconds"])
        assert 0 <= row["waited"] <= 1
        assert (row["cpu"] is None) == (row["workers"] == 1)
    assert "enet-camvid, batches of 2 images of 16x24" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--data", "no", "--recipe", "enet-camvid"], "no: no such folder"),
        (["--data", "no"], "--data is for batches of a --recipe"),
        (["--data", "no", "--recipe", "enet-camvid", "--model", "enet"], "and no other network"),
        (["--data", "no", "--recipe", "x"], "unknown recipe 'x'"),
        (["--data", "no", "--recipe", "enet-camvid", "--workers", "1,-1"], "workers '-1'"),
        (["--data", "no", "--recipe", "enet-camvid", "--workers", "999"], "workers '999'"),
        (["--data", "no", "--recipe", "enet-camvid", "--consumers", "me"], "consumer 'me'"),
        (["--data", "no", "--recipe", "enet-camvid", "--runs", "0"], "runs 0, expected 1"),
        (["--recipe", "enet-camvid"], "--recipe is for batches: --data DIR is missing"),
        (["--model", "lenet"], "model 'lenet', expected one of enet"),
        (["--runs", "0"], "runs 0, expected 1 or more"),
        (["--convert", "--runs", "-1"], "runs -1, expected 1 or more"),
        (["--threads", "0"], "threads 0, expected 1 or more"),
        (["--size", "31"], "expected HEIGHTxWIDTH"),
        (["--convert", "--onnx"], "--onnx is for forward passes"),
        (["--convert", "--model", "icnet"], "--model is for forward passes"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: Capture) -> None:
    """Catches minutes of timing that begin with what cannot be used."""
    assert main(["bench", *argv]) == 2
    assert what in capsys.readouterr().err
