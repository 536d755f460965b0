"""What a validation reports and which checkpoint it calls the best, against scikit-learn."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics

from parity.spec.labels import ORDERS
from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Batch
from parity.training import checkpoints, logger
from parity.training.folder import Folder
from parity.training.run import Options
from parity.training.scores import Count, Task
from tests.fake_training import TINY, Fake, FakeData, FakeTrainer, recipe, run

SIZE = (6, 5)
SIZES = (2, 2, 1)  # of the batches of a validation
LOSSES = {1: (3.0, 3.0, 1.0), 5: (0.2, 0.2, 0.7)}  # of the batches, after so many epochs
OPTIONS = Options(log_every=1, keep_every=1, pictures=0)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "tiny", TINY)


def task_of(labels: str) -> Task:
    return Task.of(dataclasses.replace(camvid(), labels=labels))


def camvid() -> Recipe:
    """A recipe of six epochs, eleven classes and void."""
    (stage,) = recipe().stages
    made = recipe(dataclasses.replace(stage, epochs=6))
    return dataclasses.replace(made, data="camvid", labels="void-last")


def judged(truth: np.ndarray, predicted: np.ndarray, void: int, outputs: int) -> dict[str, Any]:
    """What scikit-learn says of the pixels whose truth is known."""
    known = truth != void
    truth, predicted = truth[known], predicted[known]
    classes = [c for c in range(outputs) if c != void]
    iou = metrics.jaccard_score(truth, predicted, labels=classes, average=None, zero_division=0.0)
    there = np.isin(classes, np.union1d(truth, predicted))
    return {
        "accuracy": metrics.accuracy_score(truth, predicted),
        "iou": np.where(there, iou, np.nan),
        "mean_iou": float(iou[there].mean()),
        "matrix": metrics.confusion_matrix(truth, predicted, labels=range(outputs)),
    }


@pytest.mark.parametrize("labels", ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_a_segmentation(labels: str, seed: int) -> None:
    """Catches predicted void forgiven, true void counted, and rows exchanged with columns."""
    rng, task = np.random.default_rng(seed), task_of(labels)
    void = 0 if labels == "void-first" else 11
    assert task.void == void
    present = rng.choice(12, 9, replace=False)
    truth = rng.choice(np.union1d(present, [void]), (sum(SIZES), *SIZE))
    wrong = rng.choice(np.union1d(present, [void]), truth.shape)
    predicted = np.where(rng.random(truth.shape) < 0.6, truth, wrong).astype(np.int32)
    assert ((predicted == void) & (truth != void)).sum() > 3
    count, other, losses = Count(task), Count(task), rng.random(len(SIZES))
    for i, first in enumerate(np.cumsum((0, *SIZES[:-1]))):
        part = slice(first, first + SIZES[i])
        samples = np.arange(first, first + SIZES[i])
        batch = Batch(np.zeros((len(samples), *SIZE, 3)), (), {}, samples, truth[part])
        (other if i == 1 else count).add(batch, predicted[part], float(losses[i]))
    count.join(other)
    score, right = count.score(), judged(truth, predicted, void, 12)
    known = np.arange(12) != void
    np.testing.assert_array_equal(score.matrix[known], right["matrix"][known])
    np.testing.assert_allclose(score.iou, right["iou"], rtol=1e-12)
    assert score.mean_iou == pytest.approx(right["mean_iou"], rel=1e-12)
    assert score.accuracy == pytest.approx(right["accuracy"], rel=1e-12)
    assert score.value == score.mean_iou
    assert score.mean_loss == pytest.approx(np.average(losses, weights=SIZES), rel=1e-12)
    found = score.to_dict()
    assert tuple(found["iou_class"]) == task.classes
    shares = [np.nan if x is None else x for x in found["iou_class"].values()]
    np.testing.assert_allclose(shares, right["iou"], rtol=1e-12)
    assert found["score"] == pytest.approx(right["mean_iou"], rel=1e-12)


def scripted(truth: np.ndarray, epoch: int) -> np.ndarray:
    """What is predicted after so many epochs, of labels 0 (most of them), 1, 2, 3 and void 11.

    Accuracy is best after 2 epochs, mean IoU after 3 and again after 4, the loss after 5; if void
    were forgiven, mean IoU would be best after 6.
    """
    rows = np.arange(SIZE[0])[:, None] < SIZE[0] // 2
    if epoch == 1:
        return (truth + 1) % 5
    if epoch == 2:
        return np.zeros_like(truth)
    if epoch in (3, 4):
        return np.where((truth == 0) & rows, 4, truth)
    if epoch == 5:
        return np.where((truth == 0) & rows, 0, 1)
    return np.where(truth == 0, np.where(rows, 0, 11), np.where(rows, truth, 11))


class Script(Fake):
    def trainer(self, *args: Any) -> Any:
        made = FakeTrainer(self, args[2])

        def evaluate(batch: Batch) -> tuple[np.ndarray, float]:
            assert batch.truth is not None
            epoch = made.held.step // 3
            losses = LOSSES.get(epoch, (1.0, 1.0, 1.5))
            loss = losses[int(batch.samples[0]) // 2]
            return scripted(batch.truth, epoch).astype(np.int32), loss

        made.evaluate = evaluate  # type: ignore[method-assign]  # of this trainer alone
        return made


class Streets(FakeData):
    """Training data as it is, and five images of labels to validate on."""

    def __init__(self) -> None:
        rng = np.random.default_rng(7)
        self.truth = rng.choice(
            [0, 1, 2, 3, 11], (sum(SIZES), *SIZE), p=(0.7, 0.1, 0.1, 0.05, 0.05)
        )

    def validation(self, stage: Any) -> Any:
        del stage
        for first in (0, 2, 4):
            samples = np.arange(first, min(first + 2, sum(SIZES)))
            images = np.zeros((len(samples), *SIZE, 3), np.float32)
            yield Batch(images, (), {}, samples, self.truth[samples].astype(np.int32))


def test_the_best_of_a_run(tmp_path: Path) -> None:
    """Catches the best by accuracy, by loss, the last one, the last of equals, or void forgiven."""
    data = Streets()
    assert run(tmp_path, camvid(), Script(), OPTIONS, data=data).go()
    right = [judged(data.truth, scripted(data.truth, e), 11, 12) for e in range(1, 7)]
    losses = [np.average(LOSSES.get(e, (1.0, 1.0, 1.5)), weights=SIZES) for e in range(1, 7)]
    assert np.argmax([r["accuracy"] for r in right]) == 1
    assert np.argmin(losses) == 4
    means = [r["mean_iou"] for r in right]
    best = int(np.argmax(means))  # the first of equals
    assert (best, means[3]) == (2, means[2])
    lines = [x for x in logger.read(tmp_path / "log.jsonl") if x["kind"] == "validation"]
    for key in ("accuracy", "mean_iou"):
        np.testing.assert_allclose([x[key] for x in lines], [r[key] for r in right], rtol=1e-12)
    np.testing.assert_allclose([x["score"] for x in lines], means, rtol=1e-12)
    np.testing.assert_allclose([x["mean_loss"] for x in lines], losses, rtol=1e-12)
    assert [x["best"] for x in lines] == [means[i] > max([-1, *means[:i]]) for i in range(6)]
    folder = Folder(tmp_path)
    kept, same = (checkpoints.read(folder.checkpoint(n)) for n in ("best", f"epoch-{best + 1:04}"))
    assert kept.origin.progress.best_epoch == best + 1
    assert kept.origin.progress.best == pytest.approx(means[best], rel=1e-12)
    for key, array in same.snapshot.arrays.items():
        assert kept.snapshot.arrays[key].tobytes() == array.tobytes()
    assert checkpoints.read(folder.last).origin.progress.best_epoch == best + 1


def test_the_epochs_that_are_validated(tmp_path: Path) -> None:
    """Catches a validation one epoch early or late, and a last epoch without one.

    davidtvs' loop validates where (epoch + 1) % 10 is 0, epochs counted from 0, and at the end.
    """
    every, epochs = 4, 6
    made = dataclasses.replace(camvid(), validate_every=every)
    assert run(tmp_path, made, Script(), OPTIONS, data=Streets()).go()
    lines = [x for x in logger.read(tmp_path / "log.jsonl") if x["kind"] == "validation"]
    due = [e + 1 for e in range(epochs) if (e + 1) % every == 0 or e + 1 == epochs]
    assert [x["epoch"] for x in lines] == due == [4, 6]


def test_each_stage_has_a_best_of_its_own(tmp_path: Path) -> None:
    """Catches a stage whose checkpoints must beat those of the one before it."""
    (stage,) = camvid().stages
    stages = tuple(dataclasses.replace(stage, name=name, epochs=4) for name in ("one", "two"))
    data, side = Streets(), Script()
    assert run(
        tmp_path, dataclasses.replace(camvid(), stages=stages), side, OPTIONS, data=data
    ).go()
    right = [judged(data.truth, scripted(data.truth, e), 11, 12)["mean_iou"] for e in range(1, 5)]
    lines = [x for x in logger.read(tmp_path / "log.jsonl") if x["kind"] == "validation"]
    np.testing.assert_allclose([x["score"] for x in lines], [*right, *right], rtol=1e-12)
    assert [x["best"] for x in lines] == 2 * [True, True, True, False]
    for name in ("one", "two"):
        kept = checkpoints.read(Folder(tmp_path).checkpoint(f"{name}-best")).origin.progress
        assert (kept.best_epoch, kept.epoch) == (3, 3)


class Classifier(Fake):
    """Draws logits for each image anew after every epoch; its loss is that of PyTorch."""

    def trainer(self, *args: Any) -> Any:
        import torch

        made = FakeTrainer(self, args[2])

        def evaluate(batch: Batch) -> tuple[np.ndarray, float]:
            values = logits(made.held.step)[batch.samples]
            labels = torch.from_numpy(batch.truth).long()
            loss = torch.nn.functional.cross_entropy(torch.from_numpy(values), labels)
            return values.argmax(1).astype(np.int32), loss.item()

        made.evaluate = evaluate  # type: ignore[method-assign]  # of this trainer alone
        return made


def logits(step: int) -> np.ndarray:
    """(samples, classes); the last batch, which is not full, is much worse than the others."""
    made = np.random.default_rng(step).normal(size=(10, 10))
    made[8:, 9] += 8
    return made


def test_a_classification(tmp_path: Path) -> None:
    """Catches a validation's loss as a mean of batches: it is that of all images at once."""
    (stage,) = recipe().stages
    epochs = 4
    of = recipe(dataclasses.replace(stage, epochs=epochs))
    assert run(tmp_path, of, Classifier(), OPTIONS).go()
    lines = logger.read(tmp_path / "log.jsonl")
    found = [line for line in lines if line["kind"] == "validation"]
    labels = np.arange(10) % 3
    values = [logits(3 * epoch) for epoch in range(1, epochs + 1)]
    losses = [metrics.log_loss(labels, softmax(v, 1), labels=range(10)) for v in values]
    right = [metrics.accuracy_score(labels, v.argmax(1)) for v in values]
    np.testing.assert_allclose([line["mean_loss"] for line in found], losses, rtol=1e-9)
    np.testing.assert_allclose([line["accuracy"] for line in found], right, rtol=1e-12)
    assert [line["score"] for line in found] == [line["accuracy"] for line in found]
    steps = [line["loss"] for line in lines if line["kind"] == "step"]
    means = [line["loss"] for line in lines if line["kind"] == "epoch"]
    np.testing.assert_allclose(means, np.reshape(steps, (epochs, -1)).mean(1), rtol=1e-12)


def test_accuracy_of_each_class_is_its_recall_by_scikit_learn() -> None:
    """Catches precision in place of recall, and an absent class that counts as 0."""
    from sklearn.metrics import recall_score

    task, rng = Task(("a", "b", "c", "absent")), np.random.default_rng(3)
    truth = rng.integers(0, 3, 40).astype(np.int32)
    predicted = np.where(rng.random(40) < 0.6, truth, rng.integers(0, 4, 40)).astype(np.int32)
    count = Count(task)
    count.add(Batch(np.zeros((40, 2, 2, 3)), (), {}, np.arange(40), truth), predicted, 1.0)
    found = count.score().to_dict()["accuracy_class"]
    right = recall_score(truth, predicted, labels=[0, 1, 2], average=None)
    np.testing.assert_allclose([found[name] for name in "abc"], right, rtol=1e-12)
    assert found["absent"] is None
