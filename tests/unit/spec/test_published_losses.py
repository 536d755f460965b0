"""Losses and scores, held against the published programs and against other libraries.

What no published program says is decided by PyTorch's own `CrossEntropyLoss` and scikit-learn's
confusion matrix.
"""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score

import jax_impl.losses
import torch_impl.losses
from parity.data import statistics
from parity.spec import icnet_labels, metrics, recipes
from parity.spec.training.losses import Loss
from parity.spec.training.recipe import Recipe
from parity.training.scores import Score, Task
from tests.published_training import Entry, holds

EXACT = 1e-13


def both(
    loss: Loss,
    outputs: tuple[np.ndarray, ...],
    targets: tuple[np.ndarray, ...],
    weights: np.ndarray | None,
) -> tuple[float, float]:
    """A recipe's loss by PyTorch's side and by JAX's, in float64; outputs are NCHW."""
    logits = [torch.tensor(o) for o in outputs]
    given = logits[0] if len(logits) == 1 else tuple(logits)
    scale = None if weights is None else torch.tensor(weights)
    labels = [torch.tensor(t) for t in targets]
    theirs = torch_impl.losses.training_loss(loss, given, labels, scale)
    with jax.enable_x64(True):
        last = [jnp.asarray(np.moveaxis(o, 1, -1)) for o in outputs]
        scale = None if weights is None else jnp.asarray(weights)
        ours = jax_impl.losses.training_loss(
            loss, last[0] if len(last) == 1 else tuple(last), [*map(jnp.asarray, targets)], scale
        )
        return float(theirs), float(ours)


@holds("enet/loss")
def test_cross_entropy_of_enet(entry: Entry) -> None:
    """Catches a mean over pixels in place of weights, and weights that are not applied."""
    assert entry["rule"] == (
        "default_rng(0): normal (2,20,9,11), integers 0..19 (2,9,11), uniform(1,9) (20,)"
    )
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 20, 9, 11))
    labels = rng.integers(0, 20, (2, 9, 11))
    weights = rng.uniform(1, 9, 20)
    loss = recipes.recipe("enet-cityscapes").stages[0].loss
    found = both(loss, (logits,), (labels,), weights)
    np.testing.assert_allclose(found, entry["value"], rtol=EXACT)


@holds("erfnet/iou")
def test_iou_of_erfnet(entry: Entry) -> None:
    """Catches void pixels that count, void predicted that is forgiven, and rows for columns."""
    assert entry["rule"] == (
        "default_rng(1): prediction then truth, integers 0..19 (3,1,40,50); void 19"
    )
    rng = np.random.default_rng(1)
    prediction, truth = (rng.integers(0, 20, (3, 1, 40, 50)) for _ in range(2))
    score = Score(
        Task.of(recipes.recipe("erfnet-cityscapes")),
        metrics.confusion(truth, prediction, 20),
        0.0,
        3,
    )
    np.testing.assert_allclose(score.iou, entry["per_class"].plain(), rtol=1e-12)
    np.testing.assert_allclose(score.mean_iou, entry["mean"], rtol=1e-12)


@pytest.mark.parametrize("void", [19, 0])
def test_confusion_is_scikit_learns(void: int) -> None:
    """Catches pixels of void that count, void predicted that is forgiven, an absent class as 0."""
    rng = np.random.default_rng(2)
    present = [c for c in range(20) if c not in (4, 7)]  # two are nowhere
    truth, prediction = rng.choice(present, (2, 3, 40, 50))
    prediction[truth == 9] = np.where(rng.random((truth == 9).sum()) < 0.5, 9, void)
    found = metrics.confusion(truth.astype(np.uint8), prediction.astype(np.int32), 20)
    labels = list(range(20))
    expected = confusion_matrix(truth.ravel(), prediction.ravel(), labels=labels)
    np.testing.assert_array_equal(found, expected)
    counts = truth != void
    classes = [c for c in labels if c != void]
    shares = jaccard_score(
        truth[counts], prediction[counts], labels=classes, average=None, zero_division=0
    )
    shares[[classes.index(c) for c in (4, 7)]] = np.nan
    order = "void-last" if void else "void-first"
    recipe = recipes.recipe("erfnet-cityscapes" if void else "enet-cityscapes")
    assert recipe.labels == order
    score = Score(Task.of(recipe), found, 0.0, 3)
    np.testing.assert_allclose(score.iou, shares, rtol=EXACT)
    absent = [classes.index(c) for c in (4, 7)]
    assert np.isnan(score.iou[absent]).all()
    np.testing.assert_allclose(score.mean_iou, np.nanmean(shares), rtol=EXACT)
    zero = metrics.mean_iou_absent_as_zero(metrics.iou(found, void))
    np.testing.assert_allclose(zero, np.nan_to_num(shares).mean(), rtol=EXACT)
    right = (truth == prediction)[counts].mean()
    np.testing.assert_allclose(score.accuracy, right, rtol=EXACT)


def drawn(recipe: Recipe, index: int) -> tuple[tuple, tuple]:
    """Logits of a stage's outputs and labels of all values that its loss takes."""
    stage, rng = recipe.stages[index], np.random.default_rng(3)
    config = stage.config
    if recipe.data == "cifar10":
        return (rng.normal(size=(6, 10)),), (rng.integers(0, 10, 6),)
    sizes = [(8, 12)]
    if stage.loss.kind == "icnet":
        sizes = [(32, 48), (8, 12), (4, 6), (2, 3)]
    outputs = tuple(rng.normal(size=(2, config.num_classes, *size)) for size in sizes)
    least = 0 if stage.loss.ignore_index is None else stage.loss.ignore_index
    labels = tuple(rng.integers(least, config.num_classes, (2, *s)) for s in sizes[-3:])
    return outputs, labels


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_losses_are_pytorchs(name: str) -> None:
    """Catches, in every stage of every recipe, an auxiliary weight, a void that counts, a mean.

    The class weights here are those of the published lists, or drawn where they are counted.
    """
    recipe = recipes.recipe(name)
    for index, stage in enumerate(recipe.stages):
        outputs, labels = drawn(recipe, index)
        rule, weights = stage.loss.class_weights, None
        if rule.rule == "fixed":
            weights = statistics.weights(rule, None, 19, 19, True).astype(np.float64)
        elif rule.rule == "log":
            weights = np.random.default_rng(4).uniform(1, 9, stage.config.num_classes)
            weights[0 if recipe.labels == "void-first" else -1] = 0
        torchs = None if weights is None else torch.tensor(weights)
        ignored = -1 if name.startswith("icnet") else -100
        criterion = torch.nn.CrossEntropyLoss(weight=torchs, ignore_index=ignored)
        terms = [
            criterion(torch.tensor(o), torch.tensor(t))
            for o, t in zip(outputs[-len(labels) :], labels, strict=True)
        ]
        factors = (1.0, 0.4, 0.4)
        expected = float(sum(f * t for f, t in zip(factors, terms, strict=False)))
        found = both(stage.loss, outputs, labels, weights)
        np.testing.assert_allclose(found, expected, rtol=EXACT, err_msg=stage.name)


def test_void_weighs_nothing() -> None:
    """Catches void that is learned where its weight is 0: its logits get no gradient of pixels."""
    stage = recipes.recipe("enet-cityscapes").stages[0]
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(1, 20, 4, 4)), rng.integers(0, 20, (1, 4, 4))
    weights = rng.uniform(1, 9, 20)
    weights[0] = stage.loss.class_weights.void
    found = both(stage.loss, (logits,), (labels,), weights)
    kept = labels[0] != 0
    p = torch.tensor(logits[0]).log_softmax(0).numpy()
    each = -np.take_along_axis(p, labels, 0)[0]
    w = weights[labels[0]]
    np.testing.assert_allclose(found, (w * each)[kept].sum() / w[kept].sum(), rtol=EXACT)


def test_icnets_labels_are_pytorchs() -> None:
    """Catches labels resized by another rule than the one that ICNet's loss was trained with."""
    rng = np.random.default_rng(6)
    labels = rng.integers(-1, 19, (2, 96, 160))
    # Sizes whose steps are no whole numbers, so that few results fall on a pixel of the labels.
    for size in ((25, 41), (13, 21), (7, 11)):
        resized = torch.nn.functional.interpolate(
            torch.tensor(labels[:, None], dtype=torch.float64), size, mode="bilinear",
            align_corners=True,
        )  # fmt: skip
        whole = resized[:, 0].numpy()
        found = icnet_labels.published(labels, size)
        # Where float32 rounds below a whole number, it comes to the class before it.
        safe = abs(whole - whole.round()) > 1e-4
        assert safe.mean() > 0.7, "next to nothing would be compared"
        np.testing.assert_array_equal(found[safe], np.trunc(whole[safe]).astype(int))
        near = icnet_labels.nearest(labels, size)
        rows, columns = (
            np.floor(np.arange(m) * (n - 1) / (m - 1) + 0.5).astype(int)
            for n, m in zip(labels.shape[1:], size, strict=True)
        )
        np.testing.assert_array_equal(near, labels[:, rows][:, :, columns])


def test_every_recipe_names_its_rule() -> None:
    """Catches a recipe whose classes weigh by another rule, constant or void's weight."""
    found = {
        name: {
            (s.loss.kind, s.loss.class_weights.rule, s.loss.class_weights.void, s.loss.labels)
            for s in recipe.stages
        }
        for name, recipe in recipes.RECIPES.items()
    }
    expected = {
        "enet": ("cross_entropy", "log", 0.0, "published"),
        "erfnet": ("cross_entropy", "fixed", 0.0, "published"),
        "enet-mindspore": ("cross_entropy", "fixed", 0.0, "published"),
        "icnet": ("icnet", "none", 0.0, "published"),
        "icnet-cityscapes-corrected": ("icnet", "none", 0.0, "nearest"),
        "genet": ("cross_entropy", "none", 0.0, "published"),
    }
    for name, rules in found.items():
        longest = max((k for k in expected if name.startswith(k)), key=len)
        assert rules == {expected[longest]}, name
    constants = {
        r.stages[0].loss.class_weights.c for n, r in recipes.RECIPES.items() if "enet-c" in n
    }
    assert constants == {1.02}
    assert len(list(itertools.chain(*found.values()))) == len(recipes.RECIPES)
