"""`parity train --devices N`: several processes of PyTorch, several devices of JAX."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from test_training import farthest

from parity.cli import main
from parity.spec.models import MODELS
from parity.spec.training.parallel import Parallel
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import to_toml
from parity.training import journal, kills
from parity.training.folder import Folder

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 1e-9  # structure, of updates: docs/tolerances.md
# A network that no list has; `main()` starts other processes as this one was.
CHILD = (
    "import sys; from parity.training import kills; kills.recipe();"
    "from parity.cli import main; sys.exit(main())"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kills.scenes(tmp_path_factory.mktemp("scenes"))


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    kills.recipe()
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    del MODELS[kills.MODEL]


def recipe(epochs: int = 2, batch: int = 2) -> Recipe:
    """One stage, of which several devices compute what one does."""
    whole = kills.recipe("fp64")
    stage = dataclasses.replace(whole.stages[0], epochs=epochs, batch=batch)
    same = Parallel(normalizer="global", batch_norm="sync")
    return dataclasses.replace(whole, stages=(stage,), parallel=same)


def arguments(data: Path, out: Path, framework: str, *more: str, of: Recipe | None = None) -> list:
    """Of `parity train`."""
    file = out.with_suffix(".toml")
    file.write_text(to_toml(of or recipe()))
    common = ["--data", str(data), "--workers", "0", "--log-every", "1", "--save-every", "2"]
    return ["train", str(file), *common, "--framework", framework, "--out", str(out), *more]


def child(found: list[str], **options: object) -> subprocess.Popen:
    command = [sys.executable, "-c", CHILD, *found]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, **options)


def trained(found: list[str]) -> None:
    """By processes of their own."""
    process = child(found)
    said = process.communicate()
    assert process.returncode == 0, said


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
    lines = journal.read(out / "log.jsonl")
    return {line["batches"]: line["loss"] for line in lines if line["kind"] == "step"}


@pytest.mark.parametrize("name", ["torch", "jax"])
def test_devices_change_nothing_that_is_trained(runs: dict[str, Path], name: str) -> None:
    """Catches another batch, draw or mask on two devices, and a state that is lost between them."""
    assert farthest(runs[name], runs["one"]) < LIMIT
    ours, one = losses(runs[name]), losses(runs["one"])
    assert ours
    assert all(loss == pytest.approx(one[step], rel=LIMIT) for step, loss in ours.items())


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
