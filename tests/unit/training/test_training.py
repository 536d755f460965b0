"""Whole training runs of a small network, through the command line."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.cli import main
from parity.spec.models import MODELS
from parity.training import checkpoints, logger
from parity.training.folder import Folder
from parity.training.stopping import ANSWER
from tests import small_recipe, small_runs
from tests.small_recipe import PROGRAM
from tests.small_runs import arguments, farthest, numbers, train
from weights_convert import load

ROOT = Path(__file__).resolve().parents[3]


data, small = small_runs.data, small_runs.small  # fixtures


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Framework -> a whole run in float64."""
    root = tmp_path_factory.mktemp("runs")
    for framework in ("torch", "jax"):
        recipe = small_recipe.recipe("fp64")
        assert train(root, data, root / framework, framework, recipe=recipe) == 0
    return {framework: root / framework for framework in ("torch", "jax")}


def test_both_sides_train_to_the_same_numbers(runs: dict[str, Path]) -> None:
    """Catches a loop that gives one side another rate, batch, mask or stage than the other."""
    assert farthest(runs["torch"], runs["jax"]) < 1e-9
    logs = [logger.read(out / "log.jsonl", clock=False) for out in runs.values()]
    assert [line["kind"] for line in logs[0]] == [line["kind"] for line in logs[1]]
    for one, other in zip(*logs, strict=True):
        assert one["batches"] == other["batches"]
        for name in {"loss", "mean_loss"} & one.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-9)
        assert one.get("rate") == other.get("rate")


@pytest.mark.parametrize(("first", "then"), [("torch", "jax"), ("jax", "torch")])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_run_goes_on_in_the_other_framework(
    first: str, then: str, epochs: int, data: Path, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Catches a moment or a statistic that is lost between the frameworks, in either stage."""
    recipe, part, joined = small_recipe.recipe("fp64"), tmp_path / "part", tmp_path / "joined"
    assert train(tmp_path, data, part, first, "--epochs", str(epochs), recipe=recipe) == 0
    last = str(Folder(part).last)
    assert train(tmp_path, data, joined, then, "--resume", last, recipe=recipe) == 0
    assert load(Folder(joined).last, config=recipe.stages[1].config).naming_scheme == then
    assert farthest(joined, runs[first]) < 1e-9
    assert farthest(joined, runs[then]) < 1e-9
    # And in the folder where it began.
    assert train(tmp_path, data, part, then, "--resume", recipe=recipe) == 0
    a, b = numbers(part), numbers(joined)
    assert [k for k in a if a[k].tobytes() != b[k].tobytes()] == []
    moments = [checkpoints.read(Folder(out).last).origin.progress for out in (part, joined)]
    assert moments[0].best == moments[1].best
    assert numbers(joined, "second-best").keys() == numbers(part, "second-best").keys()


def test_a_run_leaves_what_it_promises(runs: dict[str, Path]) -> None:
    """Catches a file that is missing, or an environment that does not tell the run."""
    out = runs["torch"]
    kinds = {line["kind"] for line in logger.read(out / "log.jsonl")}
    assert kinds == {"step", "epoch", "validation"}
    (start,) = json.loads((out / "environment.json").read_text())["starts"]
    assert {"torch", "jax", "numpy", "python"} <= start["versions"].keys()
    assert start["recipe"]["stages"][0]["optimizer"]["kind"] == "sgd"
    assert start["seed"] == 1
    assert start["hardware"]["cores"] > 0
    assert start["commit"] is None or len(start["commit"].split("-")[0]) == 40
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == small_recipe.VAL
    with Image.open(pictures[0]) as picture:
        assert picture.size == (3 * small_recipe.SIZE[1] + 2 * 4, small_recipe.SIZE[0])
    assert list((out / "tensorboard").glob("*.tfevents.*"))


def test_every_checkpoint_of_a_folder_is_evaluated(
    data: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches an evaluation that reports another checkpoint's numbers, or another metric."""
    out = shutil.copytree(runs["torch"], tmp_path / "run")
    file = tmp_path / "all.json"
    command = ["eval", str(out), "--data", str(data), "--workers", "0", "--json", str(file)]
    assert main(command) == 0
    shown = capsys.readouterr().out
    found = {e["checkpoint"]: e for e in json.loads(file.read_text())}
    names = {p.name for p in Folder(out).checkpoints.glob("*.safetensors")}
    assert found.keys() == names
    assert all(name in shown for name in names)
    lines = [x for x in logger.read(out / "log.jsonl") if x["kind"] == "validation"]
    for line in lines:
        entry = found[f"{line['stage']}-epoch-{line['epoch']:04}.safetensors"]
        same = ("score", "mean_iou", "iou_class", "mean_loss", "images", "accuracy")
        assert {k: entry[k] for k in same} == {k: line[k] for k in same}
    text = (Folder(out).checkpoints / "last.metrics.txt").read_text().splitlines()
    assert text[0] == f"model path {Folder(out).last}"
    assert text[1] == f"mean_iou {lines[-1]['mean_iou']}"
    assert text[2] == f"mean_loss {lines[-1]['mean_loss']}"
    assert text[3].startswith("iou_class [")
    # The other side finds the same in the same files.
    assert main([*command, "--framework", "jax"]) == 0
    for entry in json.loads(file.read_text()):
        assert entry["framework"] == "jax"
        assert entry["mean_loss"] == pytest.approx(found[entry["checkpoint"]]["mean_loss"], 1e-9)


def test_a_checkpoint_without_its_run_is_evaluated_by_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a converted checkpoint that cannot be measured any more."""
    from parity.spec.draw import weights
    from tests.scenes import cityscapes
    from weights_convert import save

    cityscapes(tmp_path / "data", 16, 32)
    cityscapes(tmp_path / "data", 16, 32, split="train")
    (tmp_path / "files").mkdir()
    save(tmp_path / "files" / "enet.pth", MODELS["enet"], weights(MODELS["enet"], 1))
    file = tmp_path / "recipe.toml"
    file.write_text('base = "enet-cityscapes"\nsize = [16, 32]\n')
    command = ["eval", str(tmp_path / "files"), "--data", str(tmp_path / "data"), "--workers", "0"]
    assert main(command) == 2
    assert "enet.pth does not say its recipe: --recipe RECIPE" in capsys.readouterr().err
    # The file says that it is for images of 512x1024.
    assert main([*command, "--recipe", str(file), "--size", "16x32"]) == 0
    assert (tmp_path / "files" / "enet.pth.metrics.txt").exists()
    assert main([*command, "--recipe", "erfnet-cityscapes"]) == 2
    said = capsys.readouterr().err
    trained = "recipe erfnet-cityscapes trains erfnet-encoder, erfnet"
    assert f"enet.pth holds the network enet, but {trained}" in said
    assert main([*command, "--recipe", "erfnet-mindspore"]) == 2
    said = capsys.readouterr().err  # each network is named once
    assert said.strip().endswith("trains erfnet-mindspore-encoder, erfnet-mindspore")
    assert main([*command, "--recipe", "enet-camvid"]) == 2  # not "holds enet, but trains enet"
    assert "trains enet-camvid (num_classes 12, not 20)" in capsys.readouterr().err


def test_a_rate_that_is_too_large_stops_the_run(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a run that trains on NaN: it stops within a step, and what was good stays."""
    out = tmp_path / "out"
    stages = small_recipe.recipe().stages
    hot = dataclasses.replace(stages[1].optimizer, lr=1e30)
    recipe = dataclasses.replace(
        small_recipe.recipe(), stages=(stages[0], dataclasses.replace(stages[1], optimizer=hot))
    )
    assert train(tmp_path, data, out, "torch", recipe=recipe) == 1
    said = capsys.readouterr().err
    assert said.startswith("parity train: stopped: stage second, epoch 1, step 2 of 3: ")
    assert said.count("\n") == 1
    progress = checkpoints.read(Folder(out).last).origin.progress
    assert (progress.stage, progress.epoch) == (0, 2)
    assert all(np.isfinite(array).all() for array in numbers(out).values())


def test_an_interrupted_run_leaves_a_checkpoint_and_says_so(data: Path, tmp_path: Path) -> None:
    """Catches Ctrl-C that costs the epoch, prints a traceback, or exits with 0."""
    out = tmp_path / "out"
    found = arguments(
        tmp_path, data, small_recipe.recipe(), "--framework", "torch", "--out", str(out)
    )
    command = [sys.executable, "-c", PROGRAM, *found]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    log = out / "log.jsonl"
    while child.poll() is None and not (log.exists() and len(log.read_bytes().splitlines()) > 1):
        time.sleep(0.005)
    child.send_signal(signal.SIGINT)
    said = child.communicate()[1]
    assert child.returncode == 130, said
    answer, after = said.splitlines()
    assert answer == ANSWER
    assert after.startswith("parity train: stopped in epoch ")
    assert f"--resume goes on from {Folder(out).last}" in after
    assert checkpoints.read(Folder(out).last).origin.progress.batches >= 2


def lines(capsys: pytest.CaptureFixture) -> str:
    said = capsys.readouterr().err
    assert said.count("\n") == 1, said
    assert said.startswith("parity train: error: ")
    return said


def copy(data: Path, tmp_path: Path) -> Path:
    return shutil.copytree(data, tmp_path / "data")


def some(data: Path, kind: str, split: str = "train") -> Path:
    return sorted((data / kind / split).rglob("*.png"))[1]


def test_a_missing_label_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a run on what is left of the data."""
    own = copy(data, tmp_path)
    some(own, "gtFine").unlink()
    assert train(tmp_path, own, tmp_path / "out", "torch") == 2
    assert "has no label" in lines(capsys)
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_is_refused(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches an epoch of no steps."""
    own = copy(data, tmp_path)
    for kind in ("leftImg8bit", "gtFine"):
        for path in (own / kind / "train").rglob("*.png"):
            path.unlink()
    assert train(tmp_path, own, tmp_path / "out", "torch") == 2
    assert "split train holds no images" in lines(capsys)
    assert train(tmp_path, tmp_path / "nowhere", tmp_path / "out", "torch") == 2
    assert "nowhere: no such folder" in lines(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["size", "range"])
def test_a_wrong_label_stops_the_run_and_the_checkpoint_stays(
    fault: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a label of another size than its image, or of no class, that is trained on."""
    own, out = copy(data, tmp_path), tmp_path / "out"
    assert train(tmp_path, own, out, "torch", "--epochs", "1") == 0
    before = Folder(out).last.read_bytes()
    path = some(own, "gtFine")
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    wrong = pixels[:-1] if fault == "size" else np.full_like(pixels, 77)
    Image.fromarray(wrong).save(path)
    capsys.readouterr()
    assert train(tmp_path, own, out, "torch", "--resume") == 2
    said = lines(capsys)
    assert path.name in said
    assert ("but its image" if fault == "size" else "unknown id 77, expected 0 to 33") in said
    assert Folder(out).last.read_bytes() == before


def test_a_checkpoint_of_another_recipe_or_network_is_refused(
    data: Path, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a run that goes on with what another one left."""
    last = str(Folder(runs["torch"]).last)
    out = tmp_path / "out"
    assert train(tmp_path, data, out, "torch", "--resume", last) == 2
    assert 'is of another recipe: precision "fp64", here "fp32"' in lines(capsys)
    stages = [
        dataclasses.replace(s, model="enet", dropout=None) for s in small_recipe.recipe().stages
    ]
    other = dataclasses.replace(small_recipe.recipe("fp64"), stages=tuple(stages))
    assert train(tmp_path, data, out, "torch", "--resume", last, recipe=other) == 2
    assert "network enet-least, enet-least, here enet, enet" in lines(capsys)
    assert not list(out.rglob("*.safetensors"))


def test_wrong_arguments_are_refused_before_anything_is_written(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches an argument that is noticed after hours, or not at all."""
    out = tmp_path / "out"
    for more, line in (
        (("--epochs", "5"), "--epochs 5, expected 1 to 4"),
        (("--devices", "3"), "a batch of 2 images does not divide among 3 devices"),
        (("--devices", "0"), "--devices 0, expected 1 or more"),
        (("--nodes", "2"), "--nodes 2 needs --coordinator HOST:PORT"),
        (("--nodes", "2", "--node-rank", "2"), "--node-rank 2, expected 0 to 1"),
        (("--nodes", "2", "--coordinator", "here"), "'here', expected HOST:PORT"),
        (("--coordinator", "here:1"), "--coordinator is for several machines"),
        (("--map", "pmap"), "--map pmap is how JAX maps a step"),
        (("--set", "stages.all.optimzer.lr=1"), "unknown key 'optimzer'"),
        (("--loss-scale", "big"), "--loss-scale 'big', expected a number, dynamic or none"),
        (("--size", "4x4"), "at least 7x7 pixels"),
        (("--log-every", "0"), "--log-every 0, expected 1 or more"),
        (("--start", "nowhere.pth"), "nowhere.pth does not exist"),
        (("--resume", "nowhere.pth"), "nowhere.pth does not exist"),
    ):
        assert train(tmp_path, data, out, "torch", *more) == 2, more
        assert line in lines(capsys)
        assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert train(tmp_path, data, tmp_path / "full", "torch") == 2
    assert "is not empty" in lines(capsys)


FULL = """
import os, subprocess, sys
from pathlib import Path
from tests import small_recipe
from parity.training.folder import Folder
from parity.cli import main
small_recipe.recipe()
disk, sizes, *arguments = sys.argv[1:]
if main([*arguments, "--epochs", "1"]):
    sys.exit("the first epoch failed")
import shutil
for size in sizes.split(","):
    used = shutil.disk_usage(disk).used // 1024 + int(size)
    subprocess.run(["mount", "-o", f"remount,size={used}k", disk], check=True)
    before = {p: p.read_bytes() for p in Folder(Path(disk) / "out").checkpoints.iterdir()}
    status = main([*arguments, "--resume"])
    left = {p: p.read_bytes() for p in Folder(Path(disk) / "out").checkpoints.iterdir()}
    changed = [p.name for p in before if before[p] != left.get(p)]
    strange = sorted(p.name for p in left if p.name.startswith("."))
    print("SPARE", size, "STATUS", status, "CHANGED", changed, "STRANGE", strange)
"""


@pytest.mark.skipif(
    not shutil.which("unshare")
    or subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode != 0,
    reason="no mount namespace is allowed here",
)
def test_a_full_disk_stops_the_run_in_one_line_and_checkpoints_stay(
    data: Path, tmp_path: Path
) -> None:
    """Catches a checkpoint that is lost to the one that no longer fits, and a traceback.

    With no room at all, and with 40 KiB: less than a checkpoint takes.
    """
    disk = tmp_path / "disk"
    disk.mkdir()
    found = arguments(tmp_path, data, small_recipe.recipe(), "--framework", "torch")
    script = 'mount -t tmpfs -o size=64m tmpfs "$1" && exec "$0" -c "$2" "$1" "${@:3}"'
    shell = ["unshare", "--mount", "bash", "-c", script, sys.executable, str(disk), FULL]
    done = subprocess.run(
        [*shell, "0,40", *found, "--out", str(disk / "out")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    for spare in (0, 40):
        stays = f"SPARE {spare} STATUS 2 CHANGED [] STRANGE []"
        assert stays in done.stdout, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 2, done.stderr
    assert all("No space left on device" in line for line in lines), lines
