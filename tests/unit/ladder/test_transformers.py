"""What published transformers do: rates in settings, caches of keys, rows that are repeated."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn

from parity import Port, check

LINEAR: list = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
LEVELS = ("L0", "L1", "L2", "L3")
MODES = ({"deterministic": True}, {"deterministic": False})


class Settings:
    """As `transformers` has them: an object, shared by all layers."""

    def __init__(self) -> None:
        self.attention_dropout, self.width = 0.5, 4


@dataclasses.dataclass(frozen=True)
class FrozenSettings:
    attention_dropout: float = 0.5
    width: int = 4


class Drawing(linen.Module):
    """Draws by itself, after a layer of its own, at a rate that its settings hold."""

    settings: Any
    scale: float = 1.0

    def setup(self) -> None:
        self.a = linen.Dense(self.settings.width)

    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        x, rate = self.a(x) * self.scale, self.settings.attention_dropout
        if deterministic or rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, x.shape)
        return jnp.where(keep, x / (1 - rate), 0)


class Drawn(linen.Module):
    settings: Any
    scale: float = 1.0

    @linen.compact
    def __call__(self, x: jax.Array, deterministic: bool) -> jax.Array:
        x = Drawing(self.settings, self.scale, name="one")(x, deterministic)
        return Drawing(self.settings, name="two")(x, deterministic)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.drop(self.a(x))


def drawing(settings: Any, scale: float = 1.0) -> Port:
    torch.manual_seed(0)
    reference = nn.Sequential()
    for name in ("one", "two"):
        reference.add_module(name, Block())
    module = Drawn(settings, scale)
    params = module.init(jax.random.key(0), jnp.ones((3, 4)), True)
    return Port(reference, module, (3, 4), weights=LINEAR, params=params, modes=MODES)


@pytest.mark.parametrize("kind", [Settings, FrozenSettings])
def test_a_rate_in_a_linen_layers_settings_is_switched_off(kind: type) -> None:
    """Catches a right port that fails in train mode because it draws its own dropout masks."""
    settings = kind()
    check(drawing(settings), levels=LEVELS).assert_faithful()
    assert settings.attention_dropout == 0.5, "the author's own settings were changed"


def test_nothing_else_is_switched_off_with_it() -> None:
    """Catches a fault in a layer that draws, hidden by switching it off."""
    report = check(drawing(Settings(), scale=1.01), levels=LEVELS)
    assert report.fault() is not None
    assert report.fault().layer == "one"


class Cache:
    """Grows with every layer that is called, as a cache of keys and values does."""

    def __init__(self) -> None:
        self.keys: dict[int, torch.Tensor] = {}

    def update(self, place: int, key: torch.Tensor) -> torch.Tensor:
        self.keys[place] = torch.cat([self.keys[place], key], 1) if place in self.keys else key
        return self.keys[place]


class Caching(nn.Module):
    def __init__(self, place: int) -> None:
        super().__init__()
        self.place, self.a = place, nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        key = cache.update(self.place, self.a(x))
        seen = sum(cache.update(9, k).sum() * 0 for k in list(cache.keys.values()))
        return x * key.softmax(1)[:, -x.shape[1] :] * key.shape[1] + seen


class WithCache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.one, self.two = Caching(0), Caching(1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cache = Cache()
        return self.two(self.one(x, cache), cache)


class Attending(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * jax.nn.softmax(self.a(x), 1) * x.shape[1]


class WithoutCache(nnx.Module):
    def __init__(self, scale: float = 1.0) -> None:
        rngs = nnx.Rngs(0)
        self.one, self.two = Attending(rngs), Attending(rngs)
        self.scale = scale

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.two(self.one(x) * self.scale)


def test_an_object_that_a_call_changes_is_as_it_was_when_a_layer_runs_again() -> None:
    """Catches a layer that is fed alone what all the layers after it have put into a cache."""
    given = {"layers": {"one": "one", "two": "two"}}
    port = Port(WithCache(), WithoutCache(), (2, 3, 4), weights=LINEAR, **given)
    report = check(port, levels=LEVELS)
    report.assert_faithful()
    assert {"one.a", "two.a"} <= {c.layer for c in report.checks if c.rung == "L1"}
    wrong = dataclasses.replace(port, port=WithoutCache(1.01))
    report = check(wrong, levels=LEVELS)
    assert not report.ok
    assert {c.layer for c in report.failures() if c.rung == "L1"} <= {"(network)"}


class Positions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 4), nn.Embedding(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.words(x) + self.places(torch.arange(x.shape[1])[None])


class Repeated(nnx.Module):
    """Looks positions up for every sample of the batch."""

    def __init__(self, step: int = 0) -> None:
        rngs = nnx.Rngs(0)
        self.words = nnx.Embed(7, 4, rngs=rngs)
        self.places = nnx.Embed(5, 4, rngs=rngs)
        self.step = step

    def __call__(self, x: jax.Array) -> jax.Array:
        places = jnp.arange(x.shape[1])[None] + self.step * jnp.arange(len(x))[:, None]
        return self.words(x) + self.places(places)


@pytest.mark.parametrize("step", [0, 1])
def test_rows_that_one_side_repeats_earlier(step: int) -> None:
    """Catches equal rows taken for other ones, and other rows taken for equal ones."""
    rules = [(r"(.*)\.weight", r"\1.embedding")]
    words = jnp.array([[1, 2, 3], [4, 5, 6]])
    report = check(Port(Positions(), Repeated(step), words, weights=rules), levels=LEVELS)
    assert report.ok == (step == 0)
    assert "places" in {c.layer for c in report.checks if c.rung == "L2"}, "not compared"
    if step:
        assert {c.layer for c in report.failures() if c.rung == "L2"} == {"places", "(network)"}


class Masked(nn.Module):
    """Adds the least number that there is where it must not look, as causal masks do."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x)
        mask = torch.full((4, 4), torch.finfo(x.dtype).min).triu(1).to(x.dtype)
        return (x[:, None] + mask).softmax(-1)


class MaskedPort(nnx.Module):
    def __init__(self, offset: int = 0) -> None:
        self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.offset = offset

    def __call__(self, x: jax.Array) -> jax.Array:
        seen = jnp.tril(jnp.ones((4, 4), bool), self.offset)
        x = self.a(x)[:, None]
        return jax.nn.softmax(jnp.where(seen, x, jnp.finfo(x.dtype).min), -1)


def test_the_least_number_of_float64_in_a_mask() -> None:
    """Catches a reference that raises in float64 alone: PyTorch's default type cannot hold it."""
    check(Port(Masked(), MaskedPort(), (3, 4), weights=LINEAR), levels=LEVELS).assert_faithful()
    assert not check(Port(Masked(), MaskedPort(1), (3, 4), weights=LINEAR), levels=LEVELS).ok


TABLE = np.sin(np.arange(12.0)).reshape(3, 4)


class FrozenTable(nn.Module):
    """Holds a table of positions as a parameter that is not trained, rounded to float32."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.table = nn.Parameter(torch.tensor(TABLE, dtype=torch.float32), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x) * self.table


class ComputedTable(nnx.Module):
    def __init__(self, shift: float = 0.0) -> None:
        self.a = nnx.Linear(4, 4, rngs=nnx.Rngs(0))
        self.shift = shift

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.a(x) * jnp.asarray(TABLE + self.shift, x.dtype)


def converted(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    carried = dict(arrays)
    del carried["table"]  # read, and not taken
    return {"a.kernel": carried["a.weight"].T, "a.bias": carried["a.bias"]}


@pytest.mark.parametrize(
    "rules", [[("table", None), *LINEAR], converted], ids=["rules", "function"]
)
def test_a_table_that_one_side_holds_and_the_other_computes(rules: Any) -> None:
    """Catches a table in float32 judged as if it were in float64, and one that is another."""
    check(Port(FrozenTable(), ComputedTable(), (3, 4), weights=rules)).assert_faithful()
    assert not check(Port(FrozenTable(), ComputedTable(1e-4), (3, 4), weights=rules)).ok
