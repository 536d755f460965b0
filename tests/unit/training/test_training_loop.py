"""The loop of a training run, with a framework and data that cost nothing."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.schedules import Schedule
from parity.spec.training.trainer import Snapshot
from parity.training import checkpoints, logger
from parity.training.clock import Clock
from parity.training.folder import Folder
from parity.training.run import Options, TrainingRun
from parity.training.stopping import Stop
from tests.fake_training import TINY, Fake, FakeData, assert_same, begin, recipe, run
from weights_convert.inspection import inspect


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tiny", TINY)


class Halt(Exception):  # noqa: N818  # what a kill would be
    """Raised in the middle of a run."""


class Halting(Fake):
    """Dies at a step of this process."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def trainer(self, *args):
        made, step = super().trainer(*args), None
        step = made.step

        def dying(batch, rate):
            if self.steps == self.at:
                raise Halt
            return step(batch, rate)

        made.step = dying
        return made


def two_stages() -> Recipe:
    """The second begins with what the first one left; its rate falls with every step."""
    (stage,) = recipe().stages
    poly = Schedule("poly", length=2, per_step=True)
    second = dataclasses.replace(stage, name="second", epochs=2, schedule=poly, drop_last=True)
    return recipe(dataclasses.replace(stage, epochs=2), second)


OFTEN = Options(log_every=1, save_every=2, keep_every=1)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two stages in which nobody died."""
    out = tmp_path_factory.mktemp("whole") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, "tiny", TINY)
        assert run(out, two_stages(), options=OFTEN).go()
    return out


@pytest.mark.parametrize("at", range(10))
def test_a_run_that_dies_at_any_step_goes_on_as_if_nothing_had_happened(
    at: int, whole: Path, tmp_path: Path
) -> None:
    """Catches a step done twice or left out, and a log, best or moment that is not put back."""
    with pytest.raises(Halt):
        run(tmp_path / "broken", two_stages(), Halting(at), OFTEN).go()
    assert run(tmp_path / "broken", two_stages(), options=OFTEN).go()
    assert_same(whole, tmp_path / "broken")


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_run_killed_before_any_change_to_the_file_system_goes_on() -> None:
    """Catches an order of writing in which a checkpoint, the best one or the log is lost."""
    # In a process that has no threads, since it forks.
    command = [sys.executable, "-m", "tests.killed_steps"]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.splitlines()[-1]) > 20


def test_a_run_that_is_asked_to_stop_leaves_a_checkpoint_in_the_middle_of_an_epoch(
    tmp_path: Path,
) -> None:
    """Catches a signal that costs the steps since the last epoch, and one that is ignored."""
    assert run(tmp_path / "whole").go()
    stop = Stop()

    class Asking(FakeData):
        def batches(self, *args):
            for i, batch in enumerate(super().batches(*args)):
                if i == 4:  # the second of the second epoch
                    os.kill(os.getpid(), signal.SIGINT)
                yield batch

    with stop.listening():
        assert not run(tmp_path / "broken", stop=stop, data=Asking()).go()
    assert stop.status == 130
    progress = checkpoints.read(Folder(tmp_path / "broken").last).origin.progress
    assert (progress.epoch, progress.step) == (1, 2)
    assert run(tmp_path / "broken").go()
    assert_same(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("split", ["batches", "validation"])
def test_a_signal_that_ends_the_loading_processes_too_is_still_obeyed(
    split: str, tmp_path: Path
) -> None:
    """Catches steps lost to SIGTERM sent to all processes of a job, and exit status 2 for it."""
    assert run(tmp_path / "whole").go()
    stop = Stop()

    class Dying(FakeData):
        """A worker gets the signal, too; no batch comes after it."""

        def ended(self, batches):
            yield next(batches)
            stop.asked = signal.SIGTERM
            raise InputError("a process that reads the data died")

    def ended(self, *args):
        return self.ended(getattr(FakeData, split)(self, *args))

    setattr(Dying, split, ended)
    assert not run(tmp_path / "broken", stop=stop, data=Dying()).go()
    progress = checkpoints.read(Folder(tmp_path / "broken").last).origin.progress
    assert (progress.epoch, progress.step) == (0, 1 if split == "batches" else 3)
    assert run(tmp_path / "broken").go()
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_a_signal_is_obeyed_while_labels_are_counted(tmp_path: Path) -> None:
    """Catches Ctrl-C that is ignored for as long as a large data set is counted."""
    stop = Stop()

    class Counting(FakeData):
        def class_weights(self, stage, progress):
            progress(1, 3, "counting labels")
            stop.asked = signal.SIGINT
            progress(2, 3, "counting labels")
            raise AssertionError("it goes on counting")

    assert not run(tmp_path, stop=stop, data=Counting()).go()
    assert not Folder(tmp_path).last.exists()


def test_what_is_shown_counts_up_to_where_the_run_stops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches `1/2` for an epoch of a run that stops after one, and one beyond its stage."""
    shown = {1: ["whole 1/1"], 3: ["whole 2/2", "second 1/1"], 4: ["second 2/2"]}
    for epochs, lines in shown.items():
        assert run(tmp_path, two_stages(), options=Options(epochs=epochs)).go()
        said = capsys.readouterr().out.splitlines()
        assert [line.partition(":")[0] for line in said if ": loss" in line] == lines


def test_a_stop_during_validation_repeats_it_and_nothing_else(tmp_path: Path) -> None:
    """Catches an epoch that is logged or counted twice when its validation is cut short."""
    assert run(tmp_path / "whole").go()
    stop = Stop()

    class Asking(FakeData):
        def validation(self, *args):
            stop.asked = signal.SIGTERM
            yield from super().validation(*args)

    assert not run(tmp_path / "broken", stop=stop, data=Asking()).go()
    assert stop.status == 143
    assert checkpoints.read(Folder(tmp_path / "broken").last).origin.progress.step == 3
    assert run(tmp_path / "broken").go()
    assert_same(tmp_path / "whole", tmp_path / "broken")


def test_a_limit_of_epochs_is_only_a_stop(tmp_path: Path) -> None:
    """Catches `--epochs` that changes what is computed: a run could not go on afterwards."""
    assert run(tmp_path / "whole", two_stages()).go()
    for epochs in (1, 2, 3):
        short = Options(epochs=epochs, log_every=1, keep_every=2)
        assert run(tmp_path / "parts", two_stages(), options=short).go()
        progress = checkpoints.read(Folder(tmp_path / "parts").last).origin.progress
        assert progress.epoch + 2 * progress.stage == epochs
    assert run(tmp_path / "parts", two_stages()).go()
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_a_finished_run_has_nothing_left_to_do(tmp_path: Path) -> None:
    """Catches a run that trains a step too many, or writes again."""
    assert run(tmp_path).go()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    side = Fake()
    assert run(tmp_path, side=side).go()
    assert side.steps == 0
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}


def test_checkpoints_are_named_by_what_they_are(tmp_path: Path) -> None:
    """Catches a stage that overwrites what another one left."""
    run(tmp_path, two_stages()).go()
    names = {p.stem for p in Folder(tmp_path).checkpoints.iterdir()}
    both = {f"{s}-{n}" for s in ("whole", "second") for n in ("best", "last", "epoch-0002")}
    assert names == both | {"last"}
    lines = logger.read(tmp_path / "log.jsonl")
    scores = [x["score"] for x in lines if x["kind"] == "validation" and x["stage"] == "whole"]
    best = checkpoints.read(Folder(tmp_path).checkpoint("whole-best")).origin.progress
    assert best.best == max(scores)
    assert scores[best.epoch - 1] == max(scores)


def test_a_stage_begins_with_what_the_one_before_it_left(tmp_path: Path) -> None:
    """Catches a stage that begins anew, or with the best instead of the last, resumed or not."""
    given = []

    def noting(stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot:
        given.append(before)
        return begin(stage, before)

    def noted(options: Options) -> TrainingRun:
        made = run(tmp_path, two_stages(), options=options)
        made.begin = noting
        return made

    noted(Options(epochs=2)).go()
    noted(Options()).go()
    assert given[0] is None
    (stage, snapshot), left = given[1], checkpoints.read(Folder(tmp_path).checkpoint("whole-last"))
    assert (len(given), stage.name) == (2, "whole")
    assert left.origin.progress.best_epoch == 1  # so that the last one is another
    for key, array in left.snapshot.arrays.items():
        assert snapshot.arrays[key].tobytes() == array.tobytes()


def test_a_number_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(
    tmp_path: Path,
) -> None:
    """Catches a run that goes on with NaN, and one that writes it over what was good."""
    where = r"stage whole, epoch 2, step 2 of 3: gradient of fc\.weight: 3 of 640 are not finite"
    with pytest.raises(FloatingPointError, match=where):
        run(tmp_path, side=Fake(fault_at=5)).go()
    progress = checkpoints.read(Folder(tmp_path).last).origin.progress
    assert (progress.epoch, progress.step) == (1, 0)
    assert run(tmp_path).go()


def test_a_validation_that_is_not_finite_stops_the_run(tmp_path: Path) -> None:
    """Catches NaN that only shows in eval mode, where no gradient is looked at."""

    class Broken(Fake):
        def trainer(self, *args):
            made = super().trainer(*args)
            made.evaluate = lambda batch: (batch.targets[0], float("nan"))
            return made

    with pytest.raises(FloatingPointError, match="epoch 1, its end, validation: the loss is nan"):
        run(tmp_path, side=Broken()).go()
    assert not Folder(tmp_path).last.exists()


def test_a_checkpoint_of_another_recipe_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    """Catches a run that goes on under another rate, batch or network than it began with."""
    run(tmp_path).go()
    (stage,) = recipe().stages
    other = recipe(dataclasses.replace(stage, batch=2, initial="xavier"))
    with pytest.raises(InputError) as error:
        run(tmp_path, other)
    assert "last.safetensors is of another recipe: stages.whole.batch 4, here 2" in str(error.value)
    assert 'stages.whole.initial "torch", here "xavier"' in str(error.value)
    network = recipe(dataclasses.replace(stage, model="genet"))
    with pytest.raises(InputError, match="network tiny, here genet"):
        run(tmp_path, network)
    with pytest.raises(InputError, match="stages whole, here whole, second"):
        run(tmp_path, two_stages())


def test_a_checkpoint_of_other_data_is_refused(tmp_path: Path) -> None:
    """Catches a run that goes on in another order, because a file was added."""
    run(tmp_path).go()
    data = FakeData()
    data.samples = 11
    with pytest.raises(InputError, match="was trained on 10 images, here are 11"):
        run(tmp_path, data=data)


def test_what_is_no_checkpoint_of_a_run_is_refused(tmp_path: Path) -> None:
    """Catches a traceback for a file of weights alone."""
    from parity.spec.draw import weights
    from weights_convert import save

    save(tmp_path / "x.safetensors", TINY, weights(TINY, 0))
    with pytest.raises(InputError, match=r"x\.safetensors is no checkpoint of a training run"):
        checkpoints.read(tmp_path / "x.safetensors")
    save(tmp_path / "y.safetensors", TINY, weights(TINY, 0), metadata={"run": "{}"})
    with pytest.raises(InputError, match="what it says of its run is damaged"):
        checkpoints.read(tmp_path / "y.safetensors")


def test_a_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    """Catches a run of epochs without steps."""
    (stage,) = recipe().stages
    large = recipe(dataclasses.replace(stage, batch=11, drop_last=True))
    with pytest.raises(InputError, match="a batch is 11 images, the data set has 10"):
        run(tmp_path, large).go()


def test_a_checkpoint_is_one_that_every_command_reads(tmp_path: Path) -> None:
    """Catches a file without a manifest, an optimizer's state or the facts of its images."""
    run(tmp_path).go()
    found = inspect(Folder(tmp_path).last)
    assert found.verified
    assert found.checkpoint is not None
    assert found.checkpoint.optimizer is not None
    assert found.checkpoint.optimizer.describe(TINY)["hyperparameters"]["lr"] == 0.01
    assert found.checkpoint.optimizer.step == 9


def test_the_log_and_the_curves_hold_every_step(tmp_path: Path) -> None:
    """Catches curves that keep what was cut off the log, or lose what was before it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Halt):
        run(tmp_path, side=Halting(8), curves=True).go()
    run(tmp_path, curves=True).go()
    lines = [x for x in logger.read(tmp_path / "log.jsonl") if x["kind"] == "step"]
    assert [x["batches"] for x in lines] == list(range(1, 10))
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    points = shown.Scalars("step/loss")
    assert [(p.step, p.value) for p in points] == [
        (x["batches"], pytest.approx(x["loss"], rel=1e-6)) for x in lines
    ]
    assert {"epoch/loss", "validation/score", "step/rate", "speed/waiting"} <= set(
        shown.Tags()["scalars"]
    )


def test_a_log_that_somebody_changed_is_refused(tmp_path: Path) -> None:
    """Catches a traceback where the curves are drawn anew from a line that is none."""
    assert run(tmp_path, options=Options(epochs=1)).go()
    log = Folder(tmp_path).log
    log.write_bytes(b"nothing\n" + log.read_bytes())
    with pytest.raises(InputError, match=r"log\.jsonl: line 1 is not of a run's log"):
        run(tmp_path, curves=True)


def test_a_folder_that_holds_something_is_not_written_to(tmp_path: Path) -> None:
    """Catches a new run over an old one, and two at once in one folder."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"is not empty: it holds notes\.txt, but no run"):
        Folder(tmp_path).claimed(resume=False).__enter__()
    out = tmp_path / "out"
    with Folder(out).claimed(resume=False):
        Folder(out).started({"seed": 1})
        with (
            pytest.raises(InputError, match="another process trains there"),
            Folder(out).claimed(resume=True),
        ):
            pass
    with Folder(out).claimed(resume=False):  # what a run leaves whose data could not be read
        Folder(out).log.write_text("{}\n")
    with (
        pytest.raises(InputError, match=r"holds a run: --resume goes on with it"),
        Folder(out).claimed(resume=False),
    ):
        pass
    with (
        pytest.raises(InputError, match=r"it holds notes\.txt, but no run"),
        Folder(tmp_path).claimed(resume=True),
    ):
        pass
    with Folder(out).claimed(resume=True):
        assert Folder(out).starts() == [{"seed": 1}]
    for wrong in ("{}", "[]", "{"):
        Folder(out).environment.write_text(wrong)
        with pytest.raises(InputError, match=r"environment\.json"):
            Folder(out).started({})


def test_a_speed_is_not_that_of_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches first steps, which compile, counted in the images of a second: of each size, once."""
    now = [0.0]
    monkeypatch.setattr("parity.training.run.time.perf_counter", lambda: now[0])
    steps = ((10, 60.0), (10, 1.0), (10, 1.0), (7, 60.0))
    for met, expected in ((set(), 10.0), ({10, 7}, 37 / 122), ({10}, 30 / 62)):
        clock = Clock(met, begun=now[0])
        assert not clock.steady
        for images, took in steps:
            now[0] += took
            clock.add(images, 0.0, took)
        assert clock.steady
        assert met == {10, 7}
        assert clock.facts()["seconds"] == 122
        assert clock.facts()["images_per_second"] == pytest.approx(expected, abs=1e-3)
    alone = Clock(begun=now[0])
    now[0] += 5
    alone.add(10, 0.0, 5)
    assert not alone.steady
    assert alone.facts()["images_per_second"] == 2
