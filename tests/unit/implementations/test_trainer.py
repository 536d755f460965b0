"""Training step by step: both sides alike, repeatable, restored bit for bit, guarded."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest

from parity.model_checks.small_networks import small
from parity.spec.errors import InputError
from parity.spec.training.optimizers import Group, Optimizer, idle, parameters
from parity.spec.training.scaling import FIRST, PATIENCE, LossScale
from parity.spec.training.trainer import Batch, Snapshot
from tests.training import ADAM, SGD, SIDES, all_of, batch, published, same, trainer
from weights_convert import naming

LOUD = 1000.0
side_of = pytest.mark.parametrize("side", SIDES)
HEAD = dataclasses.replace(SGD, groups=(Group(("conv_sub1.", "head."), 10.0),))
ALIKE = {
    "enet": ADAM,
    "erfnet": ADAM,
    "erfnet-encoder": ADAM,
    "enet-mindspore-encoder": dataclasses.replace(ADAM, decay="not-norms", eps_hat=True),
    "genet": SGD,
    "icnet": HEAD,
}


def rate(optimizer: Optimizer, i: int) -> float:
    return optimizer.lr * (1.0 if i < 5 else 0.1)


def trained(made: Any, model: str, steps: range, optimizer: Optimizer) -> list[float]:
    """The losses of so many steps."""
    results = [made.step(batch(model, i), rate(optimizer, i)) for i in steps]
    assert not any(r.fault or r.skipped for r in results)
    return [r.loss for r in results]


def apart(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The largest relative difference of a tensor; of one number or a few, against at least 1e-3.

    A moment of a gradient that is 0 but for rounding is compared with what its eps makes of it.
    """
    assert a.keys() == b.keys()
    return max(np.linalg.norm(a[k] - b[k]) / max(np.linalg.norm(b[k]), 1e-3) for k in a)


@pytest.mark.parametrize("model", ALIKE)
def test_both_sides_train_alike(model: str) -> None:
    """Catches any difference in a step: in float64, through a drop of the rate, of 10 steps.

    And fault 31: decay, or an update, of parameters that the network holds and does not use.
    """
    found, losses = {}, {}
    keys = parameters(small(model, least=True)[0])
    unused = idle(small(model, least=True)[0], keys)
    assert bool(unused) == model.startswith("erfnet")
    for side in SIDES:
        made = trainer(side, model, ALIKE[model], "fp64")
        before = all_of(side, model, made.snapshot())
        losses[side] = trained(made, model, range(10), ALIKE[model])
        found[side] = all_of(side, model, made.snapshot())
        for key in keys:
            assert np.array_equal(before[key], found[side][key]) == (key in unused), key
            moment = f"{ALIKE[model].slots[0]} {key}"
            assert (moment in found[side]) == (key not in unused), key
        classes, value = made.evaluate(batch(model, 0))
        found[side]["classes"], found[side]["value"] = classes, np.array(value)
    np.testing.assert_allclose(losses["jax"], losses["torch"], rtol=1e-9)
    assert apart(found["jax"], found["torch"]) <= 1e-9
    assert all(found["jax"][k].dtype == found["torch"][k].dtype for k in found["torch"])


@side_of
@pytest.mark.parametrize("model", ["enet", "genet"])
def test_a_run_repeats_and_goes_on(side: str, model: str) -> None:
    """Catches a step that depends on memory or chance, and a snapshot that lacks something."""
    optimizer = ALIKE[model]
    one, other = (trainer(side, model, optimizer) for _ in range(2))
    trained(one, model, range(3), optimizer)
    middle = one.snapshot()
    kept = all_of(side, model, middle)
    kept = {k: a.copy() for k, a in kept.items()}
    losses = trained(one, model, range(3, 7), optimizer)
    trained(other, model, range(7), optimizer)
    assert same(one.snapshot(), other.snapshot())
    assert all(np.array_equal(kept[k], a) for k, a in all_of(side, model, middle).items())
    for restored in (other, trainer(side, model, optimizer)):
        restored.restore(middle)
        assert same(restored.snapshot(), middle)
        assert trained(restored, model, range(3, 7), optimizer) == losses
        assert same(restored.snapshot(), one.snapshot())


@side_of
def test_back_to_the_beginning(side: str) -> None:
    """Catches moments that stay when a run begins again."""
    made = trainer(side, "genet", SGD)
    first = made.snapshot()
    assert (first.step, first.slots) == (0, {})
    losses = trained(made, "genet", range(3), SGD)
    made.restore(first)
    assert trained(made, "genet", range(3), SGD) == losses


@side_of
def test_evaluation_leaves_no_trace(side: str) -> None:
    """Catches statistics that validation moves."""
    made = trainer(side, "enet", ADAM)
    trained(made, "enet", range(2), ADAM)
    before = made.snapshot()
    classes, loss = made.evaluate(batch("enet", 0))
    assert same(before, made.snapshot())
    assert classes.dtype == np.int32
    assert classes.shape == batch("enet", 0).images.shape[:3]
    assert math.isfinite(loss)


@pytest.mark.parametrize("first", SIDES)
def test_the_other_side_goes_on(first: str) -> None:
    """Catches state that does not cross: 5 steps here and 5 there are 10 steps here."""
    model, second = "enet", SIDES[first == "torch"]
    one, other = (trainer(side, model, ADAM, "fp64") for side in (first, second))
    trained(one, model, range(5), ADAM)
    middle = one.snapshot()
    names = naming.names(small(model, least=True)[0], "jax")

    def across(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if second == "torch":
            return published("jax", model, arrays)
        return {n: leaf.array(arrays[key]) for n, (key, leaf) in names.items() if key in arrays}

    slots = {slot: across(arrays) for slot, arrays in middle.slots.items()}
    other.restore(Snapshot(across(middle.arrays), slots, middle.step))
    trained(one, model, range(5, 10), ADAM)
    trained(other, model, range(5, 10), ADAM)
    a, b = all_of(first, model, one.snapshot()), all_of(second, model, other.snapshot())
    assert apart(a, b) <= 1e-9


def with_nan(given: Batch) -> Batch:
    images = given.images.copy()
    images[0, 3, 3, 1] = np.nan
    return given._replace(images=images)


@side_of
def test_a_loss_that_is_not_finite(side: str) -> None:
    """Catches weights or statistics that a bad step has touched."""
    made, clean = (trainer(side, "enet", ADAM) for _ in range(2))
    for i in range(2):
        made.step(batch("enet", i), ADAM.lr)
        clean.step(batch("enet", i), ADAM.lr)
    result = made.step(with_nan(batch("enet", 2)), ADAM.lr)
    assert result.fault == "the loss is nan"
    assert same(made.snapshot(), clean.snapshot())
    assert trained(made, "enet", range(3, 5), ADAM) == trained(clean, "enet", range(3, 5), ADAM)
    assert same(made.snapshot(), clean.snapshot())


@side_of
def test_a_gradient_that_is_not_finite(side: str) -> None:
    """Catches a run that goes on with infinite weights, or a report that does not say where."""
    made = trainer(side, "genet", SGD, louder=LOUD, loss_scale=3e38)
    before = made.snapshot()
    result = made.step(batch("genet", 0), SGD.lr)
    name = {"torch": "conv1.weight", "jax": "conv1.kernel"}[side]
    assert re.fullmatch(rf"gradient of {name}: [1-9]\d* of 432 are not finite", result.fault)
    assert math.isfinite(result.loss)
    assert not result.skipped
    assert same(made.snapshot(), before)


def test_a_dynamic_scale_falls_alike() -> None:
    """Catches a skipped step that changes more than the scale, and sides that skip otherwise."""
    scales = {}
    for side in SIDES:
        made = trainer(side, "genet", SGD, louder=LOUD, loss_scale="dynamic")
        before = made.snapshot()
        assert before.scale == FIRST
        made.restore(dataclasses.replace(before, scale=2.0**127, good=7))
        results = [made.step(batch("genet", 0), 0.0) for _ in range(12)]
        scales[side] = [(r.skipped, r.scale) for r in results]
        assert not any(r.fault for r in results)
        first = next(i for i, r in enumerate(results) if not r.skipped)
        assert first > 0
        after = made.snapshot()
        assert (after.step, after.good) == (12 - first, 12 - first)
        assert after.scale == 2.0 ** (127 - first)
    assert scales["torch"] == scales["jax"]


@side_of
def test_a_skipped_step_changes_nothing_else(side: str) -> None:
    """Catches statistics, moments or counters that move with an overflow."""
    made = trainer(side, "genet", SGD, louder=LOUD, loss_scale="dynamic")
    assert not any(made.step(batch("genet", i), SGD.lr).skipped for i in range(2))
    before = dataclasses.replace(made.snapshot(), scale=2.0**127, good=5)
    made.restore(before)
    assert made.step(batch("genet", 2), SGD.lr).skipped
    after = made.snapshot()
    assert (after.scale, after.good) == (2.0**126, 0)
    assert same(dataclasses.replace(after, scale=before.scale, good=5), before)


@pytest.mark.parametrize("scale", [32.0, 128.0])
def test_a_static_scale_is_taken_away_again(scale: float) -> None:
    """Catches a scale that is folded into the gradients: powers of two change no bit."""
    for side in SIDES:
        plain, scaled = trainer(side, "genet", SGD), trainer(side, "genet", SGD, loss_scale=scale)
        trained(plain, "genet", range(3), SGD)
        trained(scaled, "genet", range(3), SGD)
        assert same(plain.snapshot(), dataclasses.replace(scaled.snapshot(), scale=1.0))


def test_rule_of_the_loss_scale() -> None:
    """Catches another patience, factor or floor."""
    scale = LossScale.of("dynamic")
    for _ in range(PATIENCE - 1):
        assert scale.outcome(1.0).scale == FIRST
    assert scale.outcome(1.0).scale == 2 * FIRST
    assert scale.good == 0
    scale = LossScale(2.0, dynamic=True, good=3)
    assert scale.outcome(1.0, "x") == LossScale(1.0).outcome(1.0).__class__(1.0, "", True, 1.0)
    assert scale.outcome(1.0, "x").fault == "x"
    assert LossScale.of("dynamic").outcome(math.inf, "x").fault == "the loss is inf"
    assert LossScale.of(8.0).outcome(1.0, "x").fault == "x"
    assert LossScale.of(None).outcome(1.0).scale == 1


@side_of
def test_snapshots_that_are_refused(side: str) -> None:
    """Catches a checkpoint of another network or optimizer that is taken, or half of one."""
    made = trainer(side, "genet", SGD)
    trained(made, "genet", range(2), SGD)
    good = made.snapshot()
    name, *rest = good.arrays
    few = {k: good.arrays[k] for k in rest}
    moments = {"exp_avg": good.slots["momentum_buffer"]}
    less = {"momentum_buffer": dict(list(good.slots["momentum_buffer"].items())[1:])}
    wrong = good.arrays | {name: np.zeros(7, np.float32)}
    for change, match in (
        ({"arrays": few}, f"{name} is missing"),
        ({"arrays": good.arrays | {"more": np.zeros(1)}}, "more is not expected"),
        ({"arrays": wrong}, f"{name} is 7, expected"),
        ({"slots": moments}, "state is exp_avg, expected momentum_buffer"),
        ({"slots": {}}, "state is nothing, expected momentum_buffer"),
        ({"slots": less}, "snapshot, momentum_buffer: 1 tensor does not match"),
    ):
        with pytest.raises(InputError, match=match):
            made.restore(dataclasses.replace(good, **change))
        assert same(made.snapshot(), good)


@side_of
def test_callers_arrays_stay(side: str) -> None:
    """Catches a step that writes into what it was given: weights, batch or snapshot."""
    made = trainer(side, "genet", SGD)
    first = made.snapshot()
    copy = {k: a.copy() for k, a in first.arrays.items()}
    made.restore(first)
    images = batch("genet", 0).images.copy()
    trained(made, "genet", range(3), SGD)
    assert all(np.array_equal(first.arrays[k], copy[k]) for k in copy)
    assert np.array_equal(images, batch("genet", 0).images)
