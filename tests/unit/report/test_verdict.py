"""What a report says first: where to look, and what the chosen rungs cannot have seen."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from parity import Port, check
from parity.report.quantity import Kind
from parity.report.report import Report


def port(slip: float = 1.0, loss: float = 1.0) -> Port:
    """A network of two layers and a loss; either may be wrong by a factor."""
    torch.manual_seed(0)
    names = [(r"0\.weight", "v", (1, 0)), (r"1\.weight", "w", (1, 0))]

    def run(p: dict, x: jax.Array) -> jax.Array:
        return (x @ p["v"]) @ p["w"] * slip

    def theirs(y: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((y - target) ** 2).mean()

    def ours(y: Any, target: Any) -> Any:
        return loss * jnp.mean((y - target) ** 2)

    return Port(
        nn.Sequential(nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)),
        run,
        params={"v": jnp.zeros((5, 5)), "w": jnp.zeros((5, 5))},
        inputs=(3, 5),
        weights=names,
        losses=(theirs, ours),
        targets=(np.ones((3, 5), np.float32),),
    )


@pytest.mark.parametrize("levels", [("L0", "L1", "L2", "L3"), ("L3",)])
def test_a_wrong_loss_is_named_and_not_a_layer(levels: tuple[str, ...]) -> None:
    """Catches a loss that is wrong by itself, reported as a fault of the first layer."""
    report = check(port(loss=1.5), levels)
    fault = report.fault()
    assert fault is not None
    assert (fault.rung, fault.quantity.kind) == ("L3", Kind.LOSS)
    assert "look at the loss first" in str(report)
    assert report.to_dict()["fault"] == "the loss"
    assert len(report.failures()) > 2  # its gradients are wrong too


def test_a_loss_of_wrong_outputs_is_not_blamed() -> None:
    """Catches a loss that is named although it was given something else."""
    report = check(port(slip=1.5), ("L3",))
    fault = report.fault()
    assert fault is not None
    assert fault.quantity.kind is not Kind.LOSS
    assert any(c.quantity.kind is Kind.LOSS for c in report.failures())


def said(*levels: str) -> list[str]:
    return check(port(), levels).unseen


def test_what_the_chosen_rungs_cannot_see_is_said() -> None:
    """Catches a pass of some rungs that reads like a pass of all."""
    report = check(port(), ("L1",))
    line = "L1 alone does not see what happens between layers: run L2"
    assert report.ok
    assert line in report.unseen
    assert f"NOT SEEN {line}" in str(report)
    assert line in report.to_dict()["unseen"]
    assert said("L0", "L1", "L2") == ["L0, L1, L2 do not see the loss and the gradients: run L3"]
    assert said("L0", "L3") == ["L0, L3 do not see what happens in eval mode: run L2"]
    assert said("L0", "L2", "L3") == []
    assert Report("training", "float64").unseen == []


def test_what_was_not_seen_is_on_the_page(tmp_path: Any) -> None:
    """Catches a page that a reader takes for the whole ladder."""
    path = tmp_path / "report.html"
    check(port(), ("L1",)).to_html(path)
    assert "not seen: L1 alone does not see what happens between layers" in path.read_text()
