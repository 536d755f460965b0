"""What a report says first: where to look, and what the chosen rungs cannot have seen."""

from __future__ import annotations

import io
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from parity import Port, check
from parity.report.quantity import Kind, Quantity, Scope
from parity.report.report import Check, Omission, Report


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


def failing(layers: int) -> Report:
    """A report in which two quantities of each layer failed in both precisions."""
    report = Report("net", "float32", seconds={"L1": 1.0})
    for layer in range(layers):
        for kind in ("numerics", "structure"):
            for index in (0, 1):
                quantity = Quantity(Kind.OUTPUT, index=index, scope=Scope.LAYER)
                name = f"layer{layer}"
                report.checks.append(Check("L1", kind, name, name, quantity, 1.0, 1e-10))
    return report


def test_a_layer_fails_in_one_line() -> None:
    """Catches a screen full of one layer's failures, and failures that are not counted."""
    lines = [line for line in str(failing(7)).splitlines() if "differs" in line]
    assert lines == [
        f"L1 structure: layer{i}: output 0: differs by 1, limit 1e-10; also output 1"
        for i in range(5)
    ]
    assert "... and 2 more (--verbose prints all 28 failures)" in str(failing(7))
    text = io.StringIO()
    failing(7).print(Console(file=text, width=80), verbose=True)
    assert sum("differs by 1" in line for line in text.getvalue().splitlines()) == 28


def test_a_layer_in_another_note_is_still_said_to_be_left_out() -> None:
    """Catches a layer that was not compared, hidden since a note on something else names it."""
    kept = [Omission("L1", name, name, Quantity(Kind.OUTPUT), "left out") for name in "ab"]
    notes = ["not fed alone: b takes two inputs", "the port computes in float32 inside: a"]
    found = str(Report("net", "float32", notes=notes, left_out=kept, noted={"b"}))
    assert "L1 not compared: a:" in found
    assert "L1 not compared: b:" not in found
