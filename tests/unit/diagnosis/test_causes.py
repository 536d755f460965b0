"""Causes in a whole network, of which no layer stands alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import Port, check
from parity.diagnosis.catalogue import Fault

Params = dict[str, jax.Array]


def reference() -> nn.Module:
    torch.manual_seed(0)
    sizes = (6, 8, 8, 8, 5)
    layers: list[nn.Module] = []
    for n, m in itertools.pairwise(sizes):
        layers += [nn.Linear(n, m), nn.Tanh()]
    return nn.Sequential(*layers[:-1])


def function(rounded: Callable[[jax.Array], jax.Array]) -> Port:
    """A port that is a function of four layers, whose factors are rounded."""
    made = reference()

    def forward(params: Params, x: jax.Array) -> jax.Array:
        for i in (0, 2, 4, 6):
            x = rounded(x) @ rounded(params[f"w{i}"]) + params[f"b{i}"]
            x = jnp.tanh(x) if i < 6 else x
        return x

    params = {f"{k[0]}{n}": np.zeros(1, np.float32) for k in ("w", "b") for n in (0, 2, 4, 6)}
    rules = [(r"(\d)\.weight", r"w\1", (1, 0)), (r"(\d)\.bias", r"b\1")]
    for n in (0, 2, 4, 6):
        shape = made[n].weight.shape
        params[f"w{n}"] = np.zeros(shape[::-1], np.float32)
        params[f"b{n}"] = np.zeros(shape[0], np.float32)
    return Port(reference=made, port=forward, inputs=(4, 6), weights=rules, params=params)


CASES: tuple[tuple[str, int, str], ...] = (
    ("tf32", 10, Fault.TF32),
    ("bfloat16", 7, "bfloat16-inside"),
)


@pytest.mark.parametrize(("name", "bits", "fault"), CASES, ids=[case[0] for case in CASES])
def test_rounded_factors_in_all_layers_of_a_function(name: str, bits: int, fault: str) -> None:
    """Catches rounding that is looked for in single layers alone."""
    del name
    report = check(
        function(lambda a: jax.lax.reduce_precision(a, 8, bits)), levels=("L0", "L1", "L2", "L3")
    )
    assert [cause.fault for cause in report.causes] == [fault], report.explanation()


def test_other_noise_is_not_taken_for_rounding() -> None:
    """Catches factors that are off by as much, and are not rounded."""
    report = check(
        function(lambda a: a * (1 + 2.0**-11 * jnp.cos(1e4 * a))), levels=("L0", "L1", "L2")
    )
    assert not report.ok
    assert not report.causes


@pytest.mark.parametrize(
    ("stopped", "words"),
    [
        ("w0 w2 w4 w6 b0 b2 b4 b6", "no gradient to any parameter"),
        ("w6 b6", "no gradient to the parameters of `linear`"),
    ],
    ids=["all", "one layer"],
)
def test_parameters_that_are_never_trained(stopped: str, words: str) -> None:
    """Catches stopped gradients of several parameters, of which each alone explains nothing."""
    port = function(lambda a: a)

    def forward(params: Params, x: jax.Array) -> jax.Array:
        frozen = {name: jax.lax.stop_gradient(params[name]) for name in stopped.split()}
        return port.port(params | frozen, x)

    report = check(dataclasses.replace(port, port=forward))
    assert not report.ok
    assert {cause.fault for cause in report.causes} == {"stop-gradient"}, report.explanation()
    assert words in report.explanation()[0]


class Attention(nn.Module):
    """Two layers around an attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 24), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.a(x).chunk(3, -1)
        return self.b(torch.nn.functional.scaled_dot_product_attention(q, k, v))


class RoundedAttention(nnx.Module):
    def __init__(self, rounded: Callable[[jax.Array], jax.Array]) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(6, 24, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)
        self.rounded = rounded

    def __call__(self, x: jax.Array) -> jax.Array:
        q, k, v = jnp.split(self.a(x), 3, -1)
        scores = self.rounded(q) @ self.rounded(k).mT * 8**-0.5
        return self.b(self.rounded(jax.nn.softmax(scores)) @ self.rounded(v))


@pytest.mark.parametrize(("name", "bits", "fault"), CASES, ids=[case[0] for case in CASES])
def test_rounded_factors_between_two_layers(name: str, bits: int, fault: str) -> None:
    """Catches rounding that is looked for in layers alone, or not of attention's weights."""
    del name
    rules = [(r"(.)\.weight", r"\1.kernel", (1, 0)), (r"(.)\.bias", r"\1.bias")]

    def found(rounded: Callable[[jax.Array], jax.Array]) -> list[str]:
        pair = Port(Attention(), RoundedAttention(rounded), (2, 5, 6), rules)
        return [cause.fault for cause in check(pair, levels=("L0", "L1", "L2")).causes]

    assert found(lambda a: jax.lax.reduce_precision(a, 8, bits)) == [fault]
    assert found(lambda a: a * (1 + 2.0 ** -(bits + 1) * jnp.cos(1e4 * a))) == []


class Summed(nn.Module):
    """A norm of a sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.n, self.b = nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.n(x + self.a(x)))


class SummedBehind(nnx.Module):
    """The sum behind the norm."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.a, self.b = nnx.Linear(6, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)
        self.n = nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(x + self.n(self.a(x)))


def test_a_cause_explains_the_whole_network() -> None:
    """Catches a sum "not made", proved of the next layer, which is made behind that layer."""
    rules = [(r"([ab])\.weight", r"\1.kernel", (1, 0)), ("n.weight", "n.scale")]
    rules += [(r"(.)\.bias", r"\1.bias")]
    report = check(Port(Summed(), SummedBehind(), (4, 6), rules), levels=("L0", "L1", "L2"))
    assert [cause.fault for cause in report.causes] == [Fault.SHORTCUT_ORDER], report.explanation()
    assert "before the sum, not after it" in report.explanation()[0]


def test_a_layer_of_flax_that_computes_in_bfloat16() -> None:
    """Catches it unexplained: in float64 the cast is lifted, and float32 is what it is wrong in."""

    class Narrow(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Linear(6, 3, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.a(x)

    torch.manual_seed(0)
    rules = [(r"0\.weight", "a.kernel", (1, 0)), (r"0\.bias", "a.bias")]
    report = check(Port(nn.Sequential(nn.Linear(6, 3)), Narrow(), (4, 6), rules))
    assert [cause.fault for cause in report.causes] == ["bfloat16-inside"], report.explanation()


def test_an_inference_check_names_no_setting_that_it_does_not_see() -> None:
    """Catches an eps that is proved once more together with a statistic that is never stored."""

    class Normed(nnx.Module):
        def __init__(self) -> None:
            self.n = nnx.BatchNorm(3, epsilon=1e-3, use_running_average=True, rngs=nnx.Rngs(0))

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.n(x)

    rules = [("0.weight", "n.scale"), ("0.bias", "n.bias"), (r"0\.running_(.*)", r"n.\1")]
    made = Port(nn.Sequential(nn.BatchNorm2d(3)), Normed(), (2, 4, 5, 3), rules, train=False)
    assert [cause.what for cause in check(made).causes] == ["eps 0.001 instead of 1e-05"]
