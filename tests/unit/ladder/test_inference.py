"""Inference checks: ports that are never trained."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.cli import main
from parity.spec.errors import InputError
from parity.testing import ladder

Capture = pytest.CaptureFixture[str]
ROOT = Path(__file__).parents[3]
LINE = "inference check: train mode was not compared"


class Frozen(nnx.Module):
    """Flax's batch norm with the statistics it was given, and other rules for their updates."""

    def __init__(self, epsilon: float = 1e-5) -> None:
        rngs = nnx.Rngs(0)
        self.c = nnx.Conv(3, 4, (1, 1), rngs=rngs)
        self.n = nnx.BatchNorm(4, epsilon=epsilon, use_running_average=True, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n(self.c(x))


def port() -> Port:
    return Port(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        Frozen(),
        inputs=(4, 6, 6, 3),
        weights=[
            (r"0\.weight", "c.kernel", (2, 3, 1, 0)),
            (r"0\.bias", "c.bias"),
            (r"1\.weight", "n.scale"),
            (r"1\.bias", "n.bias"),
            (r"1\.running_(.*)", r"n.\1"),
        ],
        optimizers=(lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1)),
    )


def inference(**changes: object) -> Port:
    return dataclasses.replace(port(), train=False, **changes)


def test_an_inference_port_passes_and_the_report_says_what_it_is(tmp_path: Path) -> None:
    """Catches an inference port that is refused for how it would train, or passes as trained."""
    report = check(inference())
    report.assert_faithful()
    assert report.unseen == [LINE]
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2"}
    assert {str(c.quantity) for c in report.checks} == {"values", "output 0 in eval mode"}
    assert f"NOT SEEN {LINE}" in str(report)
    report.to_json(tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["inference"] is True
    report.to_html(tmp_path / "r.html")
    assert LINE in (tmp_path / "r.html").read_text()


def test_a_trained_check_of_it_fails_and_tells_the_way() -> None:
    """Catches statistics that never move passed as right, or an author left alone with them."""
    report = check(port(), levels=("L0", "L1", "L2"))
    assert {str(c.quantity) for c in report.failures()} >= {"mean after a step", "var after a step"}
    assert any("Port(train=False) or --eval" in note for note in report.notes)
    wrong = dataclasses.replace(port(), port=Frozen(1e-3))
    assert not any("train=False" in n for n in check(wrong, levels=("L1", "L2")).notes)


def test_a_wrong_inference_port_fails() -> None:
    """Catches an inference check that compares nothing."""
    report = check(inference(port=Frozen(epsilon=1e-3)))
    assert {(c.rung, c.layer) for c in report.failures()} >= {("L1", "n"), ("L2", "n")}


class Raises(nn.BatchNorm2d):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training, "trained"
        return super().forward(x)


def test_nothing_runs_in_train_mode() -> None:
    """Catches an inference check that needs what only training has."""

    def eval_only(params: dict, x: jax.Array, train: bool) -> jax.Array:
        assert not train
        # Reverse-mode differentiation refuses a loop of unknown length.
        return jax.lax.while_loop(lambda y: jnp.any(y > 9), lambda y: y / 2, x) * params["s"]

    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s = nn.Parameter(torch.ones(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            return x * self.s

    modes = ({"train": False}, {"train": True})
    looped = Port(Loop(), eval_only, (2, 3), params={"s": jnp.ones(3)}, modes=modes, train=False)
    check(looped).assert_faithful()
    check(inference(reference=nn.Sequential(nn.Conv2d(3, 4, 1), Raises(4)))).assert_faithful()


def test_rungs_of_training_are_no_part_of_it() -> None:
    """Catches tests of gradients that can only fail, and a rung that passes without comparing."""
    (mark,) = ladder(inference).pytestmark  # type: ignore[attr-defined] # pytest's own
    names = {case.id for case in mark.args[1]}
    assert {name[:2] for name in names} == {"L0", "L1", "L2"}
    assert not check(inference(), levels=("L3",)).ok
    with pytest.raises(InputError, match="train is 1, expected True or False"):
        inference().__class__(nn.Identity(), lambda p, x: x, (1,), params={}, train=1)  # type: ignore[arg-type] # what is refused


def test_command_line(tmp_path: Path, capsys: Capture) -> None:
    """Catches an option that is ignored, and one that our own networks would silently pass."""
    path = tmp_path / "mine.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.unit.ladder.test_inference import port\n"
    )
    found = tmp_path / "r.json"
    assert main(["check", f"{path}:port", "--levels", "L0,L1,L2"]) == 1
    capsys.readouterr()
    assert main(["check", f"{path}:port", "--eval", "--json", str(found)]) == 0
    assert LINE in capsys.readouterr().out
    written = json.loads(found.read_text())
    assert written["inference"]
    assert written["unseen"] == [LINE]
    assert main(["check", "enet", "--eval"]) == 2
    assert "--eval is for a pair of your own" in capsys.readouterr().err
