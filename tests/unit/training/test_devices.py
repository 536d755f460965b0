"""`parity train --devices N`: several processes of PyTorch, several devices of JAX."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.spec.training.parallel import Parallel
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import to_toml
from parity.training import checkpoints, dist_env, logger
from parity.training.folder import Folder
from tests import small_recipe, small_runs
from tests.small_recipe import PROGRAM
from tests.small_runs import farthest

ROOT = Path(__file__).resolve().parents[3]
LIMIT = 1e-9  # structure, of updates: docs/tolerances.md
data, small = small_runs.data, small_runs.small  # the same fixtures


def recipe(epochs: int = 2, batch: int = 2) -> Recipe:
    """One stage, of which several devices compute what one does."""
    whole = small_recipe.recipe("fp64")
    stage = dataclasses.replace(whole.stages[0], epochs=epochs, batch=batch)
    same = Parallel(normalizer="global", batch_norm="sync")
    return dataclasses.replace(whole, stages=(stage,), parallel=same)


def arguments(data: Path, out: Path, framework: str, *more: str, of: Recipe | None = None) -> list:
    """Arguments of `parity train`."""
    file = out.with_suffix(".toml")
    file.write_text(to_toml(of or recipe()))
    common = ["--data", str(data), "--workers", "0", "--log-every", "1", "--save-every", "2"]
    return ["train", str(file), *common, "--framework", framework, "--out", str(out), *more]


# Says at the end of each process, the interpreter's own, which threads are still there.
ENDED = """
import atexit, os, pathlib
def ended():
    tasks = pathlib.Path("/proc/self/task").glob("*/comm")
    names = chr(10).join(path.read_text().strip() for path in tasks)
    pathlib.Path(os.environ["ENDED"], str(os.getpid())).write_text(names)
if "ENDED" in os.environ: atexit.register(ended)
"""
GLOO = ("gloo", "pt_gloo", "pt_tcpstore")  # how its threads' names begin


def child(found: list[str], **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", ENDED + PROGRAM, *found]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)


def trained(found: list[str]) -> None:
    """By processes of their own, which end in order: see `torch_impl.parallel.Group.leave`."""
    with tempfile.TemporaryDirectory() as folder:
        process = child(found, env=os.environ | {"ENDED": folder})
        said = process.communicate()
        assert process.returncode == 0, said
        ended = {path.name: path.read_text().splitlines() for path in Path(folder).iterdir()}
    assert ended or sys.platform != "linux"
    left = [name for names in ended.values() for name in names if name.startswith(GLOO)]
    assert left == [], "an interpreter that ends before gloo's threads is aborted now and then"


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`one`: a run on one device; the others begin with the epoch of `half`, on two processes."""
    root = tmp_path_factory.mktemp("runs")
    outs = {name: root / name for name in ("one", "half", "torch", "jax")}
    assert main(arguments(data, outs["one"], "torch")) == 0
    trained(arguments(data, outs["half"], "torch", "--devices", "2", "--epochs", "1"))
    shutil.copytree(outs["half"], outs["torch"])
    assert main(arguments(data, outs["torch"], "torch", "--resume")) == 0
    last = str(Folder(outs["half"]).last)
    trained(arguments(data, outs["jax"], "jax", "--devices", "2", "--resume", last))
    return outs


def losses(out: Path) -> dict[int, float]:
    """Step of the run -> its loss."""
    lines = logger.read(out / "log.jsonl")
    return {line["batches"]: line["loss"] for line in lines if line["kind"] == "step"}


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_devices_change_nothing_that_is_trained(runs: dict[str, Path], name: str) -> None:
    """Catches another batch, draw or mask on two devices, and a state that is lost between them."""
    assert farthest(runs[name], runs["one"]) < LIMIT
    ours, one = losses(runs[name]), losses(runs["one"])
    assert ours
    assert all(loss == pytest.approx(one[step], rel=LIMIT) for step, loss in ours.items())


@pytest.mark.parametrize("name", ["half", "jax"])
def test_devices_change_nothing_that_is_validated(runs: dict[str, Path], name: str) -> None:
    """Catches a validation of a part of the images, or by statistics that no checkpoint has."""

    def found(out: Path) -> dict[int, dict]:
        lines = logger.read(out / "log.jsonl")
        return {line["epoch"]: line for line in lines if line["kind"] == "validation"}

    one, several = found(runs["one"]), found(runs[name])
    assert several
    for epoch, line in several.items():
        assert line["images"] == one[epoch]["images"] == small_recipe.VAL
        assert line["accuracy"] == one[epoch]["accuracy"]
        assert line["mean_loss"] == pytest.approx(one[epoch]["mean_loss"], rel=LIMIT)


@pytest.mark.parametrize(("framework", "devices"), [("torch", 2), ("jax", 4)])
def test_devices_change_nothing_that_is_measured(
    framework: str, devices: int, data: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Catches `parity eval --devices` that counts an image twice or not, or writes nothing."""
    found = []
    for number in (1, devices):
        out = shutil.copytree(runs["one"], tmp_path / f"{number}")
        command = ["eval", str(out), "--data", str(data), "--workers", "0"]
        command += ["--framework", framework, "--devices", str(number)]
        assert number > 1 or main(command) == 0
        if number > 1:
            trained(command)
        found.append(json.loads((out / "checkpoints" / "metrics.json").read_text()))
    one, several = found
    assert one
    for a, b in zip(one, several, strict=True):
        assert a.pop("mean_loss") == pytest.approx(b.pop("mean_loss"), rel=1e-12)
        assert a == b
        assert a["images"] == small_recipe.VAL


def test_evaluation_on_devices_needs_a_framework(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches processes of nobody knows what."""
    assert main(["eval", str(tmp_path), "--data", str(data), "--devices", "2"]) == 2
    assert capsys.readouterr().err == "parity eval: error: --devices 2 needs --framework\n"


def test_the_environment_says_on_how_many_devices(runs: dict[str, Path]) -> None:
    """Catches a run that does not tell that it went on elsewhere."""
    text = (runs["torch"] / "environment.json").read_text()
    places = [start["place"] for start in json.loads(text)["starts"]]
    assert [(p["devices"], p["processes"]) for p in places] == [(2, 2), (1, 1)]


def test_a_batch_that_does_not_divide_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a refusal after something was written or started."""
    for framework in ("torch", "jax"):
        assert main(arguments(data, tmp_path / "out", framework, "--devices", "3")) == 2
        assert capsys.readouterr().err == (
            "parity train: error: stage first: a batch of 2 images does not divide among 3 devices;"
            " --batch-size N changes it\n"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.long
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_two_machines_train_like_one(
    framework: str, data: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Catches a process of another machine that reads, writes or steps by itself."""
    outs = [tmp_path / "out0", tmp_path / "out1"]
    for part in (("--epochs", "1"), ("--resume",)):
        address = f"127.0.0.1:{dist_env.free_port()}"
        nodes = []
        for node, out in enumerate(outs):
            more = ("--nodes", "2", "--coordinator", address, "--node-rank", str(node), *part)
            nodes.append(child(arguments(data, out, framework, *more)))
        said = [node.communicate() for node in nodes]
        assert [node.returncode for node in nodes] == [0, 0], said
    assert farthest(outs[0], runs["one"]) < LIMIT
    assert not outs[1].exists()
    assert [text for _, text in said] == ["", ""]
    assert "2 devices in 2 processes on 2 machines" in said[0][0]


@pytest.mark.long
def test_torchrun_does_the_same(data: Path, runs: dict[str, Path], tmp_path: Path) -> None:
    """Catches processes that are started once more, or a place that is read otherwise."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(program)]
    found = arguments(data, out, "torch")
    done = subprocess.run([*command, *found], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert farthest(out, runs["one"]) < LIMIT


@pytest.mark.long
@pytest.mark.parametrize("framework", ["torch", "jax"])
@pytest.mark.parametrize("node", ["0", "1"])
def test_a_machine_that_does_not_come_is_told_within_a_minute(
    framework: str, node: str, data: Path, tmp_path: Path
) -> None:
    """Catches a library that waits longer, aborts, or prints a traceback."""
    address = f"127.0.0.1:{dist_env.free_port()}"
    more = ("--nodes", "2", "--coordinator", address, "--node-rank", node)
    begun = time.monotonic()
    process = child(arguments(data, tmp_path / "out", framework, *more))
    said = process.communicate()[1]
    assert time.monotonic() - begun < 60
    assert process.returncode == 2
    assert said.startswith("parity train: error: ")
    assert address in said
    assert said.count("\n") == 1


@pytest.mark.long
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_a_machine_that_dies_ends_the_others(
    framework: str, victim: int, data: Path, tmp_path: Path
) -> None:
    """Catches a machine that waits for another one for ever."""
    address = f"127.0.0.1:{dist_env.free_port()}"
    outs = [tmp_path / "out0", tmp_path / "out1"]
    endless = recipe(epochs=10_000)
    nodes = []
    for node, out in enumerate(outs):
        more = ("--nodes", "2", "--coordinator", address, "--node-rank", str(node))
        nodes.append(child(arguments(data, out, framework, *more, of=endless)))
    while not Folder(outs[0]).last.exists():
        assert [node.poll() for node in nodes] == [None, None]
        time.sleep(0.1)
    begun = time.monotonic()
    nodes[victim].kill()
    said = nodes[1 - victim].communicate()[1]
    nodes[victim].communicate()
    assert time.monotonic() - begun < 60
    assert nodes[1 - victim].returncode == 1
    assert said == (
        "parity train: error: a process of another machine is gone, those of this one were ended;"
        " --resume goes on\n"
    )
    assert np.isfinite(checkpoints.read(Folder(outs[0]).last).origin.progress.loss)
