"""Training the runs of a study: claims, kills, failures; real runs of a tiny GENet."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.cli.commands import study
from parity.spec.errors import InputError
from parity.spec.training.written import to_toml
from parity.study import analysis, claims, results, writing
from parity.study.grid import full_key, parse_grid
from parity.study.plan import (
    Plan,
    StudyRun,
    parse_only,
    parse_seeds,
    read_state,
    runs_of,
)
from parity.study.running import Ended, Interrupted, claim_of, train_all
from parity.training import logger, overrides
from tests.batches import cifar
from tests.scenes import save
from tests.study_folders import in_process, plan, write_run

SMALL = ["stages.all.width=1", "stages.all.depth=10", "stages.all.batch=8"]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """More threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def nothing(*_: object) -> None:
    pass


class Fake:
    """Trains in no time; a run of a seed in `ends` ends with that status."""

    def __init__(self, ends: dict[int, int] | None = None) -> None:
        self.ends, self.trained = ends or {}, list[str]()

    def __call__(self, plan: Plan, run: StudyRun, out: Path) -> Ended:
        status = self.ends.get(run.seed, 0)
        self.trained.append(run.name)
        if not status:
            shutil.rmtree(out / run.name, ignore_errors=True)  # of a failed one
            write_run(plan, run, out, [0.5, 0.6], state={})
        elif status == 1:
            (out / run.name).mkdir(parents=True, exist_ok=True)
        return Ended(status, "loss is nan" if status == 1 else "no such file")


RUNS = runs_of(["torch", "jax"], [1, 2])


def test_pairs_are_trained_beside_each_other(tmp_path: Path) -> None:
    """Catches a study that has one side alone for the first half of its time."""
    made, fake = plan(tmp_path), Fake()
    train_all(made, RUNS, tmp_path, fake, nothing)
    assert fake.trained == ["torch/seed-1", "jax/seed-1", "torch/seed-2", "jax/seed-2"]
    again = Fake()
    train_all(made, RUNS, tmp_path, again, nothing)
    assert again.trained == []


def test_a_failed_seed_stops_no_other(tmp_path: Path) -> None:
    """Catches a NaN that ends the study, or that is trained again and again."""
    made, fake = plan(tmp_path), Fake({1: 1})
    train_all(made, RUNS, tmp_path, fake, nothing)
    assert len(fake.trained) == 4
    assert read_state(tmp_path, RUNS[0]) == {"status": "failed", "why": "loss is nan", "epochs": 2}
    again = Fake()
    train_all(made, RUNS, tmp_path, again, nothing)
    assert again.trained == []
    train_all(made, RUNS, tmp_path, again, nothing, retry_failed=True)
    assert again.trained == ["torch/seed-1", "jax/seed-1"]


def test_a_run_whose_folder_is_gone_is_trained_anew(tmp_path: Path) -> None:
    """Catches a run that was removed to be trained again, and whose record keeps it from that.

    And a report that counts it among those that failed, with a final verdict.
    """
    runs = runs_of(["torch", "jax"], [1, 2, 3])
    made, failing = plan(tmp_path), Fake({3: 1})
    train_all(made, runs, tmp_path, failing, nothing)
    assert "so far" not in writing.verdicts(analysis.study(made, tmp_path))[0]
    shutil.rmtree(tmp_path / "torch/seed-2")
    (tmp_path / "jax/seed-2/log.jsonl").unlink()
    for side in ("torch", "jax"):
        shutil.rmtree(tmp_path / side / "seed-3")
    found = analysis.study(made, tmp_path)
    assert found.notes[-4:] == (
        "torch seed 2: not begun",
        "jax seed 2: 0 of 2 epochs are done",
        "torch seed 3: not begun",
        "jax seed 3: not begun",
    )
    assert writing.verdicts(found)[0].startswith("jax - torch, so far: ")
    again = Fake()
    train_all(made, runs, tmp_path, again, nothing)
    assert again.trained == [f"{side}/seed-{n}" for n in (2, 3) for side in ("torch", "jax")]


@pytest.mark.parametrize(("status", "error"), [(2, InputError), (130, Interrupted)])
def test_what_is_no_failed_seed_ends_the_study(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    """Catches a missing file, or Ctrl-C, that is recorded as a failed seed."""
    made = plan(tmp_path)
    with pytest.raises(error):
        train_all(made, RUNS, tmp_path, Fake({2: status}), nothing)
    assert read_state(tmp_path, RUNS[2]) == {}
    assert not claim_of(tmp_path, RUNS[2]).exists()
    again = Fake()
    train_all(made, RUNS, tmp_path, again, nothing)
    assert again.trained == ["torch/seed-2", "jax/seed-2"]


def test_a_run_is_trained_by_one_process(tmp_path: Path) -> None:
    """Catches two processes that train the same run."""
    made, fake = plan(tmp_path), Fake()
    with claims.claimed(claim_of(tmp_path, RUNS[0])) as mine:
        assert mine
        held = train_all(made, RUNS, tmp_path, fake, nothing)
        note = results.read(made, RUNS[0], tmp_path).note
    assert held == [RUNS[0]]
    assert "torch/seed-1" not in fake.trained
    assert f"trained now by process {os.getpid()} on" in note
    assert train_all(made, RUNS, tmp_path, fake, nothing) == []
    assert fake.trained[-1] == "torch/seed-1"


CLAIM = "import sys, time; from parity.study import claims; from pathlib import Path\n"
HOLDS = CLAIM + (
    "with claims.claimed(Path(sys.argv[1])) as mine: print(mine, flush=True); time.sleep(60)"
)


def test_a_claim_of_a_killed_process_is_stale(tmp_path: Path) -> None:
    """Catches a run that nobody trains any more after a kill -9."""
    path = tmp_path / "seed-1.claim"
    command = [sys.executable, "-c", HOLDS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "True\n"
        with claims.claimed(path) as mine:
            assert not mine
        process.kill()
    assert claims.holder(path) is None
    with claims.claimed(path) as mine:
        assert mine
    assert list(tmp_path.iterdir()) == []


def test_a_claim_of_another_machine_is_stale_when_nobody_touches_it(tmp_path: Path) -> None:
    """Catches a machine that is gone and holds its run for ever, or one that loses it at once."""
    path = tmp_path / "seed-1.claim"
    path.write_text(json.dumps({"token": "a", "host": "elsewhere", "pid": 1, "born": "1"}))
    with claims.claimed(path) as mine:
        assert not mine
    assert claims.holder(path) == "process 1 on elsewhere"
    old = time.time() - claims.STALE - 5
    os.utime(path, (old, old))
    with claims.claimed(path) as mine:
        assert mine
        assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_process_of_the_same_number_does_not_hold_it(tmp_path: Path) -> None:
    """Catches a claim that a later process of the same number keeps alive."""
    path = tmp_path / "seed-1.claim"
    owner = {"token": "a", "host": claims._machine(), "pid": os.getpid(), "born": "long ago"}
    path.write_text(json.dumps(owner))
    assert platform.node() in owner["host"]
    assert claims.holder(path) is None
    with claims.claimed(path) as mine:
        assert mine


def test_lists_of_seeds_and_sweeps_are_read() -> None:
    """Catches an off-by-one in a range, a row left out, a key that the recipe does not know."""
    assert parse_seeds("3") == [1, 2, 3]
    assert parse_seeds("03") == [1, 2, 3]
    assert parse_seeds("0-0") == [0]
    assert parse_seeds("3-5") == [3, 4, 5]
    assert len(parse_seeds("1-999,2000")) == len(parse_seeds("1000")) == 1000
    assert parse_seeds("1,9-10") == [1, 9, 10]
    assert parse_only("torch:3") == ("torch", [3])
    assert parse_only("jax:3-4") == ("jax", [3, 4])
    assert parse_grid(["lr=0.1,0.2", "level=O1,O2"]) == [
        ("level=O1", "optimizer.lr=0.1"),
        ("level=O1", "optimizer.lr=0.2"),
        ("level=O2", "optimizer.lr=0.1"),
        ("level=O2", "optimizer.lr=0.2"),
    ]
    keys = ["optimizer.lr=1", "lr=1", "batch=1", "loss_scale=1", "seed=2"]
    assert [full_key(k) for k in keys] == [
        "stages.all.optimizer.lr=1",
        "stages.all.optimizer.lr=1",
        "stages.all.batch=1",
        "loss_scale=1",
        "seed=2",
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--seeds", "5-3"], "--seeds '5-3', expected a number such as 5, or 3-7"),
        (["--seeds", "1,1"], "a seed is named twice"),
        (["--seeds", "0"], "--seeds '0' names no seed; 5 is seeds 1 to 5, 0-0 is seed 0 alone"),
        (["--seeds", "1-999999999"], "--seeds '1-999999999': more than 1,000 seeds"),
        (["--seeds", "5000"], "--seeds '5000': more than 1,000 seeds"),
        (["--seeds", "1-999,2000-2001"], "--seeds '1-999,2000-2001': more than 1,000 seeds"),
        (["--only", "torch:5-3"], "--only 'torch:5-3', expected a number such as 5"),
        (["--only", "tf:3"], "--only 'tf:3', expected FRAMEWORK:SEEDS"),
        (["--frameworks", "torch,tf"], "--frameworks 'tf', expected some of torch, jax"),
        (["--grid", "lr"], "--grid 'lr', expected KEY=VALUE"),
        (["--grid", "lr=0.1,0.10"], "--grid 'lr=0.1,0.10': a key or value is given twice"),
        (["--grid", "batch=4,4.0"], "a key or value is given twice"),
        (["--grid", "lr=1", "--grid", "optimizer.lr=2"], "'optimizer.lr=2': a key or value"),
        (["--grid", "seed=1,2"], "seeds are given by --seeds"),
        (["--grid", "devices=1,2"], "--grid 'devices=1,2': --devices sets it for the whole study"),
        (["--grid", "keep=best,last"], "keep decides nothing that is trained"),
        (["--grid", "epochs=3,4"], "--grid: epochs=3 has 3 epochs, the recipe 300"),
        (["--grid", "epochs=1,4"], "--grid: epochs=1 has 1 epoch, the recipe 300"),
        (["--report"], "out holds no plan.json, expected the folder of a study"),
        (["--grid", "rate=1,2"], "--grid: unknown key 'rate'"),
        (["--grid", "level=O1,O3"], "--grid"),
        (["--grid", "level=O1,O2"], "fp32 has no levels, expected --precision bf16 or fp16"),
        (["--margin", "0"], "--margin 0, expected points above 0"),
        (["--epochs", "0"], "--epochs 0, expected 1 to 300"),
        (["--devices", "3"], "does not divide among 3 devices"),
        (["--repeat", "0"], "--repeat 0, expected 1 or more"),
        (["--workers", "-1"], "--workers -1, expected 0 or more"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str], words: str
) -> None:
    """Catches a traceback, or a folder that is begun before the options are read."""
    out = tmp_path / "out"
    code = main(["study", "enet-camvid", "--data", str(tmp_path), "--out", str(out), *options])
    error = capsys.readouterr().err
    assert code == 2
    assert words in error
    assert error.count("\n") == 1
    assert not out.exists()


def small(tmp_path: Path, *settings: str) -> Plan:
    """A plan of a tiny GENet on a tiny CIFAR-10."""
    recipe = overrides.with_settings(overrides.find("genet-cifar10"), [*SMALL, *settings])
    recipe = overrides.with_options(recipe, precision="fp32", loss_scale="none")
    data = cifar(tmp_path / "data", 4)
    made = Plan.of(recipe, 1, 1, str(data))
    made.write(tmp_path / "out")
    return made


def test_both_sides_begin_alike(tmp_path: Path) -> None:
    """Catches sides that a seed does not pair: other weights, batches or order."""
    made, out = small(tmp_path), tmp_path / "out"
    runs = runs_of(["torch", "jax"], [1, 2])
    train_all(made, runs, out, in_process, nothing)
    losses = {}
    for run in runs:
        log = logger.read(out / run.name / "log.jsonl")
        losses[run.name] = next(line["loss"] for line in log if line["kind"] == "epoch")
    assert losses["torch/seed-1"] == pytest.approx(losses["jax/seed-1"], rel=1e-4)
    assert losses["torch/seed-2"] == pytest.approx(losses["jax/seed-2"], rel=1e-4)
    assert abs(losses["torch/seed-1"] - losses["torch/seed-2"]) > 1e-3
    found = analysis.study(made, out)
    assert found.rows[0].comparisons[0].seeds == (1, 2)
    classes = found.rows[0].comparisons[0].classes
    assert [row.name for row in classes][:2] == ["airplane", "automobile"]


def test_a_study_of_ones_own_data(tmp_path: Path) -> None:
    """Catches the recipe of the published data set, which no run of one's own data can have."""
    data, out = tmp_path / "data", tmp_path / "out"
    for split, count in (("train", 8), ("val", 4)):
        for i, kind in enumerate(("cat", "dog")):
            for n in range(count):
                image = np.full((20 + n, 24, 3), 40 + 150 * i, np.uint8)
                save(data / split / kind / f"{n}.png", image)
    small = ["--epochs", "1", "--size", "32x32", "--precision", "fp32", "--loss-scale", "none"]
    small += [option for setting in SMALL for option in ("--set", setting)]
    parser = argparse.ArgumentParser()
    study.add_arguments(parser)
    named = ["genet-cifar10", "--data", str(data), "--out", str(out)]
    recipe = study.recipe_of(args := parser.parse_args([*named, *small]))
    made = Plan.of(recipe, 1, 1, str(data), images=study.images_of(recipe, args.data))
    made.write(out)
    train_all(made, runs_of(["torch"], [1]), out, in_process, nothing)
    found = analysis.study(Plan.read(out), out)
    assert found.score == "accuracy"
    assert found.rows[0].sides[0].seeds == (1,)
    assert list(found.rows[0].runs[0].classes) == ["cat", "dog"]
    assert found.plan.images == (16, 8)
    (data / "val" / "cat" / "0.png").unlink()
    assert main(["study", *named, *small]) == 2  # other images, so another study


def test_two_processes_that_begin_at_once_have_one_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches the loser of the race told that the folder holds a plan, but no plan."""
    recipe = overrides.find("enet-camvid")
    one, same, other = (Plan.of(recipe, epochs, 1, "data") for epochs in (2, 2, 3))
    listed = Path.iterdir

    def late(path: Path) -> Iterator[Path]:
        monkeypatch.setattr(Path, "iterdir", listed)
        before = list(listed(path))
        one.write(path)  # another process
        return iter(before)

    for i, mine in enumerate((same, other)):
        out = tmp_path / str(i)
        out.mkdir()
        monkeypatch.setattr(Path, "iterdir", late)
        if mine is same:
            mine.write(out)
        else:
            with pytest.raises(InputError, match="holds a study with epochs 2, not 3"):
                mine.write(out)
        assert Plan.read(out) == one

    def seen(path: Path) -> Iterator[Path]:
        monkeypatch.setattr(Path, "iterdir", listed)
        one.write(path)
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", seen)
    same.write(tmp_path / "seen")
    assert sorted(p.name for p in (tmp_path / "seen").iterdir()) == ["plan.json"]


def test_other_weights_to_start_with_are_another_study(tmp_path: Path) -> None:
    """Catches seeds of which some began with weights, and others with none."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "a").write_bytes(b"1")
    first = study.hash_of(str(weights))
    (weights / "a").write_bytes(b"2")
    assert first != study.hash_of(str(weights))
    recipe = overrides.find("enet-camvid")
    Plan.of(recipe, 2, 1, "data", start=first).write(tmp_path / "out")
    words = f"holds a study with weights to start with {str(first)[:12]}, not none"
    with pytest.raises(InputError, match=words):
        Plan.of(recipe, 2, 1, "data").write(tmp_path / "out")
    with pytest.raises(InputError, match="nowhere: No such file"):
        study.hash_of(str(tmp_path / "nowhere"))


def test_a_loss_that_is_not_finite_is_a_failed_seed(tmp_path: Path) -> None:
    """Catches the reason lost, or a study that stops there."""
    made, out = small(tmp_path, "stages.all.optimizer.lr=1e30"), tmp_path / "out"
    runs = runs_of(["torch"], [1])
    train_all(made, runs, out, in_process, nothing)
    found = analysis.study(made, out)
    assert found.notes[0] == "no finished run yet"
    assert found.notes[1].startswith("torch seed 1: failed, and is in no number below: stage whole")
    assert not found.rows[0].sides


def test_a_killed_study_goes_on_and_leaves_no_orphan(tmp_path: Path) -> None:
    """Catches a claim or a child that outlives a kill -9, and an end that is another one."""
    made, out, whole = small(tmp_path), tmp_path / "killed", tmp_path / "whole"
    made = dataclasses.replace(made, epochs=8)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(to_toml(made.recipe))
    command = [sys.executable, "-m", "parity", "study", str(recipe), "--only", "torch:1"]
    command += ["--data", made.data, "--out", str(out), "--epochs", "8", "--workers", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        last = out / "torch/seed-1/checkpoints/last.safetensors"
        while not last.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torch: one seed alone has no deviation" in done.stdout
    starts = json.loads((out / "torch/seed-1/environment.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[1]["resumed"] is not None
    assert not list(out.rglob("*.claim"))
    assert [path.name for path in out.rglob("*.asked")] == ["seed-1.asked"]
    train_all(made, runs_of(["torch"], [1]), whole, in_process, nothing)
    logs = [logger.read(o / "torch/seed-1/log.jsonl", clock=False) for o in (out, whole)]
    assert logs[0] == logs[1]
