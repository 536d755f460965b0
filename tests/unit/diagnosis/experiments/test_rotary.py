"""Changes of rotary embeddings that experiments prove, however the rotation is written."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
import torch

from tests.unit.diagnosis.experiments.proving import ROWS, Case, check_case, proved

FREQUENCIES = [1.0, 0.1, 0.01, 0.001]
Tables = tuple[torch.Tensor, torch.Tensor]
Ported = Callable[[jax.Array], jax.Array]


def tables() -> Tables:
    """Cosines and sines (6, 4)."""
    angles = torch.outer(torch.arange(6.0), torch.tensor(FREQUENCIES))
    return angles.cos(), angles.sin()


def rotate_half(x: torch.Tensor) -> torch.Tensor:
    """As in Hugging Face's Llama: one sum for all channels."""
    cos, sin = (torch.cat((t, t), -1) for t in tables())
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def sliced(x: torch.Tensor) -> torch.Tensor:
    """Halves, each computed by itself."""
    cos, sin = tables()
    a, b = x[..., :4], x[..., 4:]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


def unbound(x: torch.Tensor) -> torch.Tensor:
    """Halves out of one operation; other orders of factors and terms."""
    cos, sin = tables()
    a, b = x.unflatten(-1, (2, 4)).unbind(-2)
    return torch.stack((cos * a - sin * b, a * sin + b * cos), -2).flatten(-2)


def sum_first(x: torch.Tensor) -> torch.Tensor:
    """The second half before the first."""
    cos, sin = tables()
    a, b = x[..., :4], x[..., 4:]
    second = b * cos + a * sin
    return torch.cat((a * cos - b * sin, second), -1)


def of_neighbours(x: torch.Tensor) -> torch.Tensor:
    """Neighbours, each computed by itself."""
    cos, sin = tables()
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)


def both(x: torch.Tensor) -> torch.Tensor:
    """Queries and keys, of which each is turned."""
    return sliced(x) @ sliced(x * 2).mT


def chunked(x: torch.Tensor) -> torch.Tensor:
    """Halves of queries and of keys out of one operation."""
    cos, sin = tables()
    a, b, c, d = torch.cat((x, x * 2), -1).chunk(4, -1)
    queries = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
    return queries @ torch.cat((c * cos - d * sin, d * cos + c * sin), -1).mT


def split_up(x: torch.Tensor) -> torch.Tensor:
    """As `chunked`, by another operation, and keys first."""
    cos, sin = tables()
    a, b, c, d = torch.cat((x, x * 2), -1).split(4, -1)
    keys = torch.cat((c * cos - d * sin, d * cos + c * sin), -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1) @ keys.mT


def of_unbound(x: torch.Tensor) -> torch.Tensor:
    """As `chunked`, neighbours of queries and keys that are stacked."""
    cos, sin = tables()
    a, b, c, d = (
        torch.cat((x, x * 2), -1)
        .unflatten(-1, (2, 4, 2))
        .transpose(-1, -2)
        .flatten(-3, -2)
        .unbind(-2)
    )
    queries = torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)
    return queries @ torch.stack((c * cos - d * sin, d * cos + c * sin), -1).flatten(-2).mT


def sine_first(x: torch.Tensor) -> torch.Tensor:
    """The terms the other way round, and so the factors of one."""
    cos, sin = (torch.cat((t, t), -1) for t in tables())
    first, second = x[..., :4], x[..., 4:]
    return torch.cat((-second, first), -1) * sin + cos * x


def of_xs_shape(x: torch.Tensor) -> torch.Tensor:
    """Tables of x's shape, which come first: they may be taken for it."""
    cos, sin = (torch.cat((t, t), -1).expand(x.shape) for t in tables())
    first, second = x.chunk(2, -1)
    return cos * x + sin * torch.cat((-second, first), -1)


def less(x: torch.Tensor) -> torch.Tensor:
    """A difference."""
    cos, sin = (torch.cat((t, t), -1) for t in tables())
    first, second = x.chunk(2, -1)
    return x * cos - torch.cat((second, -first), -1) * sin


def every_two(x: torch.Tensor) -> torch.Tensor:
    """As in GPT-J: one sum, pairs of neighbours."""
    cos, sin = (t.repeat_interleave(2, -1) for t in tables())
    return x * cos + torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2) * sin


def attending(x: torch.Tensor) -> torch.Tensor:
    """Queries, keys, and values that are made behind the rotation."""
    queries, keys = sliced(x), sliced(x * 2)
    return queries @ keys.mT @ torch.tanh(x)


def attending_by_sums(x: torch.Tensor) -> torch.Tensor:
    """Give the same numbers: the queries and keys are turned by one sum each."""
    queries, keys = rotate_half(x), rotate_half(x * 2)
    return queries @ keys.mT @ torch.tanh(x)


def values_first(x: torch.Tensor) -> torch.Tensor:
    """As `attending`; values are made before anything is turned, and shaped as keys are."""
    values = torch.tanh(x).unflatten(-1, (1, 8)).transpose(1, 2)
    queries, keys = (t.unflatten(-1, (1, 8)).transpose(1, 2) for t in (x, x * 2))
    scores = rotate_half(queries) @ rotate_half(keys).mT
    return (scores @ values).transpose(1, 2).flatten(-2)


def values_first_in_halves(x: torch.Tensor) -> torch.Tensor:
    """As `values_first`, with halves that are computed by themselves."""
    values = torch.tanh(x)
    return sliced(x) @ sliced(x * 2).mT @ values


def complex_numbers(x: torch.Tensor) -> torch.Tensor:
    """As in Meta's Llama: neighbours are complex numbers."""
    turning = torch.complex(*tables()).to(torch.complex128)
    pairs = torch.view_as_complex(x.unflatten(-1, (4, 2)).contiguous())
    return torch.view_as_real(pairs * turning).flatten(-2)


def turn(
    a: jax.Array, b: jax.Array, backwards: bool = False, base: float = 1e4
) -> tuple[jax.Array, jax.Array]:
    rates = jnp.asarray(FREQUENCIES, float) if base == 1e4 else base ** (-jnp.arange(4) / 4)
    angles = jnp.outer(jnp.arange(6.0), rates)
    cos, sin = jnp.cos(angles), jnp.sin(-angles if backwards else angles)
    return a * cos - b * sin, b * cos + a * sin


def halves(x: jax.Array, backwards: bool = False, base: float = 1e4) -> jax.Array:
    return jnp.concatenate(turn(x[..., :4], x[..., 4:], backwards, base), -1)


def neighbours(x: jax.Array, base: float = 1e4) -> jax.Array:
    return jnp.stack(turn(x[..., ::2], x[..., 1::2], base=base), -1).reshape(x.shape)


def based_halves(x: jax.Array) -> jax.Array:
    return halves(x, base=5e5)


def based_neighbours(x: jax.Array) -> jax.Array:
    return neighbours(x, base=1e3)


def twice(rotate: Ported) -> Ported:
    """Queries and keys."""
    return lambda x: rotate(x) @ rotate(x * 2).mT


def values_too(x: jax.Array) -> jax.Array:
    return halves(x) @ halves(x * 2).mT @ halves(jnp.tanh(x))


TWICE_HALVES, TWICE_NEIGHBOURS = twice(halves), twice(neighbours)
NOT_HALVES, NOT_NEIGHBOURS = "neighbours, not of halves", "halves, not of neighbours"
CASES: tuple[Case, ...] = (
    ("one sum", rotate_half, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("sliced", sliced, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("sum first", sum_first, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("unbound", unbound, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("neighbours", of_neighbours, halves, ROWS, "rope-pairs", "halves, not of neighbours"),
    ("backwards", sliced, lambda x: halves(x, True), ROWS, "rope-pairs", "backwards"),
    ("keys", both, lambda x: halves(x) @ (x * 2).mT, ROWS, "rope-pairs", "of the second"),
    ("queries", both, lambda x: x @ halves(x * 2).mT, ROWS, "rope-pairs", "of the first"),
    ("chunked", chunked, TWICE_NEIGHBOURS, ROWS, "rope-pairs", NOT_HALVES),
    ("split", split_up, TWICE_NEIGHBOURS, ROWS, "rope-pairs", NOT_HALVES),
    (
        "keys of a split",
        split_up,
        lambda x: halves(x) @ (x * 2).mT,
        ROWS,
        "rope-pairs",
        "of the first",
    ),
    (
        "keys of a chunk",
        chunked,
        lambda x: halves(x) @ (x * 2).mT,
        ROWS,
        "rope-pairs",
        "of the second",
    ),
    ("unbound keys", of_unbound, TWICE_HALVES, ROWS, "rope-pairs", NOT_NEIGHBOURS),
    ("sine first", sine_first, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("x's shape", of_xs_shape, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("less", less, neighbours, ROWS, "rope-pairs", NOT_HALVES),
    ("less backwards", less, lambda x: halves(x, True), ROWS, "rope-pairs", "backwards"),
    ("every two", every_two, halves, ROWS, "rope-pairs", NOT_NEIGHBOURS),
    ("values", attending, values_too, ROWS, "rope-values", "`tanh` turned by the rotary"),
    ("values of a sum", attending_by_sums, values_too, ROWS, "rope-values", "`tanh` turned by"),
    ("values first", values_first, values_too, ROWS, "rope-values", "`tanh` turned by the rotary"),
    ("before halves", values_first_in_halves, values_too, ROWS, "rope-values", "`tanh` turned by"),
    ("base of a sum", rotate_half, based_halves, ROWS, "rope-base", "a base of 500000"),
    ("base of neighbours", every_two, based_neighbours, ROWS, "rope-base", "a base of 1000"),
    ("base of slices", sliced, based_halves, ROWS, "rope-base", "a base of 500000"),
    ("base of both", both, twice(based_halves), ROWS, "rope-base", "a base of 500000"),
    ("base, complex", complex_numbers, based_neighbours, ROWS, "rope-base", "a base of 1000"),
    ("neither", both, lambda x: x @ (x * 2).mT, ROWS, "rope-pairs", "no rotation"),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a way of writing the rotation in which nothing, or something else, is proved."""
    check_case(case)


def test_which_pairs_are_meant_is_not_said_of_four_channels() -> None:
    """Catches two causes that contradict each other: either order turns the same pairs then."""
    cos, sin = (table[:, :2] for table in tables())

    def reference(x: torch.Tensor) -> torch.Tensor:
        a, b = x[..., ::2], x[..., 1::2]
        return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2)

    def port(x: jax.Array) -> jax.Array:
        a, b, c, s = x[..., :2], x[..., 2:], cos.numpy(), sin.numpy()
        return jnp.concatenate((a * c - b * s, b * c + a * s), -1)

    (found,) = proved(reference, port, ROWS[..., :4])
    assert found.what == "rotary pairs of neighbours for halves, or the other way"
