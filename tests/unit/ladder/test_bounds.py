"""A bounded check compares what it was asked for, leaves the rest out, and says how much it was."""

from __future__ import annotations

import dataclasses
import importlib.resources
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from xml.etree import ElementTree

import jax
import jsonschema
import optax
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, Report, check
from parity.ladder import runs as ladder_runs
from parity.ladder.bounds import Bounds
from parity.ladder.layer_alone import Layers
from parity.ladder.runs import Runs
from parity.report import formats
from parity.report.page import page
from parity.report.source import NO_LINE
from parity.testing import ladder

ALIKE = 3  # blocks
EVERY = ("L0", "L1", "L2", "L3")


class Block(nn.Module):
    """A linear layer and a norm, and a way past them."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.fc, self.norm = nn.Linear(6, 6), nn.LayerNorm(6, eps=eps)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norm(torch.tanh(self.fc(x)))


class Net(nn.Module):
    """Blocks that are alike, and a last one whose norm is not."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1e-5) for _ in range(ALIKE)] + [Block(1e-3)])
        self.head = nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x * self.scale)


class PortedBlock(nnx.Module):
    def __init__(self, epsilon: float, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(6, 6, rngs=rngs)
        self.normalise = nnx.LayerNorm(6, epsilon=epsilon, use_fast_variance=False, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.normalise(jax.numpy.tanh(self.dense(x)))


class Ported(nnx.Module):
    """The port of `Net`; `wrong` is the number of the block with another epsilon."""

    def __init__(self, wrong: int | None = None) -> None:
        rngs = nnx.Rngs(0)
        epsilons = [1e-5] * ALIKE + [1e-3]
        if wrong is not None:
            epsilons[wrong] = 1e-2
        self.units = nnx.List(PortedBlock(epsilon, rngs) for epsilon in epsilons)
        self.last = nnx.Linear(6, 2, rngs=rngs)
        self.factor = nnx.Param(jax.numpy.ones(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        for unit in self.units:
            x = unit(x)
        return self.last(x * self.factor[...])


RULES: list = [
    (r"blocks\.(\d+)\.fc\.weight", r"units.\1.dense.kernel", (1, 0)),
    (r"blocks\.(\d+)\.fc\.bias", r"units.\1.dense.bias"),
    (r"blocks\.(\d+)\.norm\.weight", r"units.\1.normalise.scale"),
    (r"blocks\.(\d+)\.norm\.bias", r"units.\1.normalise.bias"),
    (r"head\.weight", "last.kernel", (1, 0)),
    (r"head\.bias", "last.bias"),
    ("scale", "factor"),
]
ADAM = (lambda m: torch.optim.Adam(m.parameters(), 1e-3), optax.adam(1e-3))


def reference() -> Net:
    torch.manual_seed(0)
    return Net()


def port(wrong: int | None = None, **changes: Any) -> Port:
    made = Port(reference(), Ported(wrong), (3, 6), weights=RULES, name="bounded")
    return dataclasses.replace(made, **changes)


def right() -> Port:
    return port()


def seen(report: Report, *rungs: str) -> set[tuple[str, ...]]:
    """What was compared: rung, kind, layer, quantity."""
    checks = [c for c in report.checks if not rungs or c.rung in rungs]
    return {(c.rung, c.kind, c.layer, str(c.quantity)) for c in checks}


@pytest.fixture(scope="module")
def whole() -> Report:
    report = check(port(optimizers=ADAM))
    report.assert_faithful()
    return report


@pytest.fixture(scope="module")
def named() -> Report:
    return check(port(optimizers=ADAM), layers="units.1.*")


@pytest.fixture(scope="module")
def sampled() -> Report:
    return check(port(), EVERY, sample=1)


def test_layers_of_a_name_are_compared_as_in_the_whole(whole: Report, named: Report) -> None:
    """Catches a layer that a pattern asks for and that is left out, or compared otherwise."""
    named.assert_faithful()
    assert not whole.bounds
    inside = {"units.1.dense", "units.1.normalise", "(network)"}
    of_layers = {c for c in seen(whole) if c[2] in inside and "factor" not in c[3]}
    weights = seen(whole, "L0")
    assert seen(named) == of_layers | weights
    assert {rung for rung, *_ in seen(named)} == {"L0", "L1", "L2", "L3", "L4", "L5"}
    errors = {
        (c.rung, c.layer, str(c.quantity)): c.error for c in whole.checks if c.kind == "structure"
    }
    for c in named.checks:
        if c.kind == "structure":
            found, expected = c.error, errors[c.rung, c.layer, str(c.quantity)]
            assert abs(found - expected) < 1e-13, c


def test_outputs_and_losses_are_compared_whole(named: Report) -> None:
    """Catches a bounded check that looks at less of what the network as a whole gives."""
    found = {(rung, what) for rung, kind, layer, what in seen(named) if layer == "(network)"}
    assert {
        ("L2", "output 0 in eval mode"),
        ("L2", "output 0 in train mode"),
        ("L3", "loss"),
        ("L3", "gradient of input 0"),
        ("L5", "loss of step 10"),
    } <= found


@pytest.mark.parametrize(
    "patterns", ["blocks.1.*", ["units.1.dense", "blocks.1.norm"], "units.1.dense, blocks.1.n*"]
)
def test_names_of_either_side(named: Report, patterns: Any) -> None:
    """Catches a pattern that fits the names of one side only, and one of several that is lost."""
    found = check(port(), EVERY, layers=patterns)
    found.assert_faithful()
    expected = seen(named, *EVERY)
    assert {c for c in seen(found) if c[2].startswith("units")} == {
        c for c in expected if c[2].startswith("units")
    }


def test_a_name_stands_for_all_inside(named: Report) -> None:
    """Catches a block whose layers are left out although the block was asked for."""
    found = check(port(), ("L1", "L3"), layers="units.1")
    assert {c for c in seen(found, "L1") if c[2].startswith("units.1.")} == seen(named, "L1")
    assert found.bounds[0].layers < found.bounds[0].of_layers


def test_a_tensor_of_no_layer_is_asked_for_by_its_own_name() -> None:
    """Catches a parameter of the network itself that no pattern can reach."""
    found = check(port(), ("L2", "L3"), layers="scale")
    gradients = {what for _, _, _, what in seen(found, "L3") if what.startswith("gradient of")}
    assert gradients == {"gradient of factor", "gradient of input 0"}


def test_one_of_each_kind(sampled: Report) -> None:
    """Catches layers that are not alike taken for alike, or two of one kind in a sample of one."""
    sampled.assert_faithful()
    layers = {c[2] for c in seen(sampled, "L1")}
    norms = sorted(name for name in layers if name.endswith("normalise"))
    dense = [name for name in layers if name.endswith("dense")]
    assert len(norms) == 2  # of two epsilons
    assert norms[1] == "units.3.normalise"
    assert len(dense) == 1
    assert "last" in layers
    (bound,) = sampled.bounds
    assert bound.option == "--sample 1 --sample-seed 0"
    # of three alike blocks two, of four linear layers three, of three alike norms two
    assert bound.layers == 7


def test_a_share_and_a_seed() -> None:
    """Catches a share that is a number, and a seed that changes nothing."""
    drawn = set()
    for seed in range(4):
        report = check(port(), ("L1",), sample=0.5, sample_seed=seed)
        layers = {c[2] for c in seen(report) if c[2].endswith("dense")}
        assert len(layers) == 2
        drawn.add(frozenset(layers))
    assert len(drawn) > 1


def test_tensors_of_layers_left_out_of_a_sample(sampled: Report) -> None:
    """Catches gradients of layers that were not drawn, and one that is of no layer lost."""
    gradients = {(layer, what) for _, _, layer, what in seen(sampled, "L3")}
    assert ("(network)", "gradient of factor") in gradients
    kernels = [layer for layer, what in gradients if what == "gradient of kernel"]
    assert len(kernels) == 2  # of one block, and the last layer


@pytest.mark.parametrize("large", [False, True])
def test_what_is_left_out_is_neither_run_nor_kept(
    monkeypatch: pytest.MonkeyPatch, large: bool
) -> None:
    """Catches a bounded check that takes the time and memory of a whole one."""
    monkeypatch.setattr(ladder_runs, "LARGE", 0 if large else ladder_runs.LARGE)
    alone: list[str] = []
    before = Layers.alone

    def counted(self: Layers, side: Any, call: Any, *args: Any) -> Any:
        alone.append(call.layer)
        return before(self, side, call, *args)

    monkeypatch.setattr(Layers, "alone", counted)
    levels = ("L2",) if large else EVERY  # programs that call back are compiled again each time
    report = check(port(train=not large), levels, layers="units.1.*")
    report.assert_faithful()
    layers = {layer for _, _, layer, _ in seen(report, "L2")}
    assert layers == {"units.1.dense", "units.1.normalise", "(network)"}
    if large:
        return
    assert set(alone) == {"blocks.1.fc", "blocks.1.norm"}
    with ThreadPoolExecutor(1) as pool:
        runs = Runs(port(), "float32", pool, Bounds(("units.1.*",)))
        for train in (False, True):
            ported = runs.port64.run(runs.inputs[train], train, *losses(runs, train))
            assert set(runs.oracle(train).calls) == {"blocks.1.fc", "blocks.1.norm"}
            assert set(ported.calls) == {"units.1.dense", "units.1.normalise"}
        assert {n.split(".")[1] for n in runs.oracle(True).parameter_gradients} == {"1"}
        assert {n.split(".")[1] for n in ported.parameter_gradients} == {"1"}
        assert len(runs.oracle(True).parameter_gradients) == 4


def losses(runs: Runs, train: bool) -> tuple:
    if not train:
        return ()
    both, targets = runs.loss(())
    return both[1], targets


def test_a_fault_in_a_layer_that_is_left_out() -> None:
    """Catches a wrong network that passes, and a report that does not say where to look next."""
    report = check(port(wrong=2), EVERY, layers="units.0")
    assert not report.ok
    assert {c.layer for c in report.failures() if c.rung == "L2"} == {"(network)"}
    assert any("check without --layers" in line for line in report.explanation())
    found = check(port(wrong=2), EVERY, layers="units.2")
    assert found.fault() is not None
    assert found.fault().layer == "units.2.normalise"  # type: ignore[union-attr]  # it failed
    assert "eps 0.01 instead of 1e-05" in str(found.causes[0])


def test_what_was_left_out_is_counted_and_named(named: Report) -> None:
    """Catches a report of a bounded check that reads as one of a whole check."""
    (bound,) = named.bounds
    # Left out are four blocks, three linear layers, three norms and the head. Of each the output
    # in two modes, in the blocks of 18 numbers; and all tensors but those of one block.
    assert (bound.layers, bound.of_layers) == (11, 13)
    assert (bound.arrays, bound.elements) == (22 + 15, 2 * (10 * 18 + 6) + 3 * 54 + 14 + 1)
    text = str(named)
    assert "PASSED IN PART" in text
    assert "\nPASSED 1" not in text
    assert "NOT SEEN --layers units.1.* left out 11 of 13 layers, 37 arrays of" in text
    assert "left out by --layers: " in text
    left = {(o.rung, o.layer) for o in named.left_out if o.option == "--layers"}
    assert {("L1", "units.0.dense"), ("L2", "units.0"), ("L3", "units.0.dense")} <= left
    assert {rung for rung, _ in left} == {"L1", "L2", "L3", "L4", "L5"}
    assert ("L1", "units.0") not in left  # blocks are not run alone


def test_other_formats_say_it(named: Report, whole: Report) -> None:
    """Catches a page, an annotation or a file for CI on which a bounded check is plain green."""
    found = named.to_dict()
    file = importlib.resources.files("parity.report") / "report.schema.json"
    schema = json.loads(file.read_text())
    jsonschema.validate(found, schema)
    assert found["bounds"] == [dataclasses.asdict(named.bounds[0])]
    assert whole.to_dict()["bounds"] == []
    html = page(named)
    assert "faithful in part" in html
    assert "left out 11 of 13 layers" in html
    assert 'class="pill part">' in html
    assert "faithful in part" not in page(whole)
    assert 'class="pill part">' not in page(whole)
    suite = ElementTree.fromstring(formats.junit(named))
    (said,) = suite.iter("property")
    assert "11 of 13 layers" in said.get("value", "")
    skipped = {c.get("name") for c in suite.iter("testcase") if c.find("skipped") is not None}
    assert {"units.0.dense", "units.0"} <= skipped
    assert formats.github(named, NO_LINE).startswith("::warning ")
    assert "11 of 13 layers" in formats.github(named, NO_LINE)
    assert formats.github(whole, NO_LINE).startswith("::notice ")


test_of_pytest = ladder(right, levels=("L0", "L1"), layers="units.1.*")
