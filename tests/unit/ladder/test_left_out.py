"""What a rung does not compare is counted, named, and no pass where it is a parameter."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
import torch
from torch import nn

from parity import Port, check
from parity.ladder.elements import followed
from parity.testing import ladder

Arrays = dict[str, np.ndarray]

MADE = "the weights function makes it of several, or changes it on the way"


def stacked(a: Arrays) -> Arrays:
    """Two layers' tensors in one each, as `jax.lax.scan` wants them."""
    kernel = np.stack([a["0.weight"].T, a["2.weight"].T])
    return {"w": kernel, "b": np.stack([a["0.bias"], a["2.bias"]])}


def two_layers(p: dict, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ p["w"][0] + p["b"][0]) @ p["w"][1] + p["b"][1]


def frozen(*names: str) -> Any:
    """Return a function some of whose parameters would never be trained."""

    def run(p: dict, x: jax.Array) -> jax.Array:
        return two_layers(p | {name: jax.lax.stop_gradient(p[name]) for name in names}, x)

    return run


def port(**changes: Any) -> Port:
    torch.manual_seed(0)
    given: dict[str, Any] = {
        "reference": nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)),
        "port": two_layers,
        "params": {"w": jnp.zeros((2, 5, 5)), "b": jnp.zeros((2, 5))},
        "inputs": (3, 5),
        "weights": stacked,
    }
    return Port(**(given | changes))


def test_what_a_function_rearranged_is_compared_on_every_rung() -> None:
    """Catches a right port called incomplete, or a tensor made of several that no rung looks at."""
    adam = (lambda m: torch.optim.Adam(m.parameters(), 1e-3), optax.adam(1e-3))
    report = check(port(optimizers=adam))
    report.assert_faithful()
    found = {str(c.quantity) for c in report.checks}
    for leaf in ("w", "b"):
        assert {f"gradient of {leaf}", f"step 3 of {leaf}", f"{leaf} after 10 steps"} <= found
    wrong = (adam[0], optax.adam(1.001e-3))
    assert {c.rung for c in check(port(optimizers=wrong)).failures()} == {"L4", "L5"}


@pytest.mark.parametrize("names", [("w", "b"), ("b",)])
def test_a_gradient_that_is_stopped_is_found_in_what_a_function_made(names: tuple) -> None:
    """Catches a port that would never train, passed because a function makes its weights."""
    report = check(port(port=frozen(*names)), levels=("L3",))
    assert {str(c.quantity) for c in report.failures()} == {f"gradient of {n}" for n in names}


def summed(a: Arrays) -> Arrays:
    """One bias is the sum of two tensors of the reference's."""
    return {"w": a["layer.weight"].T, "b": a["layer.bias"] + a["more"]}


def multiplied(a: Arrays) -> Arrays:
    """One bias is the product of two tensors of the reference's."""
    return {"w": a["layer.weight"].T, "b": a["layer.bias"] * a["more"]}


class Two(nn.Module):
    """A linear layer whose bias is made of two parameters."""

    def __init__(self, product: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(5, 5)
        self.more = nn.Parameter(torch.randn(5))
        self.product = product

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.product:
            return x @ self.layer.weight.T + self.layer.bias * self.more
        return self.layer(x) + self.more


def affine(p: dict, x: jax.Array) -> jax.Array:
    return x @ p["w"] + p["b"]


def sum_of_two(function: Any = affine) -> Port:
    params = {"w": jnp.zeros((5, 5)), "b": jnp.zeros(5)}
    return port(reference=Two(False), port=function, params=params, weights=summed)


def test_a_sum_of_parameters_is_compared_along_directions() -> None:
    """Catches a right port called incomplete because its weights function adds two tensors."""
    report = check(sum_of_two(), levels=("L0", "L2", "L3"))
    report.assert_faithful()
    assert "gradient of b" in {str(c.quantity) for c in report.checks if c.rung == "L3"}


def test_a_wrong_gradient_of_a_sum_is_found() -> None:
    """Catches a bias that would never train, or too fast, passed because a sum made it."""

    def stopped(p: dict, x: jax.Array) -> jax.Array:
        return affine(p | {"b": jax.lax.stop_gradient(p["b"])}, x)

    def doubled(p: dict, x: jax.Array) -> jax.Array:
        return affine(p | {"b": 2 * p["b"] - jax.lax.stop_gradient(p["b"])}, x)

    for function in (stopped, doubled):
        report = check(sum_of_two(function), levels=("L3",))
        assert {str(c.quantity) for c in report.failures()} == {"gradient of b"}


def incomplete() -> Port:
    """A port of which only one parameter can be compared."""
    return port(
        reference=Two(True),
        port=affine,
        params={"w": jnp.zeros((5, 5)), "b": jnp.zeros(5)},
        weights=multiplied,
    )


def test_a_parameter_left_out_is_named_and_no_pass(tmp_path: Path) -> None:
    """Catches a rung that is green although it did not look at a parameter, wherever it is told."""
    report = check(incomplete(), levels=("L2", "L3"))
    assert not report.failures()
    assert not report.ok
    assert {(o.rung, o.reference, str(o.quantity)) for o in report.missing()} == {
        ("L3", "(made)", "gradient of b"),
        ("L3", "layer.bias", "gradient of bias"),
        ("L3", "more", "gradient of more"),
    }
    text = str(report)
    assert "not compared" in text
    assert f"L3 not compared: (network) (reference: (made)): gradient of b: {MADE}" in text
    assert "FAILED not all parameters were compared: 3 left out on L3" in text
    report.to_json(tmp_path / "report.json")
    written = json.loads((tmp_path / "report.json").read_text())
    assert not written["ok"]
    assert [o for o in written["left_out"] if o["counts"] and o["reference"] == "more"]
    report.to_html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "not faithful" in page
    assert MADE in page
    with pytest.raises(AssertionError, match="3 left out on L3"):
        report.assert_faithful()
    assert check(incomplete(), levels=("L0", "L1", "L2")).ok  # which do not look at gradients


def test_the_ladders_tests_fail_where_a_parameter_is_left_out() -> None:
    """Catches tests of a user's that pass although nothing compared the parameter."""
    test = ladder(incomplete, levels=("L3",))
    with pytest.raises(pytest.fail.Exception, match=r"L3 not compared: .*gradient of b"):
        test("L3", "(network)")
    with pytest.raises(pytest.fail.Exception, match="nothing of the port answers it"):
        test("L3", "layer")


def test_a_parameter_of_the_reference_that_nothing_answers() -> None:
    """Catches rules that say a parameter has no counterpart, although the loss depends on it."""
    torch.manual_seed(0)
    last = nn.Linear(5, 5)
    nn.init.zeros_(last.bias)
    module = nn.Sequential(nn.Linear(5, 5), last)
    rules: list = [(r"1\.bias", None), (r"0\.weight", "v", (1, 0)), (r"1\.weight", "w", (1, 0))]
    report = check(
        Port(
            module,
            lambda p, x: (x @ p["v"] + p["b"]) @ p["w"],
            params={"v": jnp.zeros((5, 5)), "w": jnp.zeros((5, 5)), "b": jnp.zeros(5)},
            inputs=(3, 5),
            weights=[*rules, (r"0\.bias", "b")],
        )
    )
    assert not report.failures()
    assert [o.reference for o in report.missing()] == ["1.bias"]
    assert [o.reference for o in report.left_out if o.rung == "L0"] == ["1.bias"]


def test_part_of_a_tensor_left_out() -> None:
    """Catches elements of a parameter that no tensor of the port takes."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.cat((torch.randn(5), torch.zeros(1))))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.w[:5] + self.w[5]

    report = check(
        Port(
            Wide(),
            lambda p, x: x * p["w"],
            params={"w": jnp.zeros(5)},
            inputs=(3, 5),
            weights=lambda a: {"w": a["w"][:5]},
        ),
        levels=("L3",),
    )
    assert not report.failures()
    assert [o.reason for o in report.missing()] == [
        "1 of 6 elements: nothing of the port answers it"
    ]


NAMES = {"weight": "w", "bias": "b", "running_mean": "norm.mean", "running_var": "norm.var"}


def normalised(p: dict, x: jax.Array, train: bool) -> jax.Array:
    mean, var = (x.mean(0), x.var(0)) if train else (p["norm"]["mean"], p["norm"]["var"])
    return (x - mean) / jnp.sqrt(var + 1e-5) * p["w"] + p["b"]


def returning(ddof: int, p: dict, x: jax.Array, train: bool) -> tuple:
    """The outputs, and the statistics by the names that they have among the parameters."""
    now = {"mean": x.mean(0), "var": x.var(0, ddof=ddof)}
    moved = {name: 0.9 * p["norm"][name] + 0.1 * a for name, a in now.items()}
    return normalised(p, x, train), {"norm": moved if train else p["norm"]}


def functional(function: Callable) -> Port:
    params = {"w": jnp.ones(5), "b": jnp.ones(5)}
    params |= {"norm": {"mean": jnp.ones(5), "var": jnp.ones(5)}}
    return Port(
        nn.BatchNorm1d(5),
        function,
        params=params,
        inputs=(4, 5),
        weights=list(NAMES.items()),
        modes=({"train": False}, {"train": True}),
    )


def test_statistics_that_a_function_does_not_give_are_named() -> None:
    """Catches statistics that are left out without a word."""
    report = check(functional(normalised))
    report.assert_faithful()
    left = {(o.rung, o.reference): o.reason for o in report.left_out}
    assert "a function, which gives no statistics back" in left["L2", "running_mean"]
    assert left["L3", "running_var"] == "the reference does not train it"
    assert "L2 not compared: (network) (reference: running_mean): running_mean" in str(report)


def test_statistics_that_a_function_returns_are_compared() -> None:
    """Catches statistics beside the outputs that are no outputs, and are not looked at."""
    report = check(functional(partial(returning, 1)))
    report.assert_faithful()
    seen = {(c.rung, c.layer, c.quantity.path) for c in report.checks}
    assert {("L2", "norm", "mean"), ("L2", "norm", "var")} <= seen
    assert not [o for o in report.left_out if o.rung == "L2"]
    biased = check(functional(partial(returning, 0)))
    assert {(c.rung, c.layer, c.quantity.path) for c in biased.failures()} == {
        ("L2", "norm", "var")
    }
    asked = dataclasses.replace(functional(partial(returning, 1)), outputs={"0": "", "1": None})
    check(asked, levels=("L2",)).assert_faithful()


def test_statistics_of_a_function_do_not_move_in_training() -> None:
    """Catches a sound function failed on L5, for statistics that stay where they were in it."""
    rates = (lambda m: torch.optim.SGD(m.parameters(), 0.1), optax.sgd(0.1))
    port = dataclasses.replace(functional(partial(returning, 1)), optimizers=rates, steps=2)
    report = check(port, levels=("L0", "L5"))
    report.assert_faithful()
    seen = {c.quantity.path for c in report.checks if c.rung == "L5"}
    assert {"w", "b"} <= seen
    left = {(o.rung, o.reference): o.reason for o in report.left_out if o.layer == "(network)"}
    assert "keeps no statistics from step to step" in left["L5", "running_mean"]


SOURCE = {
    "a": np.arange(24, dtype=np.float64).reshape(2, 3, 4) / 7,
    "b": np.zeros(3),
    "c": np.ones((300, 301)),  # three digits
}


@pytest.mark.parametrize(
    ("convert", "known"),
    [
        (
            lambda a: {"x": a["a"].reshape(6, 4).T, "y": np.concatenate([a["b"], a["b"]])},
            {"x", "y"},
        ),
        (lambda a: {"x": a["c"].astype(np.float32)[::-1], "y": a["c"][:, 7]}, {"x", "y"}),
        (lambda a: {"x": a["c"].astype(ml_dtypes.bfloat16), "y": a["b"] * 1}, {"x", "y"}),
        (lambda a: {"x": a["b"] + a["c"][0, :3], "y": 2 * a["b"], "z": -a["a"]}, set()),
        (lambda a: {"x": np.maximum(a["a"], 1), "y": np.sort(a["a"], 0)}, set()),
        (
            lambda a: {"x": np.append(a["b"], 1.0), "y": a["b"] if a["b"].sum() else a["b"] + 1},
            set(),
        ),
    ],
    ids=["reshaped", "cast", "bfloat16", "changed", "of values", "constant"],
)
def test_elements_are_followed(convert: Any, known: set[str]) -> None:
    """Catches an element taken for another, and a sum or a product taken for an element."""
    source = dict(SOURCE)
    made = convert(source)
    found = followed(convert, source, made)
    assert set(found) == known
    other = {key: np.random.default_rng(1).random(a.shape) for key, a in source.items()}
    for name in known:
        expected, gathered = convert(other)[name], found[name].gathered(other, {})
        assert gathered is not None
        np.testing.assert_array_equal(gathered.astype(expected.dtype), expected)
