"""The scripts for whoever has one GPU for ten minutes, with programs that only say what they do."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import pytest
import torch

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"

# Stands for `parity`: notes its arguments, writes what the script reads, and ends as it is told.
PARITY = """#!{python}
import json, os, subprocess, sys, time
verb, out = sys.argv[1], None
with open("called", "a") as file:
    print(*sys.argv[1:], file=file)
if verb == os.environ.get("SLOW"):
    subprocess.Popen(["sh", "-c", "trap 'touch heard' INT; sleep 3 & wait"])  # of its group
    time.sleep(60)
if verb == "check":
    open(sys.argv[sys.argv.index("--json") + 1], "w").close()
    tf32 = os.environ.get("JAX_DEFAULT_MATMUL_PRECISION") == "tensorfloat32"
    sys.exit(int(os.environ.get("TF32_ENDS" if tf32 else "CHECK_ENDS", 0)))
if verb == "study":
    out = sys.argv[sys.argv.index("--out") + 1]
    os.makedirs(out, exist_ok=True)
    speed = {{"images_per_second": 367.0, "validation": 101.0}}
    run = {{"status": "finished", "speed": speed}}
    made = {{"images": [367, 101], "epochs": 2, "rows": [{{"runs": [run, run]}}]}}
    with open(out + "/study.json", "w") as file:
        json.dump(made, file)
if verb == "pack":
    open(sys.argv[3], "w").close()
"""
# Stands for `python`: the speeds take a GPU's time.
PYTHON = """#!/bin/sh
case "$1" in -c) echo "${{GPU:-0}}"; exit 0;; *fps.py) echo "speeds $*" >> called; exit 0;; esac
exec {python} "$@"
"""

Script = Callable[..., subprocess.CompletedProcess]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (("parity", PARITY), ("python", PYTHON)):
        (programs / name).write_text(text.format(python=sys.executable))
        (programs / name).chmod(0o755)

    def run(*arguments: str, name: str = "gpu.sh", **variables: str) -> subprocess.CompletedProcess:
        variables = {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"} | variables
        command = ["bash", str(RESULTS / name), *arguments]
        environment = os.environ | variables
        return subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    return run


def called(folder: Path) -> list[str]:
    return (folder / "called").read_text().splitlines()


def test_every_part_runs_and_a_second_call_goes_on(script: Script, tmp_path: Path) -> None:
    """Catches a part that is left out, a split packed anew, and a study of other epochs."""
    done = script("CAMVID", "out", "1")
    assert done.returncode == 0, done.stderr
    verbs = [line.split()[0] for line in called(tmp_path)]
    assert verbs == ["check", "speeds", "pack", "pack", "study", "study"]
    trial, whole = called(tmp_path)[-2:]
    assert "--epochs 2 " in trial
    epochs = int((tmp_path / "out" / "epochs").read_text())
    assert 8 <= epochs <= 30  # a second for an epoch of each side, and for a validation
    assert f"--epochs {epochs} " in whole
    (tmp_path / "called").unlink()
    assert script("CAMVID", "out", "3").returncode == 0
    assert [line.split()[0] for line in called(tmp_path)] == ["check", "speeds", "study"]
    assert f"--epochs {epochs} " in called(tmp_path)[-1]


def test_a_failed_check_is_told_and_stops_nothing(script: Script, tmp_path: Path) -> None:
    """Catches a difference that the last line hides, and bad input that is trained on."""
    assert script("CAMVID", "out", EPOCHS="3", CHECK_ENDS="1").returncode == 1
    assert "--epochs 3 " in called(tmp_path)[-1]
    assert script("CAMVID", "out", CHECK_ENDS="2").returncode == 2
    assert called(tmp_path)[-1].split()[0] == "check"
    done = script()
    assert done.returncode == 2
    assert done.stderr.startswith("What one GPU can show in ten minutes")


def test_a_part_that_takes_too_long_is_stopped(script: Script, tmp_path: Path) -> None:
    """Catches checks that take all of the ten minutes."""
    done = script("CAMVID", "out", "0", EPOCHS="3", SLOW="check")
    assert done.returncode == 0
    assert "stopped: its 1 s were over; the same call goes on" in done.stdout
    assert called(tmp_path)[-1].split()[0] == "study"


def test_speed_of_each_network(script: Script, tmp_path: Path) -> None:
    """Catches a network, a precision or one device that is left out."""
    done = script("out", "1", name="gpu_speed.sh", MODELS="enet genet")
    assert done.returncode == 0, done.stderr
    check, again, bench, enet, genet = called(tmp_path)
    assert check.startswith("check enet")
    assert again.startswith("check enet")
    assert "--train --devices 1 --size 512x1024" in bench
    assert "--model enet --size 512x1024 --batch 8" in enet
    assert "--model genet --size 32x32 --batch 128" in genet
    assert all("--precisions fp32,tf32,bf16,fp16" in line for line in (enet, genet))


@pytest.mark.parametrize(
    ("gpu", "exact", "rounded", "expected"),
    [
        ("0", "0", "0", 0),
        ("1", "0", "1", 0),
        ("1", "0", "0", 1),
        ("1", "1", "1", 1),
        ("1", "2", "1", 2),
    ],
)
def test_a_check_that_does_not_tell_tf32(
    gpu: str, exact: str, rounded: str, expected: int, script: Script
) -> None:
    """Catches a script that is content with a check which passes with TF32, or fails without."""
    ends = {"CHECK_ENDS": exact, "TF32_ENDS": rounded}
    done = script("out", name="gpu_speed.sh", GPU=gpu, MODELS="enet", **ends)
    assert done.returncode == expected
    assert ("did not tell TF32" in done.stdout) == (gpu == "1" and rounded == "0")


def test_a_check_that_was_stopped_is_not_judged(script: Script, tmp_path: Path) -> None:
    """Catches an earlier call's file taken for what this call's check found."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "check-tf32.json").touch()
    done = script("out", "0", name="gpu_speed.sh", GPU="1", MODELS="enet", SLOW="check")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("were over") == 2
    assert "did not tell TF32" not in done.stdout


def test_precisions_of_products() -> None:
    """Catches TF32 left on in what is called fp32, or left on for what comes after."""
    program = runpy.run_path(str(RESULTS / "fps.py"))
    backends = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [backend.allow_tf32 for backend in backends]
    for precision, allowed in (("fp32", False), ("tf32", True)):
        with program["products_in"](precision):
            assert [backend.allow_tf32 for backend in backends] == [allowed, allowed]
            meant = "tensorfloat32" if allowed else "highest"
            assert jax.config.jax_default_matmul_precision == meant
    assert [backend.allow_tf32 for backend in backends] == before
    assert jax.config.jax_default_matmul_precision is None


def test_a_part_is_interrupted_once(script: Script, tmp_path: Path) -> None:
    """Catches a Ctrl-C to the program and to its group: the second ends it with nothing stored."""
    script("CAMVID", "out", "0", EPOCHS="3", SLOW="study")
    assert not (tmp_path / "heard").exists()


@pytest.mark.parametrize(
    ("took", "left", "seeds", "expected"),
    [(30, 300, 1, 101), (30, 300, 2, 45), (30, 5, 1, 1), (4, 100_000, 1, 300)],
)
def test_epochs_that_fit(took: float, left: float, seeds: int, expected: int) -> None:
    """Catches the time to start and to validate left out, or that of one side alone.

    Two epochs of both sides take 4 s, a validation 4 s, the rest of `took` is the beginning.
    """
    program = runpy.run_path(str(RESULTS / "gpu_epochs.py"))
    run = {"status": "finished", "speed": {"images_per_second": 100.0, "validation": 50.0}}
    study: dict[str, Any] = {"images": [100, 100], "epochs": 2, "rows": [{"runs": [run, run]}]}
    found = program["epochs"](study, took, left, seeds)
    assert found == expected
    planned = seeds * (max(0, took - 8) + 4 + found * 2.4)
    assert planned <= 0.9 * left or found == 1
    assert planned > 0.9 * left - 2.4 * seeds or found in (1, 300)
    study["rows"][0]["runs"] = [{**run, "status": "failed"}]
    assert program["epochs"](json.loads(json.dumps(study)), took, left, seeds) == 1
