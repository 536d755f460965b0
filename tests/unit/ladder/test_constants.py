"""Arrays of the port that no weight of the reference's goes into: tables, masks, anchors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.spec.errors import InputError

TABLE = np.linspace(0.1, 1.3, 4).astype(np.float32)
RULES: list = [("l.weight", "l.kernel", (1, 0)), ("l.bias", "l.bias")]
MAP: dict = {"l.kernel": ("l.weight", (1, 0)), "l.bias": ("l.bias", None)}


def made(source: dict[str, np.ndarray]) -> dict[str, Any]:
    return {"l.kernel": source["l.weight"].T, "l.bias": source["l.bias"]}


class Computed(nn.Module):
    """Computes its table where it is used: there is nothing to compare the port's with."""

    def __init__(self) -> None:
        super().__init__()
        self.l = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(x) + torch.tensor(TABLE).to(x.dtype)


class Stored(Computed):
    """Holds its table in a buffer that no checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.tensor(TABLE), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.l(x) + self.positions


class Plain(nnx.Module):
    """Holds its table as an array that is no variable of Flax's."""

    def __init__(self, table: np.ndarray, kind: Callable[..., Any]) -> None:
        self.l = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.table = kind(table)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l(x) + self.table


@pytest.mark.parametrize("kind", [jnp.asarray, np.asarray])
@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_an_array_as_an_attribute(kind: Callable[..., Any], stored: bool, factor: float) -> None:
    """Catches AttributeError at an array that no `nnx.Variable` holds, and one not compared."""
    rules = RULES if stored else [*RULES, (None, "table")]
    port = Port(
        Stored() if stored else Computed(),
        Plain(TABLE, kind) if factor == 1 else Plain(TABLE * factor, kind),
        inputs=(3, 4),
        weights=rules,
    )
    if stored and factor != 1:
        with pytest.raises(InputError, match="nothing fills table"):
            check(port)
    else:
        assert check(port).ok == (factor == 1)


class Tabled(nnx.Module):
    def __init__(self, table: np.ndarray, kind: type[nnx.Variable] = nnx.Variable) -> None:
        self.l = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.table = kind(jnp.asarray(table))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.l(x) + jax.lax.stop_gradient(self.table[...])


def port(**changes: Any) -> Port:
    return dataclasses.replace(
        Port(Computed(), Tabled(TABLE), inputs=(2, 4), weights=RULES), **changes
    )


@pytest.mark.parametrize("weights", [RULES, MAP, made], ids=["rules", "mapping", "function"])
def test_a_constant_is_refused_with_the_way_to_say_so(weights: Any) -> None:
    """Catches an author who is told that something is missing, and not what to do about it."""
    with pytest.raises(InputError, match=r"table of the port; .*\(None, 'table'\) in rules"):
        check(port(weights=weights))


@pytest.mark.parametrize(
    "weights",
    [[*RULES, (None, "ta.*")], MAP | {"table": None}, lambda a: made(a) | {"table": None}],
    ids=["rules", "mapping", "function"],
)
def test_a_constant_of_the_ports_own(weights: Any, tmp_path: Path) -> None:
    """Catches a constant that cannot be declared, that is overwritten, or left out in silence."""
    report = check(port(weights=weights))
    report.assert_faithful()
    assert "the port's own, not compared: table" in report.notes
    report.to_json(tmp_path / "r.json")
    left = json.loads((tmp_path / "r.json").read_text())["left_out"]
    assert [(o["rung"], o["layer"], o["reason"]) for o in left] == [
        ("L0", "table", "it is the port's own")
    ]
    wrong = check(port(weights=weights, port=Tabled(TABLE + 1)))
    assert {c.rung for c in wrong.failures()} >= {"L2"}


@pytest.mark.parametrize("weights", [RULES, MAP, made], ids=["rules", "mapping", "function"])
def test_a_constant_is_compared_with_a_buffer_that_it_equals(weights: Any) -> None:
    """Catches a right constant refused, though the reference holds the same one.

    And one whose last bit, float32's, is taken for a fault in float64.
    """
    rounded = np.nextafter(TABLE, 2, dtype=np.float32)
    for table in (TABLE, rounded):
        report = check(port(reference=Stored(), port=Tabled(table), weights=weights))
        report.assert_faithful()
        (row,) = (c for c in report.checks if c.layer == "table")
        assert (row.rung, row.reference) == ("L0", "positions")
    with pytest.raises(InputError, match="table of the port; if it is a constant"):
        check(port(reference=Stored(), port=Tabled(TABLE * (1 + 1e-6)), weights=weights))


def test_a_buffer_that_no_checkpoint_has_may_be_named() -> None:
    """Catches a constant that is loaded from the reference where it should be compared with it."""
    weights = [*RULES, ("positions", "table")]
    check(port(reference=Stored(), weights=weights)).assert_faithful()
    wrong = check(port(reference=Stored(), port=Tabled(TABLE * 2), weights=weights))
    assert [(c.layer, c.reference) for c in wrong.failures() if c.rung == "L0"] == [
        ("table", "positions")
    ]


def test_zeros_equal_any_buffer_and_are_no_proof() -> None:
    """Catches a bias that nobody filled, taken for some buffer of zeros."""
    reference = Computed()
    reference.register_buffer("nothing", torch.zeros(4), persistent=False)
    with pytest.raises(InputError, match="nothing fills table"):
        check(port(reference=reference, port=Tabled(TABLE * 0)))


def test_a_constant_that_the_port_would_train_is_no_constant() -> None:
    """Catches a parameter that is called the port's own so that nothing looks at its gradient."""
    weights = [*RULES, (None, "table")]
    report = check(port(weights=weights, port=Tabled(TABLE, nnx.Param)))
    assert not report.failures()
    assert [o.sentence() for o in report.missing()] == [
        "L3 not compared: (network) (reference: (none)): gradient of table:"
        " it is the port's own, yet the port would train it"
    ]


def test_constants_among_a_functions_parameters() -> None:
    """Catches a table of a function's, all of whose arrays are parameters, that makes it fail."""
    params = {"l": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}, "table": TABLE}

    def run(p: dict, x: jax.Array) -> jax.Array:
        return x @ p["l"]["kernel"] + p["l"]["bias"] + p["table"]

    weights = [*RULES, (None, "table")]
    check(port(port=run, params=params, weights=weights)).assert_faithful()
    check(port(reference=Stored(), port=run, params=params)).assert_faithful()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([*RULES, (None, "tables")], "the port has no tables"),
        (MAP | {"tables": None}, "the port has no tables"),
        ([*RULES, (None, "(")], "no pattern"),
        ([*RULES, (None, None)], "the port has no None"),
    ],
)
def test_a_constant_that_the_port_does_not_have(weights: Any, message: str) -> None:
    """Catches a typing error in the name of a constant."""
    with pytest.raises(InputError, match=message):
        check(port(weights=weights))
