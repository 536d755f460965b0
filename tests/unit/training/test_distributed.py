"""What a recipe has otherwise on several devices: as data, in files, in the loop, and going on."""

from __future__ import annotations

import dataclasses
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli.commands.recipes import facts
from parity.data import pipeline
from parity.data.makers import Share, Training, passes
from parity.model_checks.devices import ladder
from parity.model_checks.recipes.scaled_down import scaled_down
from parity.model_checks.recipes.scenes import Blocks, source
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from parity.spec.training.parallel import Distributed, Parallel
from parity.spec.training.recipe import Recipe
from parity.spec.training.schedules import Schedule
from parity.spec.training.written import recipe_of, to_toml
from parity.training import checkpoints, logger, overrides
from parity.training.dist_env import DistEnv
from parity.training.folder import Folder
from parity.training.run import Options
from parity.training.stopping import Stop
from tests.fake_training import TINY, FakeData, recipe, run

SEVERAL = Distributed(lr=0.5, batch_per_device=3, repeat=2, drop_last=True)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tiny", TINY)


def several() -> Recipe:
    """The rate falls with every step: over 10 samples one device makes 3 steps, two make 3 of 6."""
    (stage,) = recipe().stages
    schedule = Schedule("poly", length=3, per_step=True)
    return recipe(dataclasses.replace(stage, schedule=schedule, distributed=SEVERAL))


def rates(out: Path) -> list[tuple[int, int, float]]:
    lines = [line for line in logger.read(out / "log.jsonl") if line["kind"] == "step"]
    return [(line["epoch"], line["steps"], line["rate"]) for line in lines]


def test_a_stage_on_several_devices() -> None:
    """Catches a field that one device has too, is lost on several, or grows twice."""
    (stage,) = several().stages
    assert stage.on(1) is stage
    made = stage.on(2)
    assert (made.optimizer.lr, made.batch, made.repeat, made.drop_last) == (0.5, 6, 2, True)
    assert made.on(2) == made
    assert stage.on(4).batch == 12
    assert made.dropout == stage.dropout
    alone = dataclasses.replace(stage, distributed=Distributed())
    assert alone.on(8) == alone
    with pytest.raises(ValueError, match="repeat is 0, expected 1 or more"):
        Distributed(repeat=0)


@pytest.mark.parametrize("devices", [1, 2])
def test_the_loop_trains_by_it(devices: int, tmp_path: Path) -> None:
    """Catches one device's rate, batch or steps in the log, and a rate of other steps."""
    assert run(tmp_path, several(), devices=devices).go()
    lr = 0.5 if devices == 2 else 0.01
    expected = [(i // 3 + 1, 3, lr * (1 - i / 9) ** 0.9) for i in range(9)]
    found = rates(tmp_path)
    assert [line[:2] for line in found] == [line[:2] for line in expected]
    np.testing.assert_allclose([x[2] for x in found], [x[2] for x in expected], rtol=1e-12)
    saved = checkpoints.read(Folder(tmp_path).last)
    assert saved.stage.optimizer.lr == lr
    assert saved.origin.progress.devices == devices


class Asking(FakeData):
    """Is asked to stop after so many batches of this process."""

    def __init__(self, stop: Stop) -> None:
        self.stop = stop

    def batches(self, *args: object) -> object:
        for i, batch in enumerate(super().batches(*args)):
            self.stop.asked = i == 4
            yield batch


def test_going_on_with_other_devices(tmp_path: Path) -> None:
    """Catches a run that goes on inside of an epoch whose steps are others, or not at its end."""
    options = Options(epochs=1, log_every=1)
    assert run(tmp_path, several(), options=options).go()
    stop = Stop()
    assert not run(tmp_path, several(), devices=2, stop=stop, data=Asking(stop)).go()
    assert [round(rate, 3) for _, _, rate in rates(tmp_path)[:5]] == [
        *(round(0.01 * (1 - i / 9) ** 0.9, 3) for i in range(3)),
        *(round(0.5 * (1 - i / 9) ** 0.9, 3) for i in (3, 4)),
    ]
    said = (
        r"last\.safetensors is inside of epoch 3, of 3 batches of 6 images; --devices 1 has 3 of 4:"
        r" go on with --devices 2, or from a checkpoint at the end of an epoch"
    )
    with pytest.raises(InputError, match=said):
        run(tmp_path, several())
    assert run(tmp_path, several(), devices=2).go()
    # Where several devices compute the same batches, a run goes on from any step.
    same = tmp_path / "same"
    stop = Stop()
    assert not run(same, stop=stop, data=Asking(stop)).go()
    assert run(same, devices=2).go()


def test_old_checkpoints_do_not_say_their_devices(tmp_path: Path) -> None:
    """Catches a checkpoint of an older version that is refused for what it does not say."""
    assert run(tmp_path, options=Options(epochs=1)).go()
    found = checkpoints.read(Folder(tmp_path).last)
    progress = dataclasses.replace(found.origin.progress, step=1, devices=0)
    old = dataclasses.replace(found, origin=dataclasses.replace(found.origin, progress=progress))
    checkpoints.check_same(old, recipe(), FakeData.samples, 2)
    assert old.stage == recipe().stages[0]


def test_files_and_options(tmp_path: Path) -> None:
    """Catches a file that loses it, an old file that is refused, and a batch that it overrules."""
    base = RECIPES["enet-mindspore"]
    assert recipe_of(tomllib.loads(to_toml(base)), "test") == base
    old = tomllib.loads(to_toml(base))
    for stage in old["stages"]:
        del stage["distributed"], stage["repeat"]
    made = recipe_of(old, "test")
    assert made.on(4) == made
    changed = overrides.with_settings(base, ["stages.all.distributed.lr=2e-3"])
    assert {s.on(4).optimizer.lr for s in changed.stages} == {2e-3}
    assert {s.on(4).batch for s in changed.stages} == {24}
    fewer = overrides.with_options(base, batch=8)
    assert {(s.batch, s.on(4).batch, s.on(4).repeat) for s in fewer.stages} == {(8, 8, 2)}
    assert {s.on(4).optimizer.lr for s in fewer.stages} == {1e-3}
    linear = dataclasses.replace(base, parallel=Parallel(rate="linear"))
    scaled = overrides.with_options(linear, batch=24)
    assert {s.on(4).optimizer.lr for s in scaled.stages} == {4 * 5e-4}
    for setting, said in (
        ("distributed.batch_per_device=0", "batch_per_device is 0, expected 1 or more"),
        ("distributed.repeat=1.5", "distributed.repeat: 1.5, expected a whole number or none"),
        ("distributed.dropout=[0.1]", r"distributed\.dropout: dropout is \(0\.1,\), expected two"),
        ("distributed.dropout=[2.0, 0.1]", r"distributed\.dropout: dropout is"),
    ):
        with pytest.raises(InputError, match=said):
            overrides.with_settings(base, [f"stages.whole.{setting}"])
    text = "\n".join(facts(RECIPES["erfnet-mindspore"]))
    assert "distributed     lr 0.001, batch_per_device 6, repeat 2, dropout 0.03, 0.3" in text


def test_a_batch_that_grows_with_the_devices_divides() -> None:
    """Catches MindSpore's recipes refused on as many devices as anybody has."""
    for devices in (2, 4, 5, 7, 8):
        DistEnv(devices=devices).check(RECIPES["enet-mindspore"])
    with pytest.raises(InputError, match="a batch of 6 images does not divide among 4 devices"):
        DistEnv(devices=4).check(overrides.with_options(RECIPES["enet-mindspore"], batch=6))


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_an_epoch_goes_through_the_data_twice(devices: int) -> None:
    """Catches a pass in the order of the one before, a sample left out, an epoch like the last."""
    small = scaled_down(RECIPES["enet-mindspore"], devices=devices)
    stage = dataclasses.replace(small.stages[0], batch=4)
    recipe, count = dataclasses.replace(small, stages=(stage,)), 10
    images = source(recipe, count, Blocks)
    steps = pipeline.steps(recipe, stage, count, devices)
    assert stage.repeat == (1 if devices == 1 else 2)
    # 2 passes of 10 are 5 batches of 4; on four devices each pass is padded to 12.
    assert steps == {1: 2, 2: 5, 4: 6}[devices]
    maker = Training(images, recipe, stage, "float32", Share(0, 1, devices), steps)
    epochs = [np.concatenate([maker(e * steps + s).samples for s in range(steps)]) for e in (0, 1)]
    for samples in epochs:
        found = Counter(samples.tolist())
        assert len(samples) == steps * 4
        assert set(found.values()) <= ({1} if devices == 1 else {2, 3, 4})
    assert (epochs[0] != epochs[1]).any()
    if devices > 1:
        # A batch reaches from one pass into the next; no two passes have one order.
        first, second = (epochs[0][:count], epochs[0][steps * 2 : steps * 2 + count])
        assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(count))
        assert (first != second).any()
        whole = passes(recipe, stage, 0, count, devices)
        np.testing.assert_array_equal(epochs[0][: len(whole)], whole)


def test_steps_are_those_of_pytorchs_sampler() -> None:
    """Catches a last batch that is kept or dropped otherwise than by each device's own loader."""
    (stage,) = RECIPES["genet-cifar10-8p"].stages
    recipe = RECIPES["genet-cifar10-8p"]
    for samples in (1023, 1024, 1025, 2040, 2041, 5000):
        for devices in (2, 8):
            sampler = torch.utils.data.DistributedSampler(
                range(samples), devices, rank=0, shuffle=False
            )
            loader = torch.utils.data.DataLoader(
                range(samples), batch_size=1024 // devices, sampler=sampler, drop_last=True
            )
            assert pipeline.steps(recipe, stage.on(devices), samples, devices) == len(loader)


def test_feed_and_rehearsals_know_the_devices(tmp_path: Path) -> None:
    """Catches data, or a rehearsal of several devices, made by one device's numbers."""
    for model, dropout in (("erfnet-mindspore", (0.03, 0.3)), ("enet-mindspore", None)):
        (stage,) = ladder.recipe_of(model).stages
        assert (stage.optimizer.lr, stage.repeat, stage.dropout) == (1e-3, 2, dropout)
    one = scaled_down(RECIPES["erfnet-mindspore"]).stages[0]
    assert (one.optimizer.lr, one.repeat, one.dropout) == (5e-4, 1, (0.03, 0.2))
    assert scaled_down(RECIPES["genet-cifar10"], devices=8).stages[0].drop_last
