"""Reading, predicting and counting beside one another."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import parity.evaluation.miou
from parity import cli
from parity.data import Segmentation
from parity.evaluation.miou import miou
from parity.spec import draw, metrics
from parity.spec.networks.enet import ENetConfig
from parity.spec.training.trainer import Batch
from parity.training.scores import Count, Task, measure
from tests.background_threads import BRIEFLY, PATIENCE, threads
from tests.scenes import NAMES, cityscapes, save_weights

SIZE = (24, 40)
COUNT = len(NAMES)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    return save_weights(folder / "enet.pth", draw.weights(ENetConfig(), seed=0))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Four images in Cityscapes' layout."""
    return cityscapes(tmp_path / "data")


def predicting(monkeypatch: pytest.MonkeyPatch, predict: Callable[[int], None]) -> None:
    """Have a function called for each image, with its number, in the place of PyTorch's network."""
    calls = iter(range(-1, COUNT))  # the first image is predicted twice

    def classes(images: np.ndarray) -> np.ndarray:
        predict(max(next(calls), 0))
        return np.zeros(images.shape[:3], np.int32)

    monkeypatch.setattr(parity.evaluation.miou, "predictor", lambda *_: classes)


def test_miou_reads_ahead_and_counts_behind(
    weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches images read or counted while no network predicts, and more than one read ahead."""
    read = [threading.Event() for _ in range(COUNT + 1)]
    predicted = [threading.Event() for _ in range(COUNT + 1)]
    number = {name: i for i, name in enumerate(NAMES)}
    load, confusion = Segmentation.load, metrics.confusion

    def loaded(self: Segmentation, sample: Any, *size: int) -> tuple[np.ndarray, np.ndarray]:
        read[number[sample.name]].set()
        return load(self, sample, *size)

    def predict(i: int) -> None:
        predicted[i].set()
        if i + 1 < COUNT:
            assert read[i + 1].wait(PATIENCE)  # the next one meanwhile
        if i + 2 < COUNT:
            assert not read[i + 2].wait(BRIEFLY)  # none but that one

    counted: list[int] = []

    def count(*arrays: Any) -> np.ndarray:
        i = len(counted)
        if i + 1 < COUNT:
            assert predicted[i + 1].wait(PATIENCE)  # this one beside the next one's prediction
        counted.append(i)
        return confusion(*arrays)

    monkeypatch.setattr(Segmentation, "load", loaded)
    monkeypatch.setattr(metrics, "confusion", count)
    predicting(monkeypatch, predict)
    found = miou(weights, data, SIZE, frameworks=["torch"])
    assert [image.name for image in found.images] == list(NAMES)
    assert found.frameworks["torch"].confusion.sum() == COUNT * SIZE[0] * SIZE[1]


def test_each_side_bears_reading_alike(
    weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a side that is slower in the table only because it always predicts first.

    Reading an image takes a second of a clock that nothing else moves, and whoever predicts
    meanwhile waits for it. Of three images that are read so, one is read beside a first call.
    """
    clock = types.SimpleNamespace(now=0.0)
    predicting = [threading.Event() for _ in range(COUNT)]
    read = [threading.Event() for _ in range(COUNT)]
    number = {name: i for i, name in enumerate(NAMES)}
    load = Segmentation.load

    def loaded(self: Segmentation, sample: Any, *size: int) -> tuple[np.ndarray, np.ndarray]:
        i = number[sample.name]
        if i:
            assert predicting[i - 1].wait(PATIENCE)
            clock.now += 1
        found = load(self, sample, *size)
        read[i].set()
        return found

    order: list[str] = []

    def made(framework: str, *_: object) -> Callable[[np.ndarray], np.ndarray]:
        images: list[int] = []

        def classes(batch: np.ndarray) -> np.ndarray:
            order.append(framework)
            i = max(len(images) - 1, 0)  # the first image is predicted twice
            images.append(i)
            predicting[i].set()
            if i + 1 < COUNT:
                assert read[i + 1].wait(PATIENCE)
            return np.zeros(batch.shape[:3], np.int32)

        return classes

    fake = types.SimpleNamespace(perf_counter=lambda: clock.now)
    monkeypatch.setattr(Segmentation, "load", loaded)
    monkeypatch.setattr(parity.evaluation.miou, "predictor", made)
    monkeypatch.setattr(parity.evaluation.miou, "time", fake)
    found = miou(weights, data, SIZE)
    speeds = {name: score.images_per_second for name, score in found.frameworks.items()}
    assert speeds == {"torch": COUNT, "jax": COUNT}  # a second each
    first = ["torch", "torch", "jax", "jax"]
    assert order == [*first, "jax", "torch", "torch", "jax", "jax", "torch"]
    assert clock.now == COUNT - 1
    assert found.disagreeing_pixels == 0


def command(weights: Path, data: Path) -> list[str]:
    given = ["miou", "--weights", str(weights), "--data", str(data), "--size", "24x40"]
    return [*given, "--frameworks", "torch"]


def test_a_damaged_image_is_one_line(
    weights: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a traceback of the thread that reads, or an image that is passed over."""
    predicted: list[int] = []
    predicting(monkeypatch, predicted.append)
    path = next(data.rglob(f"{NAMES[2]}_leftImg8bit.png"))
    path.write_bytes(path.read_bytes()[:100])
    assert cli.main(command(weights, data)) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1
    assert f"{path}: " in error[0]
    assert predicted == [0, 0, 1]
    assert threads() == []


def test_ctrl_c_leaves_no_thread(
    weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a thread that reads or counts on, and a traceback."""

    def predict(i: int) -> None:
        if i == 1:
            raise KeyboardInterrupt

    predicting(monkeypatch, predict)
    assert cli.main(command(weights, data)) == 130
    assert capsys.readouterr().err == ""
    assert threads() == []


class Slow:
    """A trainer that predicts a batch only when the one before is being counted."""

    batches_at_once = 1

    def __init__(self) -> None:
        self.counting = [threading.Event() for _ in range(3)]
        self.predicting = [threading.Event() for _ in range(4)]

    def evaluate_each(self, batches: list[Batch]) -> list[tuple[np.ndarray, float]]:
        i = int(batches[0].samples[0])
        self.predicting[i].set()
        if i:
            assert self.counting[i - 1].wait(PATIENCE)
        return [(np.array([i]), float(i))]


def test_validations_count_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a batch that is counted while nothing is predicted, and one that is not counted."""
    trainer, add = Slow(), Count.add
    trainer.predicting[3].set()  # after the last one there is none

    def added(self: Count, batch: Batch, *found: Any) -> None:
        i = int(batch.samples[0])
        trainer.counting[i].set()
        assert trainer.predicting[i + 1].wait(PATIENCE)
        add(self, batch, *found)

    monkeypatch.setattr(Count, "add", added)
    batches = [
        Batch(np.zeros((1, 1)), (), {}, np.array([i]), truth=np.array([i])) for i in range(3)
    ]
    count = Count(Task(("a", "b", "c")))
    found = list(measure(trainer, batches, count))  # type: ignore[arg-type]  # no whole trainer
    assert [int(classes[0]) for _, classes in found] == [0, 1, 2]
    np.testing.assert_array_equal(count.matrix, np.eye(3))
    assert count.score().mean_loss == 1.0
