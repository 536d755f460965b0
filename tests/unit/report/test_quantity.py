"""What is compared is a value; its words are for people alone."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.report.report import Omission
from parity.testing import layer_of
from tests.resnet import Norm

SENTENCES = {
    Quantity(Kind.VALUES): "values",
    Quantity(Kind.OUTPUT): "output",
    Quantity(Kind.OUTPUT, index=0, mode=Mode.TRAIN): "output 0 in train mode",
    Quantity(Kind.OUTPUT, index=1, mode=Mode.TRAIN, scope=Scope.LAYER): "output 1",
    Quantity(Kind.OUTPUT, index=0, mode=Mode.EVAL, scope=Scope.LAYER): "output 0 in eval mode",
    Quantity(
        Kind.OUTPUT, index=0, mode=Mode.TRAIN, scope=Scope.ONLY_LAYER
    ): "output 0 in train mode (whole)",
    Quantity(Kind.INPUT_GRADIENT, index=0): "gradient of input 0",
    Quantity(Kind.PARAMETER_GRADIENT, "conv.kernel"): "gradient of conv.kernel",
    Quantity(Kind.STATISTIC, "mean", mode=Mode.TRAIN): "mean after a step",
    Quantity(Kind.STATISTIC, "mean", mode=Mode.TRAIN, scope=Scope.LAYER): "mean after",
    Quantity(Kind.LOSS): "loss",
    Quantity(Kind.LOSS, step=3): "loss of step 3",
    Quantity(Kind.LOSSES, step=3): "losses of 3 steps",
    Quantity(Kind.STEP, "bias", step=2): "step 2 of bias",
    Quantity(Kind.DECAY_STEP, "bias"): "step without gradient of bias",
    Quantity(Kind.DECAY_STEP, step=0): "step without gradient",
    Quantity(Kind.PARAMETER_GRADIENT): "gradient of parameters",
    Quantity(Kind.STATE, "bias", step=1): "bias after 1 step",
    Quantity(Kind.STATE, "bias", step=50): "bias after 50 steps",
    Quantity(Kind.LEARNING_RATE): "learning rate",
    Quantity(Kind.LEARNING_RATE, step=74250): "learning rate of 74,250 steps",
    Quantity(Kind.LOSS_FUNCTION, "ICNet's"): "ICNet's: loss",
    Quantity(Kind.LOGITS_GRADIENT, "ICNet's", 2): "ICNet's: gradient of logits 2",
    Quantity(Kind.INITIAL, "weight", detail="held by jax"): "initial weight, held by jax",
    Quantity(Kind.BATCH, "images"): "images, as handed",
    Quantity(Kind.BATCH, "images", step=3): "images, as handed up to step 3",
    Quantity(
        Kind.STATE, "bias", step=1, detail="one on 2, ddp"
    ): "bias after 1 step; one on 2, ddp",
}


def test_every_kind_has_its_sentence() -> None:
    """Catches a report whose words change, or two quantities that read the same."""
    assert {q: str(q) for q in SENTENCES} == SENTENCES
    assert {q.kind for q in SENTENCES} == set(Kind)
    assert len(set(map(str, SENTENCES))) == len(SENTENCES)
    assert len(sorted(SENTENCES)) == len(SENTENCES)


def test_the_kernel_beside_a_bias() -> None:
    """Catches a bias measured by another layer's kernel, or by another step's."""
    step = Quantity(Kind.STEP, "inner.bias", step=2)
    assert step.sibling("kernel") == dataclasses.replace(step, path="inner.kernel")
    assert (step.parameter, step.leaf) == ("inner.bias", "bias")
    assert not Quantity(Kind.STATISTIC, "mean").parameter


class Network(nnx.Module):
    """A convolution and a batch norm with another eps."""

    def __init__(self) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), padding=1, rngs=nnx.Rngs(0))
        self.norm = Norm(4, rngs=nnx.Rngs(0))
        self.norm.epsilon = 1e-3

    def __call__(self, x: Any) -> Any:
        return self.norm(self.conv(x))


class Reference(nn.Module):
    """The reference, with PyTorch's settings."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


RULES = (
    (r"conv\.weight", "conv.kernel", (2, 3, 1, 0)),
    (r"norm\.weight", "norm.scale"),
    (r"norm\.running_(mean|var)", r"norm.\1"),
    (r"(.*\.bias)", r"\1"),
)


def judged() -> dict[str, Any]:
    """A report of a port with faults, without its words."""
    torch.manual_seed(0)
    port = Port(
        Reference(),
        Network(),
        inputs=(2, 5, 5, 3),
        weights=RULES,
        optimizers=(lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.2)),
        steps=2,
    )
    report = check(port)
    found: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    named = report.fault()
    found["fault kind"] = named and named.quantity.kind
    for entry in (*found["checks"], *found["left_out"], found["first_failure"]):
        del entry["quantity"]
    del found["first_failure"]["message"]
    del found["seconds"]
    return found


def test_words_decide_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches code that reads a quantity's sentence back: reworded, all verdicts stay."""
    before = judged()
    failed = {c["rung"] for c in before["checks"] if not c["ok"]}
    assert {"L1", "L2", "L4", "L5"} <= failed
    assert any("eps 0.001" in cause for cause in before["causes"]), before["causes"]
    assert any(c["isolated"] is not None for c in before["checks"])
    monkeypatch.setattr(Quantity, "__str__", lambda q: f"words {hash(q):x}")
    after = judged()
    assert after["causes"] == before["causes"]
    for one, other in zip(after["checks"], before["checks"], strict=True):
        np.testing.assert_equal(one, other)
    np.testing.assert_equal(after, before)


def test_faults_have_names_and_keep_their_numbers() -> None:
    """Catches a fault that is renumbered: reports of other versions name them by number."""
    known = {2: Fault.BATCH_NORM_EPS, 9: Fault.KERNEL_AXES, 33: Fault.SCHEDULE_OFFSET}
    assert {CATALOGUE[fault].number: fault for fault in known.values()} == known


@pytest.mark.parametrize(
    ("quantity", "reference"),
    [
        (Quantity(Kind.OUTPUT), "block.conv#2"),
        (Quantity(Kind.PARAMETER_GRADIENT, "bias"), "block.conv.bias"),
    ],
)
def test_what_was_left_out_belongs_to_its_layer(quantity: Quantity, reference: str) -> None:
    """Catches a generated test of a layer that passes over what was not compared of it."""
    assert layer_of(Omission("L3", "c", reference, quantity, "no reason")) == "block.conv"
