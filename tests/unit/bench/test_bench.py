"""`parity bench`: what is timed, and what is refused before anything is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from parity.bench import alone, devices
from parity.cli import main
from parity.report import console
from parity.spec.errors import InputError
from parity.spec.training.parallel import WAYS

Capture = pytest.CaptureFixture[str]


def test_forward_passes(tmp_path: Path, capsys: Capture) -> None:
    """Catches a side that is not timed, and runs that are not counted."""
    file = tmp_path / "x.json"
    argv = ["bench", "--model", "genet-mean8", "--batch", "1", "--runs", "2", "--json", str(file)]
    assert main(argv) == 0
    found = json.loads(file.read_text())
    assert found["first_call"].keys() == {"plain", "torch", "jax"}
    assert found["first_call"]["jax"] > max(found["seconds"]["jax"])  # it compiles
    assert {"torch", "jax", "onnxruntime"} <= found["versions"].keys()
    assert found["hardware"]["cores"]
    seconds = found["seconds"]
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(
        ("plain", "torch", "jax"), 2
    )
    assert "genet-mean8, 1 image of 32x32, float32, 2 threads" in capsys.readouterr().out


def seconds_of(
    job: devices.Job, progress: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """In the place of `devices.in_processes`."""
    torch = job.side == "torch"
    progress("its processes start" if torch else "pmap: first run, in which all is compiled")
    return {way: [0.5, 0.25 * job.devices] for way in (("DDP",) if torch else WAYS)}


@pytest.mark.parametrize(
    "measured", [False, pytest.param(True, marks=pytest.mark.long)], ids=["given", "measured"]
)
def test_training_on_devices(
    measured: bool, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a side or a way not timed, warm-up counted, a wrong speed, silence meanwhile.

    In real processes: `long`; `test_devices.py` trains in such ones.
    """
    monkeypatch.setattr(console, "QUIET", 0)
    if not measured:
        monkeypatch.setattr(devices, "in_processes", seconds_of)
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
    assert "jax on 2 devices, pmap: first run, in which all is compiled" in captured.err
    out = " ".join(captured.out.split())
    assert "the 2 before them, in which all is compiled, are not counted" in out


def test_a_batch_for_any_number_of_devices(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the README's `--train --devices 1,2` refused, because of a batch that nobody gave."""
    monkeypatch.setattr(devices, "in_processes", seconds_of)
    assert main(["bench", "--train", "--devices", "1,2", "--size", "64x128", "--runs", "1"]) == 0
    assert "enet, 2 images of 64x128 a step" in capsys.readouterr().out


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


def test_a_first_call_in_a_process_of_its_own(tmp_path: Path) -> None:
    """Catches memory of the process that asks, of the libraries, or none; and a call not made.

    A process begins with the `ru_maxrss` of the one that started it.
    """
    held = bytearray(600 << 20)  # this process is larger than that one may become
    held[:: 1 << 12] = b"1" * (600 << 8)
    found = alone.in_process(
        alone.Job("torch", "genet-mean8", (32, 32), 1, 1, False), str(tmp_path)
    )
    assert found.seconds > 0
    assert found.memory is None or 1 << 20 < found.memory < 500 << 20
    del held


@pytest.mark.skipif(not os.access(alone.RESET, os.W_OK), reason="the system keeps the peak")
def test_what_imports_took_for_a_while_is_no_growth() -> None:
    """Catches memory that was given back before anything was built, counted as the network's."""
    held = bytearray(300 << 20)
    held[:: 1 << 12] = b"1" * (300 << 8)
    del held
    alone.forget_peak()
    now, most = alone.resident("VmRSS"), alone.resident("VmHWM")
    assert now is not None
    assert most is not None
    assert most - now < 100 << 20


def test_cold_and_warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a warm call without what the cold one left, or of a side that leaves nothing."""
    folders: list[tuple[str, str]] = []

    def called(job: alone.Job, folder: str) -> alone.Call:
        folders.append((job.name, folder))
        return alone.Call(float(len(folders)), None)

    monkeypatch.setattr(alone, "in_process", called)
    names = ("torch", "torch.compile", "jax")
    found = alone.first_calls(names, "enet", (8, 8), 1, 1, True, lambda stage: None)
    assert [name for name, _ in folders] == ["torch", *["torch.compile"] * 2, *["jax"] * 2]
    assert folders[1][1] == folders[2][1] != folders[3][1] == folders[4][1]
    assert found["torch"].warm is None
    assert [found["jax"].cold.seconds, found["jax"].warm and found["jax"].warm.seconds] == [4, 5]


def test_a_process_that_fails_is_one_line(tmp_path: Path) -> None:
    """Catches a traceback, or a result in the place of the one that failed."""
    job = alone.Job("none", "genet-mean8", (32, 32), 1, 1, False)
    with pytest.raises(InputError, match="none: the process of its first call failed: ") as caught:
        alone.in_process(job, str(tmp_path))
    assert str(caught.value).endswith("No module named 'none_impl'")
