"""Recipes from TOML files and the command line, and back."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest

from parity.cli import main
from parity.spec.augmentation import Flip, Resize
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from parity.spec.training.written import OPERATIONS, differences, digest, plain, recipe_of, to_toml
from parity.training import overrides

CAMVID = RECIPES["enet-camvid"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_comes_back_from_its_toml(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a field that the written form loses, rounds or gives another type."""
    assert main(["recipes", name, "--toml"]) == 0
    file = tmp_path / "mine.toml"
    file.write_text(capsys.readouterr().out)
    again = overrides.find(str(file))
    assert again == RECIPES[name]
    assert repr(again) == repr(RECIPES[name])  # 1 is not 1.0
    assert digest(again) == digest(RECIPES[name])


def test_every_operation_can_be_written() -> None:
    """Catches an operation of augmentation that has no kind in files."""
    for kind, operation in OPERATIONS.items():
        values = {"size": (8, 16), "low": 1, "high": 2}
        fields = [field.name for field in dataclasses.fields(operation)]
        made = operation(**{k: v for k, v in values.items() if k in fields})
        stage = dataclasses.replace(CAMVID.stages[0], augmentation=(made,))
        recipe = dataclasses.replace(CAMVID, stages=(stage,))
        text = to_toml(recipe)
        assert f'kind = "{kind}"' in text
        assert recipe_of(tomllib.loads(text), "test") == recipe


def test_a_file_changes_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    """Catches a nested table that puts the other fields of its stage back to their defaults."""
    file = tmp_path / "mine.toml"
    file.write_text(
        'base = "erfnet-mindspore"\nseed = 7\nloss_scale = "none"\n'
        "[stages.all]\nbatch = 2\n"
        "[stages.encoder-2]\nbatch = 3\n"
        "[stages.encoder-2.optimizer]\nlr = 1\n"
        "[stages.all.augmentation.ratio-crop]\np = 0.25\n"
    )
    base, made = RECIPES["erfnet-mindspore"], overrides.find(str(file))
    assert list(differences(plain(base), plain(made))) == [
        "stages.encoder-1.augmentation",
        "stages.encoder-1.batch",
        "stages.encoder-2.optimizer.lr",
        "stages.encoder-2.augmentation",
        "stages.encoder-2.batch",
        "stages.whole-1.augmentation",
        "stages.whole-1.batch",
        "stages.whole-2.augmentation",
        "stages.whole-2.batch",
        "loss_scale",
        "seed",
    ]
    assert [stage.batch for stage in made.stages] == [2, 3, 2, 2]
    assert isinstance(made.stages[1].optimizer.lr, float)


def test_settings_of_the_command_line_are_applied_together() -> None:
    """Catches settings applied one by one: a schedule is refused before its length is known."""
    made = overrides.with_settings(
        CAMVID,
        ["stages.all.schedule.kind=poly", "stages.all.schedule.length=3", "precision=bf16"],
    )
    assert made.stages[0].schedule.kind == "poly"
    assert (made.stages[0].schedule.length, made.precision) == (3, "bf16")


def test_short_options_reach_every_stage() -> None:
    """Catches a batch size or an image size that reaches the first stage only."""
    recipe = RECIPES["erfnet-mindspore"]
    made = overrides.with_options(recipe, batch=3, size=(16, 32), seed=5, loss_scale=None)
    assert {stage.batch for stage in made.stages} == {3}
    sizes = {o.size for s in made.stages for o in s.augmentation if isinstance(o, Resize)}
    assert (made.size, sizes, made.seed) == ((16, 32), {(16, 32)}, 5)
    assert made.loss_scale == recipe.loss_scale


def test_the_rate_follows_the_batch_size_as_the_recipe_says() -> None:
    """Catches a scaling rule that is not applied, or applied where the recipe has none."""
    linear = overrides.with_settings(CAMVID, ["parallel.rate=linear"])
    assert overrides.with_options(linear, batch=20).stages[0].optimizer.lr == 1e-3
    assert overrides.with_options(CAMVID, batch=20).stages[0].optimizer.lr == 5e-4


WRONG = {
    "optimizr=1": "unknown key 'optimizr', expected name, about, data",
    "stages.whole.optimizer.learning_rate=1": "unknown key 'learning_rate', expected kind, lr",
    "stages.decoder.batch=1": "unknown name 'decoder', expected whole or all",
    "stages.whole.augmentation.flip.p=1": "unknown name 'flip', expected resize",
    "stages.whole.optimizer.lr=1e-3x": "whole.optimizer.lr: '1e-3x', expected a finite number",
    "seed=1.5": "seed: 1.5, expected a whole number",
    "stages.whole.batch=true": "stages.whole.batch: True, expected a whole number",
    "stages.whole.batch=0": "stages.whole: epochs and batch are expected to be 1 or more",
    "stages.whole.drop_last=1": "drop_last: 1, expected true or false",
    "size=[1,2,3]": "size: [1, 2, 3], expected 2 values",
    "size=[0,2]": "size: [0, 2], expected 1 pixel or more",
    "stages.whole.augmentation=[{kind='turn'}]": "kind is one of resize, flip",
    "stages.whole.augmentation=[{kind='crop'}]": "augmentation.0: missing size",
    "stages.whole.dropout=[2.0, 0.1]": "stages.whole.dropout: dropout is (2.0, 0.1)",
    "stages.whole.name=a/b": "a stage's name is expected to be a word",
    "precision=fp8": "precision is 'fp8', expected one of fp64, fp32",
    "loss_scale=big": "loss_scale is 'big', expected a number or dynamic",
    "loss_scale=inf": "loss_scale: inf, expected a finite number or a text",
    "loss_scale=0": "loss_scale is 0.0, expected a number above 0",
    "loss_scale=-2": "loss_scale is -2.0, expected a number above 0",
    "stages.whole.optimizer.lr=1e38": "lr is 1e+38, more than float32 can hold steps of",
    "validate_every=0": "validate_every and devices are expected to be 1 or more",
    "labels=first": "labels are 'first', expected one of void-last, void-first",
    "stages.whole.loss.kind=icnet": "stages.whole: loss kind icnet is not for enet-camvid",
    "stages.whole.model=icnet": "stages.whole: loss kind cross_entropy is not for icnet",
    "stages.whole.loss.class_weights.c=1": "c is 1.0, expected more than 1",
    "stages.whole.loss.class_weights.values=[-1]": "values are expected to be 0 or more",
    "stages.whole.schedule.gamma=nan": "schedule.gamma: nan, expected a finite number",
    "stages.whole.schedule.power=-1": "are expected not below 0",
    "stages.whole.schedule.warmup=-1": "are expected not below 0",
    "stages.whole.schedule.milestones=[-1]": "are expected not below 0",
    "stages.whole.optimizer.groups=[{prefixes=['encodr'], factor=2}]": "begins no parameter",
    "stages.whole.optimizer.groups=[{prefixes=[''], factor=-1}]": "factor is -1.0, expected 0",
    "stages.whole.augmentation=[{kind='flip', p=2}]": "p is 2.0, expected a probability",
    "stages.whole.augmentation=[{kind='shift', pixels=-1}]": "pixels is -1, expected 0 or more",
    "stages.whole.augmentation=[{kind='pad-crop', pixels=-1}]": "pixels is -1, expected 0 or",
    "stages.whole.augmentation=[{kind='short-side', low=9, high=8}]": "low 9 and high 8",
    "stages.whole.augmentation=[{kind='ratio-crop', low=0.5, high=1}]": "expected 1 or more",
    "stages.whole.augmentation=[{kind='blur', low=-1}]": "expected 0 or more",
    "stages=3": "stages: 3, expected a list",
    "seed": "expected KEY=VALUE",
}


@pytest.mark.parametrize("setting", WRONG)
def test_a_wrong_setting_is_refused_with_its_key(setting: str) -> None:
    """Catches a typing error that is passed over, or told without where it is."""
    with pytest.raises(InputError) as error:
        overrides.with_settings(CAMVID, [setting])
    assert WRONG[setting] in str(error.value)
    assert str(error.value).startswith("--set")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('base = "enet-camvid"\nlr = 1\n', "unknown key 'lr', expected name, about"),
        ('base = "enet"\n', "base: 'enet', expected one of enet-cityscapes"),
        ("seed = 1\n", "missing name, about, data, stages"),
        ("base = [1]\n", "base: [1], expected one of enet-cityscapes"),
        ("seed =\n", "is not TOML"),
        ('base = "enet-camvid"\n[[stages]]\nname = "a"\n', "stages.0: missing model, epochs"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Catches a traceback, or a message that does not name the file."""
    file = tmp_path / "mine.toml"
    file.write_text(text)
    assert main(["recipes", str(file)]) == 2
    said = capsys.readouterr().err
    assert line in said
    assert str(file) in said
    assert said.count("\n") == 1


def test_a_file_that_is_not_there_is_refused(capsys: pytest.CaptureFixture) -> None:
    """Catches a traceback for a path with a typing error."""
    assert main(["recipes", "nowhere.toml"]) == 2
    assert "nowhere.toml: cannot be read: No such file" in capsys.readouterr().err


def test_a_file_of_another_base_than_asked_for_is_refused(tmp_path: Path) -> None:
    """Catches `parity train A --recipe-file FILE` that trains B."""
    file = tmp_path / "mine.toml"
    file.write_text('base = "enet-bench"\n')
    with pytest.raises(InputError, match=r"base is 'enet-bench', but the recipe asked for is enet"):
        overrides.find("enet-camvid", file)
    file.write_text("seed = 3\n")
    assert overrides.find("enet-camvid", file) == dataclasses.replace(CAMVID, seed=3)


def test_what_decides_nothing_does_not_change_the_hash() -> None:
    """Catches a run that cannot go on because somebody changed a comment, and the opposite."""
    silent = overrides.with_settings(CAMVID, ["about=other", "validate_every=3", "devices=2"])
    assert digest(silent) == digest(CAMVID)
    assert not differences(plain(silent), plain(CAMVID))
    stage = dataclasses.replace(CAMVID.stages[0], augmentation=(Resize((360, 480)), Flip()))
    assert digest(dataclasses.replace(CAMVID, stages=(stage,))) != digest(CAMVID)


def test_the_list_shows_every_recipe(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """Catches a recipe that the list leaves out."""
    file = tmp_path / "all.json"
    assert main(["recipes", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert all(f" {name} " in shown for name in RECIPES)
    assert json.loads(file.read_text()) == [plain(recipe) for recipe in RECIPES.values()]


def test_dropout_of_the_network_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `dropout none` of a stage that leaves the probabilities to its network."""
    whose = {
        "erfnet-cityscapes": ["0.03, 0.3 (the network's)"] * 2,
        "erfnet-mindspore": ["0.03, 0.2"] * 4,
    }
    for name, expected in whose.items():
        assert main(["recipes", name]) == 0
        lines = capsys.readouterr().out.splitlines()
        stages = (line.split(maxsplit=1)[1] for line in lines if line.startswith("  dropout "))
        assert list(stages) == expected
    assert main(["recipes", "icnet-cityscapes"]) == 0
    assert "  dropout         none" in capsys.readouterr().out


def test_a_genet_is_made_narrower_by_its_recipe() -> None:
    """Catches a width that is read and not used, or lost on the way to TOML and back."""
    recipe = overrides.find("genet-cifar10")
    made = overrides.with_settings(recipe, ["stages.all.width=1", "stages.all.depth=10"])
    config = made.stages[0].config
    assert (config.width, config.depth) == (1, 10)
    assert recipe.stages[0].config.width == 8
    assert recipe_of(tomllib.loads(to_toml(made)), "here") == made
    with pytest.raises(InputError, match="width is 2, but enet-camvid has no width"):
        overrides.with_settings(overrides.find("enet-camvid"), ["stages.all.width=2"])
    with pytest.raises(InputError, match="depth is 11, expected 10, 16, 22"):
        overrides.with_settings(recipe, ["stages.all.depth=11"])
