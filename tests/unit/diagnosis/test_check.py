"""What a whole check proves: of layers with all their numbers, and spans."""

from __future__ import annotations

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
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.remedies import remedy
from parity.report.report import Report
from tests.resnet import Norm

LAYERS = ("L0", "L1")


class ConvNextLayerNorm(nn.LayerNorm):
    """A layer norm whose name says something else."""


class Normed(nnx.Module):
    def __init__(self, epsilon: float) -> None:
        self.n = nnx.LayerNorm(8, epsilon=epsilon, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n(x)


def layer_norm(kind: type[nn.Module], epsilon: float, levels: tuple[str, ...] = LAYERS) -> Report:
    rules = [("0.weight", "n.scale"), ("0.bias", "n.bias")]
    port = Port(
        reference=nn.Sequential(kind(8)), port=Normed(epsilon), inputs=(2, 8), weights=rules
    )
    return check(port, levels=levels)


@pytest.mark.parametrize("kind", [nn.LayerNorm, ConvNextLayerNorm])
def test_a_norm_is_explained_whatever_its_name(kind: type[nn.Module]) -> None:
    """Catches a cause derived from a class's name, or a guess printed beside a contradiction."""
    report = layer_norm(kind, 1e-6, ("L0", "L1", "L2"))
    assert [cause.fault for cause in report.causes] == ["norm-eps"]
    assert "eps 1e-06 instead of 1e-05" in report.explanation()[0]
    text = str(report)
    assert "proved: the port is the reference with eps 1e-06" in text
    assert "shortcut" not in text
    assert "likely" not in text


def test_json_and_assertion_say_what_is_proved(tmp_path: Path) -> None:
    """Catches a proof that only the terminal shows, or a failure without one that claims it."""
    report = layer_norm(nn.LayerNorm, 1e-3)
    report.to_json(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["proved"] is True
    assert found["causes"][0].startswith("the port is the reference with eps 0.001 instead of")
    with pytest.raises(AssertionError, match=r"proved: the port is the reference with eps 0\.001"):
        report.assert_faithful()


class Odd(Normed):
    """Computes what no known change of a layer norm gives."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n(x) + 0.01 * jnp.sin(x)


def test_no_known_cause_shows_the_operations() -> None:
    """Catches a guess where no experiment succeeds, and silence on what the reference does."""
    rules = [("0.weight", "n.scale"), ("0.bias", "n.bias")]
    made = Port(
        reference=nn.Sequential(nn.LayerNorm(8)), port=Odd(1e-5), inputs=(2, 8), weights=rules
    )
    report = check(made, levels=("L0", "L1", "L2"))
    assert not report.ok
    assert not report.causes
    assert report.to_dict()["proved"] is False
    (line,) = report.explanation()
    assert line.startswith("no known cause explains it; the reference computes here: layer_norm(")
    assert "eps=1e-05" in line


def test_nothing_is_explained_of_a_right_pair() -> None:
    """Catches a cause of nothing."""
    report = layer_norm(nn.LayerNorm, 1e-5, ("L0", "L1", "L2"))
    assert report.ok
    assert not report.causes
    assert not report.explanation()


@pytest.mark.parametrize(("step", "lost"), [("parting", "line"), ("causes.explained", "cause")])
def test_an_experiment_that_raises_costs_nothing_else(
    step: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a proof that is lost because the line was not found, or the report with either."""

    def broken(*_: object) -> None:
        raise RuntimeError("of any\nnetwork")

    monkeypatch.setattr(f"parity.diagnosis.check.{step}", broken)
    report = layer_norm(nn.LayerNorm, 1e-6)
    assert [cause.fault for cause in report.causes] == (["norm-eps"] if lost == "line" else [])
    assert f"its {lost} was not looked for: RuntimeError: of any network" in report.notes
    assert not report.ok


class Pooled(nnx.Module):
    """A max-pool as a function, padded as SAME."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.c = nnx.Conv(3, 4, (3, 3), padding=1, rngs=rngs)
        self.g = nnx.Conv(4, 5, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.g(nnx.max_pool(self.c(x), (3, 3), (2, 2), "SAME"))


def test_a_function_between_layers_is_explained() -> None:
    """Catches a span whose operations are not tried, or a layer after it that is blamed."""
    reference = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.Conv2d(4, 5, 1)
    )
    rules = [
        (r"0\.weight", "c.kernel", (2, 3, 1, 0)),
        (r"0\.bias", "c.bias"),
        (r"2\.weight", "g.kernel", (2, 3, 1, 0)),
        (r"2\.bias", "g.bias"),
    ]
    made = Port(reference=reference, port=Pooled(), inputs=(2, 8, 8, 3), weights=rules)
    report = check(made, levels=("L0", "L1", "L2"))
    assert report.causes[0].fault == Fault.SAME_PADDING
    assert "max_pool2d" in report.causes[0].where
    assert not [c for c in report.causes if "conv2d" in c.where]


class BatchNormed(nnx.Module):
    def __init__(self, make: Callable[[], nnx.Module]) -> None:
        self.n = make()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n(x)


def batch_norm(make: Callable[[], nnx.Module], train: bool = True) -> list[Any]:
    rules = [
        (r"0\.weight", "n.scale"),
        (r"0\.bias", "n.bias"),
        (r"0\.running_(mean|var)", r"n.\1"),
        ("0.num_batches_tracked", None),
    ]
    made = Port(
        reference=nn.Sequential(nn.BatchNorm2d(3)),
        port=BatchNormed(make),
        inputs=(2, 4, 5, 3),
        weights=rules,
        train=train,
    )
    return check(made, levels=LAYERS).causes


def flax_norm(**settings: Any) -> nnx.Module:
    return nnx.BatchNorm(3, rngs=nnx.Rngs(0), use_fast_variance=False, **settings)


def other_eps() -> nnx.Module:
    made = Norm(3, rngs=nnx.Rngs(0))
    made.epsilon = 1e-3
    return made


def test_batch_norms_are_told_apart_by_all_of_their_numbers() -> None:
    """Catches settings taken for one another or half explained, and a fix that names another."""
    biased = batch_norm(lambda: flax_norm(momentum=0.9, epsilon=1e-5))
    assert [c.fault for c in biased] == [Fault.BIASED_RUNNING_VARIANCE]
    both = batch_norm(lambda: flax_norm(momentum=0.1, epsilon=1e-5))
    assert [c.what for c in both] == ["biased variance stored, and momentum 0.9 instead of 0.1"]
    others = batch_norm(lambda: flax_norm(momentum=0.9, epsilon=1e-3))
    assert [c.what for c in others] == ["biased variance stored, eps 0.001 instead of 1e-05"]
    (all_,) = batch_norm(lambda: flax_norm(momentum=0.99, epsilon=1e-3))
    text = "biased variance stored, eps 0.001 instead of 1e-05, and momentum 0.01 instead of 0.1"
    assert all_.what == text
    eps = batch_norm(other_eps)
    assert [c.fault for c in eps] == [Fault.BATCH_NORM_EPS]
    inference = batch_norm(lambda: flax_norm(momentum=0.99, epsilon=1e-3), train=False)
    assert [c.fault for c in inference] == [Fault.BATCH_NORM_EPS]  # no other setting is seen
    for cause in (*biased, *both, *others, all_, *eps):
        assert named(cause.what) == named(fix_of(cause))


def fix_of(cause: Any) -> str:
    """What the report says is to be changed."""
    found = remedy(cause.fault)
    assert found is not None
    return found.fix


def named(text: str) -> set[str]:
    """The settings of a batch norm that a sentence speaks of."""
    text = text.replace("biased variance", "running variance")
    return {word for word in ("eps", "momentum", "running variance") if word in text}


class Product(nn.Module):
    """A product with a parameter that is of no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1, 1, 12).reshape(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.w


def test_no_gradient_to_a_parameter_of_no_layer() -> None:
    """Catches a stopped gradient that is proved of layers' weights alone."""
    port = Port(
        reference=Product(),
        port=lambda params, x: x @ jax.lax.stop_gradient(params["w"]),
        inputs=(5, 4),
        params={"w": np.zeros((4, 3), np.float32)},
        weights=[("w", "w")],
    )
    report = check(port, levels=("L2", "L3"))
    assert [c.fault for c in report.causes] == ["stop-gradient"], report.explanation()
    assert "no gradient to `matmul`'s other (w: stop_gradient" in report.explanation()[0]


class Narrow(nnx.Module):
    """Rounds the factors of a product to bfloat16."""

    def __init__(self) -> None:
        self.l = nnx.Linear(4, 3, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        k = self.l.kernel[...]
        y = x.astype(jnp.bfloat16).astype(x.dtype) @ k.astype(jnp.bfloat16).astype(k.dtype)
        return y + self.l.bias[...]


def test_a_product_of_narrow_numbers() -> None:
    """Catches rounded factors that are no known cause, or float32 taken for them."""
    torch.manual_seed(0)
    made = Port(
        reference=nn.Sequential(nn.Linear(4, 3)),
        port=Wrapped(),
        inputs=(5, 4),
        weights=WRAPPED,
        layers={"n": "0"},
    )
    report = check(made, levels=LAYERS)
    assert [c.fault for c in report.causes] == ["bfloat16-inside"], report.explanation()


class Wrapped(nnx.Module):
    def __init__(self) -> None:
        self.n = Narrow()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.n(x)


WRAPPED = [(r"0\.weight", "n.l.kernel", (1, 0)), (r"0\.bias", "n.l.bias")]


class Embedded(nnx.Module):
    def __init__(self) -> None:
        self.e = nnx.Embed(7, 4, rngs=nnx.Rngs(0))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.e(x)


def test_a_gradient_alone_is_explained() -> None:
    """Catches experiments that look at outputs alone, where only a gradient differs."""
    torch.manual_seed(0)
    made = Port(
        reference=nn.Sequential(nn.Embedding(7, 4, padding_idx=0)),
        port=Embedded(),
        inputs=(np.array([[0, 1, 2], [3, 0, 5]]),),
        weights=[(r"0\.weight", "e.embedding")],
    )
    report = check(made, levels=LAYERS)
    assert [c.fault for c in report.causes] == ["padding-idx"], report.explanation()
    assert "a padding row that is trained" in report.explanation()[0]
