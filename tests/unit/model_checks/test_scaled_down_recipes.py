"""L4 of the project's own networks and `parity drift`: sound they pass, and each fault is found."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jax_impl.losses
from parity.cli import main
from parity.faults import staged
from parity.model_checks import drift
from parity.model_checks.drift import Drift, Ulp
from parity.model_checks.recipes import losses, schedules
from parity.spec.recipes import RECIPES
from parity.spec.training.schedules import Schedule
from parity.spec.training.trainer import Batch


@pytest.mark.parametrize("name", RECIPES)
def test_rates_are_those_of_both_libraries(name: str) -> None:
    """Catches a rate of any step of any recipe that torch's or optax's own schedule has not."""
    checks = schedules.checks(RECIPES[name])
    assert len(checks) == 2 * len(RECIPES[name].stages)
    assert not [check.sentence() for check in checks if not check.ok]


@pytest.mark.parametrize("name", ["enet-camvid", "icnet-cityscapes", "icnet-ascend"])
def test_a_rate_that_comes_late_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a comparison of rates that passes whatever they are."""
    sound = Schedule.factor

    def late(self: Schedule, epoch: int, step: int, steps: int) -> float:
        return sound(self, max(0, epoch - 1), step, steps)

    monkeypatch.setattr(Schedule, "factor", late)
    assert not any(check.ok for check in schedules.checks(RECIPES[name]))


def test_losses_are_alike() -> None:
    """Catches a variant of the loss, or its gradient, that differs between the sides."""
    checks = losses.checks()
    assert len(checks) >= 2 * len(losses.VARIANTS)
    assert not [check.sentence() for check in checks if not check.ok]


def test_a_loss_divided_by_pixels_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches fault 11 unseen: a weighted sum divided by the number of pixels."""
    sound = jax_impl.losses.training_loss

    def divided(loss, logits, targets, weights, *rest):  # type: ignore[no-untyped-def]  # as it is
        value = sound(loss, logits, targets, weights, *rest)
        if weights is None:
            return value
        counted = jnp.ones_like(targets[0]) if loss.ignore_index is None else None
        if counted is None:
            counted = targets[0] != loss.ignore_index
        given = jnp.where(counted, weights[jnp.where(counted, targets[0], 0)], 0)
        return value * given.sum() / counted.sum()

    monkeypatch.setattr(jax_impl.losses, "training_loss", divided)
    failed = {check.quantity.path for check in losses.checks() if not check.ok}
    assert failed == {name for name, (_, weighted, _) in losses.VARIANTS.items() if weighted}


def test_faults_of_initial_weights_are_named() -> None:
    """Catches weights drawn from another law unseen, or another cause named for them."""
    rows = [row for row in staged.rows("enet-camvid") if row.number in (19, 38)]
    assert {row.number for row in rows} == {19, 38}
    assert all(row.killed and row.right and not row.wrong for row in rows)
    assert all(row.proved for row in rows if row.number == 19)


def test_images_change_by_one_unit_in_the_last_place() -> None:
    """Catches a change that is larger, or that leaves a pixel as it was."""
    images = np.random.default_rng(0).random((2, 4, 6, 3), np.float32)
    batch = Batch(images, (), {}, np.arange(2))
    other = Ulp(0)(batch).images
    steps = other.view(np.int32) - images.view(np.int32)
    assert set(np.unique(steps)) == {-1, 1}
    assert not np.array_equal(other, Ulp(1)(batch).images)


def test_sides_that_part_faster_fail() -> None:
    """Catches a verdict that does not look at every step, or takes the wrong side's distance."""
    slow, fast = np.full(5, 1e-7), np.full(5, 2e-7)
    sound = Drift("x", np.full(5, 3.1e-6), {"torch": slow, "jax": fast})
    assert sound.ok
    once = np.array([1e-7, 1e-7, 3.3e-6, 1e-7, 1e-7])
    assert not dataclasses.replace(sound, between=once).ok


def test_drift_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a command that measures nothing, or writes no picture."""
    svg, file = tmp_path / "d.svg", tmp_path / "d.json"
    run = ["drift", "genet-cifar10", "--steps", "3", "--changes", "1", "--svg", str(svg)]
    assert main([*run, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert all(0 < d < 1e-4 for d in found["between"] + found["within"]["torch"])
    assert svg.read_text().count("step 3: ") == 3
    assert "PASSED" in capsys.readouterr().out


def test_another_rate_makes_sides_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a measure that would pass a port that trains otherwise: a rate 1 % off."""
    sound = drift.TrainedSide.rates

    def rates(self: drift.TrainedSide) -> list[float]:
        factor = 1.01 if self.side.framework == "jax" else 1.0
        return [factor * rate for rate in sound(self)]

    monkeypatch.setattr(drift.TrainedSide, "rates", rates)
    assert not drift.measure(RECIPES["genet-cifar10"], 3, 1).ok


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing"),
        (["genet-cifar10", "--steps", "0"], "steps 0, expected 1 or more"),
        (["genet-cifar10", "--changes", "0"], "changes 0, expected 1 or more"),
        (["genet-cifar10", "--svg", "/no/such/folder/x.svg"], "/no/such/folder"),
    ],
)
def test_bad_input(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches minutes of work before a file that cannot be written is refused."""
    assert main(["drift", *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_two_pixels_are_equal_where_sides_part() -> None:
    """Catches even areas, where a unit decides which pixel max-pooling takes."""
    batch = Batch(np.zeros((2, 8, 8, 3), np.float32), (), {}, np.arange(2))
    found = drift.noisy(batch).images
    assert len(np.unique(found)) > 0.99 * found.size
    assert 0 < np.abs(found).max() <= drift.NOISE
    assert np.array_equal(found, drift.noisy(batch).images)
