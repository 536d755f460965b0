"""Suggested rules: what is found, what is in doubt, and what running both sides settles."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port
from parity.capture.torch_side import TorchSide
from parity.cli import main
from parity.suggest.flow import of_reference
from parity.suggest.layouts import joins, options
from parity.suggest.matching import Doubt, DoubtKind
from parity.suggest.rows import SuggestedRow
from parity.suggest.settling import settle
from parity.suggest.suggestion import Pair, Suggestion, suggest, suggest_pair
from parity.suggest.wording import table
from tests.benchmarks.suggested_rules import measure
from tests.unit.ladder.test_ruled_ports import SCANNED, Scanned, port
from weights_convert.rules import Rules, load

Params = dict[str, dict[str, jax.Array]]


class Beside(nn.Module):
    """Two layers of equal shapes side by side, between two that are not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.first(x))
        return self.last(torch.tanh(self.a(x)) * self.b(x))


def linear(params: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return x @ params["kernel"] + params["bias"]


def beside(params: Params, x: jax.Array) -> jax.Array:
    """`Beside`, whose second branch is computed first."""
    x = jnp.tanh(linear(params["in"], x))
    gate = linear(params["p"], x)
    return linear(params["out"], jnp.tanh(linear(params["r"], x)) * gate)


def drawn(names: dict[str, tuple[int, int]]) -> Params:
    rng = np.random.default_rng(0)
    return {
        name: {
            "kernel": rng.standard_normal(shape).astype(np.float32),
            "bias": rng.standard_normal(shape[1]).astype(np.float32),
        }
        for name, shape in names.items()
    }


SHAPES = {"in": (3, 4), "p": (4, 4), "r": (4, 4), "out": (4, 2)}


def pair(run: Any = beside, **params: Any) -> Port:
    torch.manual_seed(0)
    return Port(Beside(), run, (2, 3), params=drawn(SHAPES) | params, layout={})


def made_of(found: Suggestion) -> dict[str, str]:
    """The reference's tensor of each of the port's."""
    return {row.port[0]: row.reference[0] for row in found.rows}


def test_layers_side_by_side_are_marked_and_settled() -> None:
    """Catches a guess that is not called one, and a check that settles it wrongly."""
    both = Pair.of(pair())
    found = suggest_pair(both)
    doubted = {row.port[0] for row in found.rows if row.doubts}
    assert doubted == {f"{n}.{leaf}" for n in "pr" for leaf in ("kernel", "bias")}
    settled = settle(both, found)
    assert (settled.agreed, settled.tried) == (1, 2)
    answers = made_of(settled.suggestion)
    assert (answers["p.kernel"], answers["r.bias"]) == ("b.weight", "a.bias")
    assert (answers["in.kernel"], answers["out.bias"]) == ("first.weight", "last.bias")
    assert not [row for row in settled.suggestion.rows if row.doubts]
    assert "IN DOUBT" in found.text("")
    assert "IN DOUBT" not in settled.suggestion.text("")


class Branches(Beside):
    """`Beside` whose branches are keys of a dict, in words."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.ModuleDict({"left or first": self.a, "right: gate": self.b})
        del self.a, self.b

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, (a, b) = torch.tanh(self.first(x)), self.by.values()
        return self.last(torch.tanh(a(x)) * b(x))


def test_layers_may_be_called_anything() -> None:
    """Catches doubts whose layers are read out of a sentence, which a name can take apart."""
    torch.manual_seed(0)
    both = Pair.of(Port(Branches(), beside, (2, 3), params=drawn(SHAPES), layout={}))
    found = settle(both, suggest_pair(both))
    assert (found.agreed, found.tried) == (1, 2)
    assert made_of(found.suggestion)["p.kernel"] == "by.right: gate.weight"


def test_the_reference_stays_as_it_is() -> None:
    """Catches an author's float64 module that is drawn anew, or renormalised, for good."""
    made = pair()
    table = nn.Embedding(4, 3, max_norm=0.1).double()
    before, drawn_before = table.weight.clone(), made.reference.double().a.weight.clone()
    both = Pair.of(made)
    assert settle(both, suggest_pair(both)).tried == 2
    assert torch.equal(made.reference.a.weight, drawn_before)
    of_reference(TorchSide(table, "float64"), (np.arange(4),), {"weight": ""})
    assert torch.equal(table.weight, before)


def test_a_port_that_is_wrong_is_not_settled() -> None:
    """Catches a candidate that is taken although its outputs are not the reference's."""
    both = Pair.of(pair(lambda params, x: beside(params, x) * 1.001))
    found = suggest_pair(both)
    settled = settle(both, found)
    assert (settled.agreed, settled.tried) == (0, 2)
    assert settled.suggestion.rows == found.rows


def test_values_decide() -> None:
    """Catches equal values that are not looked at."""
    module = pair().reference
    params = {
        "p": {
            "kernel": module.b.weight.detach().numpy().T.copy(),
            "bias": module.b.bias.detach().numpy().copy(),
        }
    }
    found = suggest(pair(**params))
    assert made_of(found)["p.kernel"] == "b.weight"
    assert made_of(found)["r.kernel"] == "a.weight"
    assert not [row for row in found.rows if row.doubts]


def test_square_kernels() -> None:
    """Catches a square kernel whose transposition is guessed, or is not known from its kind."""
    torch.manual_seed(0)
    square = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))

    def run(params: Params, x: jax.Array) -> jax.Array:
        return jnp.tanh(x @ params["x"]["w"]) @ params["y"]["w"]

    for layer in square[::2]:
        layer.bias = None
    params = {n: {"w": np.eye(4, dtype=np.float32)} for n in "xy"}
    both = Pair.of(Port(square, run, (2, 4), params=params, layout={}))
    found = suggest_pair(both)
    assert all(row.doubted(DoubtKind.AXES) for row in found.rows)
    settled = settle(both, found)
    assert (settled.agreed, settled.tried) == (1, 2)
    assert {row.formula for row in settled.suggestion.rows} == {"o i -> i o"}
    # In the other network, kernels of the same kind that are not square decide.
    decided = suggest(pair())
    assert {r.formula for r in decided.rows if r.port[0].endswith("kernel")} == {"o i -> i o"}


def test_a_scanned_and_fused_port() -> None:
    """Catches stacked layers, or a fused projection, that are not recognised or not marked."""
    both = Pair.of(port(Scanned(), None))
    found = suggest_pair(both)
    rules = [given for given, _ in found.rules()]
    state, target = both.sides[0].state(), both.sides[1].state()
    made, right = (Rules.of(r).plan(state, target) for r in (rules, SCANNED))
    for step, other in zip(made.steps, right.steps, strict=True):
        for name, array in other.apply(state).items():
            assert np.array_equal(step.apply(state)[name], array)
    assert len(rules) == 4
    doubts = {row.port[0]: row.doubts for row in found.rows if row.doubts}
    assert doubts["blocks.query.kernel"] == (Doubt(DoubtKind.PARTS),)
    assert doubts["blocks.out.kernel"][0].kind is DoubtKind.AXES


def test_a_network_whose_layers_are_numbers_drawn_at_random() -> None:
    """Catches a table that needs names: shapes and the order of use say enough."""
    found = measure("vit", hidden=True)
    assert (found.right, found.unmarked, found.doubted) == (found.tensors, (), 0)


def test_short_tables() -> None:
    """Catches a rule for each tensor, and one that also fits what it must not."""
    names = {f"layers.{i}.norm": f"blocks.{i}.ln" for i in range(3)} | {"norm": "ln"}
    rows = [SuggestedRow((f"{a}.weight",), (f"{b}.scale",), "", "") for a, b in names.items()]
    rows += [SuggestedRow((f"{a}.bias",), (f"{b}.bias",), "", "") for a, b in names.items()]
    rows += [
        SuggestedRow((f"layers.{i}.fc.weight",), (f"blocks.{i}.fc.kernel",), "o i -> i o", "")
        for i in range(3)
    ]
    shapes = {row.reference[0]: (2,) * (2 if row.formula else 1) for row in rows}
    shapes["layers.7.norm.weight"] = (2,)  # goes elsewhere: no rule may fit it
    given = [rule for rule, _ in table(rows, shapes)]
    assert len(given) < len(rows)
    made = {}
    for name, shape in shapes.items():
        found = [Rules.of([rule]).find(name, len(shape)) for rule in given]
        made[name] = [r.templates[0].expand(values) for r, _, values in filter(None, found)]
    assert made.pop("layers.7.norm.weight") == []
    assert made == {row.reference[0]: list(row.port) for row in rows}
    del shapes["layers.7.norm.weight"]
    assert len(table(rows, shapes)) <= 5


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        ((8, 3, 3, 3), (3, 3, 3, 8), ["o i h w -> h w i o"]),
        ((8, 1, 3, 3), (3, 3, 1, 8), ["o i h w -> h w i o"]),
        ((8, 4, 3, 3), (3, 3, 8, 4), ["o i h w -> h w o i"]),
        ((8, 4), (8, 4), [""]),
        ((4, 4), (4, 4), ["o i -> i o", ""]),
        ((8, 4), (4, 2, 4), ["(h d) i -> i h d"]),
        ((1, 5, 4), (5, 4), ["1 n d -> n d"]),
        ((8, 4), (8, 5), []),
    ],
)
def test_layouts(source: tuple, target: tuple, expected: list[str]) -> None:
    """Catches an order of axes that shapes allow and that is not thought of."""
    assert options(source, target, "weight") == expected


def test_parts() -> None:
    """Catches parts of unlike sizes that are not split where they must be."""
    assert joins((12, 5), [(5, 8), (5, 2), (5, 2)], True) == ["(a + b + c) i -> i a, i b, i c"]
    fused = [(8, 5), (2, 5), (2, 5)]
    assert joins((5, 12), fused, False) == ["a i, b i, c i -> i (a + b + c)"]
    assert joins((12, 5), fused, False) == ["a i, b i, c i -> (a + b + c) i"]
    assert len(joins((12, 12), [(8, 12), (4, 12)], False)) == 2  # square: nothing tells
    assert joins((5, 12), [(8, 5), (3, 5)], False) == []
    assert "(n o) i -> n i o" in joins((12, 4), [(4, 6), (4, 6)], True)
    assert joins((5, 12), [(6, 5), (6, 5)], False) == ["n o i -> i (n o)"]


FACTORY = f"""
import dataclasses, sys
sys.path.insert(0, {str(Path(__file__).parents[3])!r})
from tests.unit.suggest.test_suggest import beside, pair

def make_port():
    return pair()

def tabled():
    return dataclasses.replace(pair(), weights="rules.toml")

def wrong():
    return pair(lambda params, x: beside(params, x) * 1.001)
"""


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table that is not written, that no port can read, or a failed check that passes."""
    place, out = tmp_path / "mine.py", tmp_path / "rules.toml"
    place.write_text(FACTORY)
    assert main(["suggest", f"{place}:make_port", "--check", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "8 tensors of the port: 0 in doubt, 0 tensors not found" in said
    assert "outputs agree with 1 of 2 candidates" in said
    arrays = {k: v.numpy() for k, v in pair().reference.state_dict().items()}
    assert len(load(out).plan(arrays).made) == 8
    # The table lies beside the file that makes the port, not in the working directory.
    assert main(["check", f"{place}:tabled", "--levels", "L0,L2"]) == 0
    assert "PASSED" in capsys.readouterr().out
    assert main(["suggest", f"{place}:wrong", "--check"]) == 1
    assert "# IN DOUBT: layers of equal shapes, side by side" in capsys.readouterr().out
    assert main(["suggest", "mine"]) == 2
    assert main(["suggest", f"{place}:none", "--out", str(out)]) == 2
    assert "Traceback" not in capsys.readouterr().err
    sys.modules.pop("mine", None)


class Lonely(nnx.Module):
    """A port with a tensor that nothing answers."""

    def __init__(self) -> None:
        self.kernel, self.extra = nnx.Param(jnp.zeros((3, 2))), nnx.Param(jnp.zeros(5))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...] + self.extra[...].sum()


def test_what_has_no_counterpart_is_named() -> None:
    """Catches a tensor that is left out of the table unsaid."""
    both = Pair.of(Port(nn.Linear(3, 2), Lonely(), (2, 3), layout={}))
    found = suggest_pair(both)
    assert found.alone() == (["bias"], ["extra"])
    assert all(row.doubted(DoubtKind.PARTLY) for row in found.rows)
    assert "# NOT FOUND, of the port: extra" in found.text("")
    assert settle(both, found).reason == "tensors are left for which nothing was found"
