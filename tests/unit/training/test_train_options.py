"""`parity train`: runs that go on by themselves, begin at a later stage, or evaluate at the end."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from parity.spec.training.scaling import advice
from parity.training import checkpoints, environment, side
from parity.training.folder import Folder
from parity.training.stage_start import StageStart
from tests import small_recipe, small_runs
from tests.small_runs import arguments, numbers, train
from torch_impl.ops import compilation
from torch_impl.train import Trainer
from weights_convert import formats, naming

data, small = small_runs.data, small_runs.small  # the same fixtures


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run, evaluated at its end."""
    root = tmp_path_factory.mktemp("whole")
    recipe = small_recipe.recipe("fp64")
    assert train(root, data, root / "out", "torch", "--eval-all", recipe=recipe) == 0
    return root / "out"


def test_every_checkpoint_is_evaluated_at_the_end(whole: Path, data: Path) -> None:
    """Catches a file that is left out, or other numbers than those of `parity eval`."""
    file = whole / "checkpoints" / "metrics.json"
    at_end = json.loads(file.read_text())
    names = {path.name for path in (whole / "checkpoints").glob("*.safetensors")}
    assert {entry["checkpoint"] for entry in at_end} == names
    assert len(names) > 3
    file.unlink()
    assert main(["eval", str(whole), "--data", str(data), "--workers", "0"]) == 0
    assert json.loads(file.read_text()) == at_end


def compiled_by_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `--compile` say that it compiled, in no time."""
    monkeypatch.setattr(compilation, "check_compiler", lambda: None)
    monkeypatch.setattr(Trainer, "compile", lambda self, say: say("torch.compile: 1.0 s"))


@pytest.mark.parametrize(
    ("before", "now", "line"),
    [
        (True, False, "compiled until now; without --compile it goes on, but not bit for bit"),
        (False, True, "not compiled until now; with --compile it goes on, but not bit for bit"),
        (None, True, "not compiled until now; with --compile it goes on, but not bit for bit"),
        (True, True, None),
        (False, False, None),
    ],
)
def test_a_run_that_is_compiled_otherwise_says_so(
    before: bool | None,
    now: bool,
    line: str | None,
    whole: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a run that silently is not repeatable, and a start that does not record it."""
    compiled_by_nothing(monkeypatch)
    out = Folder(shutil.copytree(whole, tmp_path / "out"))
    (start,) = out.starts()
    assert start.pop("compiled") is False
    start |= {} if before is None else {"compiled": before}
    out.environment.write_text(json.dumps({"starts": [start]}))
    more = ["--resume", *["--compile"] * now]
    assert train(tmp_path, data, out.path, "torch", *more, recipe=small_recipe.recipe("fp64")) == 0
    said = [text for text in capsys.readouterr().out.splitlines() if "until now" in text]
    assert said == ([] if line is None else [f"this run was {line}"])
    assert [entry.get("compiled") for entry in out.starts()] == [before, now]


def test_compiling_is_said_once_and_recorded(
    whole: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a note that an equal file repeats, and results that do not say what computed them."""
    compiled_by_nothing(monkeypatch)
    for name in ("a", "b"):
        shutil.copy(Folder(whole).last, tmp_path / f"{name}.safetensors")
    command = ["eval", str(tmp_path), "--data", str(data), "--workers", "0"]
    for more, said in (([], 0), (["--compile"], 1)):
        assert main([*command, *more]) == 0
        assert capsys.readouterr().out.count("torch.compile") == said
        found = json.loads((tmp_path / "metrics.json").read_text())
        assert [entry["compiled"] for entry in found] == [bool(said)] * 2


def test_settings_of_compilers_and_threads_are_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that cannot be repeated because a variable that changes it was left out."""
    names = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "CXX", "XLA_FLAGS")
    names += ("TORCHINDUCTOR_FREEZING", "TORCHDYNAMO_DISABLE", "TORCH_LOGS")
    for name in names:
        monkeypatch.setenv(name, "0")
    found = environment.facts(RECIPES["enet-camvid"], "torch", Path("x"), None)
    assert set(names) <= found["settings"].keys()
    assert "HOME" not in found["settings"]


def test_one_checkpoint_is_evaluated(
    whole: Path, data: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a file that is called no folder, or one whose evaluation writes over all others'."""
    last, folder = Folder(whole).last, whole / "checkpoints" / "metrics.json"
    before, metrics = folder.read_bytes(), last.with_name("last.metrics.txt")
    said = metrics.read_bytes()
    metrics.unlink()
    assert main(["eval", str(last), "--data", str(data), "--workers", "0"]) == 0
    assert metrics.read_bytes() == said
    assert folder.read_bytes() == before
    capsys.readouterr()
    assert main(["eval", str(whole / "no"), "--data", str(data)]) == 2
    assert "no: no such file, expected a checkpoint or a folder of them" in capsys.readouterr().err


def test_a_later_stage_begins_with_what_another_run_left(
    whole: Path, data: Path, tmp_path: Path
) -> None:
    """Catches a stage that is trained all the same, or begins with other weights or batches."""
    first = whole / "checkpoints" / "first-last.safetensors"
    more = ("--from-stage", "second", "--start", str(first))
    out, recipe = tmp_path / "out", small_recipe.recipe("fp64")
    assert train(tmp_path, data, out, "torch", *more, recipe=recipe) == 0
    found, wanted = numbers(out), numbers(whole)
    assert [key for key in wanted if found[key].tobytes() != wanted[key].tobytes()] == []
    stages = {json.loads(line)["stage"] for line in (out / "log.jsonl").read_text().splitlines()}
    assert stages == {"second"}
    assert not (out / "checkpoints" / "first-last.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("--from-stage", "third"), "--from-stage 'third', expected one of first, second"),
        (("--from-stage", "second"), "begins with what stage first leaves, a enet-least: --start"),
        (
            ("--from-stage", "second", "--start", "{last}", "--epochs", "2"),
            "--epochs 2 ends before stage second begins, after 2 epochs of the recipe",
        ),
        (("--from-stage", "second", "--start", "no.pth"), "no.pth does not exist"),
    ],
)
def test_a_later_stage_that_cannot_begin_is_refused(
    more: tuple[str, ...],
    words: str,
    whole: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """Catches a run that begins with drawn weights, or ends before it begins."""
    given = [text.format(last=Folder(whole).last) for text in more]
    assert train(tmp_path, data, tmp_path / "out", "torch", *given) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_that_goes_on_brings_its_recipe(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches overrides that are wanted again, and ones that contradict the run and are obeyed."""
    out = tmp_path / "out"
    begun = arguments(
        tmp_path, data, small_recipe.recipe(), "--framework", "torch", "--out", str(out)
    )
    changes = ["--seed", "5", "--batch-size", "3", "--set", "stages.second.optimizer.lr=5e-4"]
    assert main([*begun, *changes, "--epochs", "1"]) == 0
    common = ["train", "--framework", "torch", "--data", str(data), "--out", str(out)]
    common += ["--workers", "0", "--resume"]
    for clash, words in (
        (["--seed", "6"], "is of another recipe: seed 5, here 6"),
        (["--set", "stages.first.batch=2"], "is of another recipe: stages.first.batch 3, here 2"),
    ):
        assert main([*common, *clash]) == 2
        assert words in capsys.readouterr().err
    assert main([common[0], "enet-camvid", *common[1:]]) == 2
    assert "the run is of recipe kills, not of enet-camvid" in capsys.readouterr().err
    # What is said again, and what decides nothing that is trained.
    assert main([*common, "--epochs", "2", "--seed", "5", "--set", "validate_every=2"]) == 0
    last = str(Folder(out).last)
    joined = tmp_path / "joined"
    elsewhere = ["--framework", "torch", "--data", str(data), "--out", str(joined)]
    assert main(["train", *elsewhere, "--workers", "0", "--resume", last, "--epochs", "3"]) == 0
    for folder in (out, joined):
        found = checkpoints.read(Folder(folder).last).recipe
        assert (found.seed, found.stages[0].batch) == (5, 3)
        assert found.stages[1].optimizer.lr == 5e-4


def test_what_helps_against_a_number_that_is_not_finite_is_said() -> None:
    """Catches a gradient that overflows in fp16 without a word of the loss scale."""
    assert "--loss-scale dynamic" in advice("fp16", None, 1.0)
    assert "--loss-scale dynamic" in advice("fp32", 1024.0, 1.0)
    assert "--precision bf16 or fp32" in advice("fp16", "dynamic", 1.0)
    assert "--precision bf16 or fp32" in advice("fp16", None, np.inf)
    assert advice("fp32", None, 1.0) == advice("fp32", None, np.nan) == ""


def test_a_gradient_too_large_for_fp16_tells_of_the_loss_scale(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches the hint, and the warning that it takes long on a CPU, lost on their way."""
    more = ("--precision", "fp16", "--loss-scale", "1e30", "--epochs", "1")
    assert train(tmp_path, data, tmp_path / "out", "torch", *more) == 1
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "not finite; --loss-scale dynamic skips such steps" in said.err
    slow = side.slow("torch", "fp16")
    assert bool(slow) == environment.devices("torch")[0].startswith("cpu")
    assert said.out.count(slow) == 1 or not slow
    assert side.slow("torch", "fp32") == side.slow("jax", "fp16") == ""


@pytest.mark.parametrize(
    ("name", "stage"), [("erfnet-cityscapes", "whole"), ("erfnet-mindspore", "whole-1")]
)
def test_the_whole_network_begins_with_an_encoder_of_others(
    name: str, stage: str, tmp_path: Path
) -> None:
    """Catches an encoder that is not taken, and a file of another network that is."""
    recipe = RECIPES[name]
    whole = next(s for s in recipe.stages if s.name == stage)
    encoder = draw.weights(MODELS["erfnet-encoder"], 7)
    file, other = tmp_path / "encoder.pth", tmp_path / "other.pth"
    torch.save({f"module.{k}": torch.from_numpy(np.asarray(a)) for k, a in encoder.items()}, file)
    begin = StageStart(recipe, file, stage=stage)
    begin.check()
    found = begin(whole, None).arrays
    drawn = StageStart(dataclasses.replace(recipe, stages=(whole,)))(whole, None).arrays
    inside = [k for k in found if k.startswith("encoder.") and "output_conv" not in k]
    assert len(inside) > 100
    assert all(found[key].tobytes() == encoder[key].tobytes() for key in inside)
    outside = [key for key in found if key.startswith("decoder.")]
    assert all(found[key].tobytes() == drawn[key].tobytes() for key in outside)
    enet = draw.weights(MODELS["enet"], 7)
    torch.save({key: torch.from_numpy(np.asarray(a)) for key, a in enet.items()}, other)
    with pytest.raises(InputError, match=r"pth: an ENet holds nothing that an ERFNet begins"):
        StageStart(recipe, other, stage=stage).check()


def test_a_decoder_that_is_drawn_is_not_called_absent(tmp_path: Path) -> None:
    """Catches a note that a decoder was set to 0, where the stage draws it."""
    config = MODELS["erfnet-mindspore-encoder"]
    named = naming.to_naming_scheme(config, draw.weights(config, 7), "mindspore")
    formats.write(tmp_path / "encoder.ckpt", "mindspore", named, {})
    recipe = RECIPES["erfnet-mindspore"]
    whole = next(s for s in recipe.stages if s.name == "whole-1")
    begin = StageStart(recipe, tmp_path / "encoder.ckpt", stage="whole-1")
    assert begin(whole, None).arrays["decoder.layers.0.conv.weight"].any()
    said = "\n".join(begin.notes)
    assert "counters such as encoder." in said
    assert "decoder.layers.0.conv" not in said
