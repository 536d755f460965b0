"""Changes of attention, of heads and of positions that experiments prove."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from parity.capture.torch_operations import CallValue, Tape
from parity.capture.torch_side import TorchSide
from parity.diagnosis.experiments.engine import EXACT, Make, nearest, tried
from tests.unit.diagnosis.experiments.proving import ROWS, Case, Function, check_case, proved


def heads(x: jax.Array) -> jax.Array:
    return x.reshape(2, 6, 2, 4).transpose(0, 2, 1, 3)


def torch_heads(x: torch.Tensor) -> torch.Tensor:
    return x.view(2, 6, 2, 4).transpose(1, 2)


def attended(x: jax.Array, scale: float, mask: jax.Array | None = None) -> jax.Array:
    q = heads(x)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, q) * scale
    scores = scores if mask is None else jnp.where(mask, scores, -jnp.inf)
    return jax.nn.softmax(scores, -1) @ q


def sdpa(**settings: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return functional.scaled_dot_product_attention(q, q, q, **settings)

    return attention


def unfused(scale: float, low: float | None = None) -> Callable[[torch.Tensor], torch.Tensor]:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        scores = q @ q.transpose(-1, -2)
        scores = scores if scale == 1.0 else scores * scale
        if low is not None:
            later = torch.ones(6, 6, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(later, low)
        return scores.softmax(-1) @ q

    return attention


def chosen(scale: float) -> Callable[[torch.Tensor], torch.Tensor]:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        seen = torch.ones(6, 6, dtype=torch.bool).tril()
        return torch.where(seen, q @ q.mT * scale, -math.inf).softmax(-1) @ q

    return attention


def finitely_masked(x: jax.Array, seen: jax.Array, low: float = -3e8) -> jax.Array:
    q = heads(x)
    scores = jnp.einsum("bhqd,bhkd->bhqk", q, q) * 0.5
    return jax.nn.softmax(jnp.where(seen, scores, low), -1) @ q


def split_heads(x: torch.Tensor, heads: int = 2) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def interleaved(x: jax.Array, heads: int = 2) -> jax.Array:
    return x.reshape(2, 6, -1, heads).transpose(0, 3, 1, 2)


def tril(shift: int) -> jax.Array:
    return jnp.tril(jnp.ones((6, 6), bool), shift)


CASES: tuple[Case, ...] = (
    (
        "scale of attention",
        sdpa(),
        lambda x: attended(x, 1.0),
        ROWS,
        "attention-scale",
        "not scaled",
    ),
    (
        "no causal mask",
        sdpa(is_causal=True),
        lambda x: attended(x, 0.5),
        ROWS,
        "attention-mask",
        "no mask",
    ),
    (
        "scores that are not scaled",
        unfused(1.0),
        lambda x: attended(x, 0.5),
        ROWS,
        "attention-scale",
        "scaled by 1 / sqrt(width of a head) (0.5)",
    ),
    (
        "scale of all heads",
        unfused(0.5),
        lambda x: attended(x, 8**-0.5),
        ROWS,
        "attention-scale",
        "by the width of all heads",
    ),
    (
        "weak mask",
        unfused(0.5, -math.inf),
        lambda x: finitely_masked(x, tril(0), -10.0),
        ROWS,
        "mask-value",
        "-10 where masked instead of -inf",
    ),
    (
        "causal offset",
        sdpa(is_causal=True),
        lambda x: attended(x, 0.5, tril(1)),
        ROWS,
        "causal-offset",
        "moved by 1",
    ),
    (
        "a written mask moved, and finite",
        unfused(0.5, -math.inf),
        lambda x: finitely_masked(x, tril(-1)),
        ROWS,
        "causal-offset",
        "its mask moved by -1, and finite scores where masked",
    ),
    (
        "a written mask inverted, and finite",
        unfused(0.5, -math.inf),
        lambda x: finitely_masked(x, ~tril(0)),
        ROWS,
        "mask-sign",
        "its mask inverted, and finite scores where masked",
    ),
    (
        "a mask of `where` moved, and finite",
        chosen(0.5),
        lambda x: finitely_masked(x, tril(-1)),
        ROWS,
        "causal-offset",
        "its mask moved by -1, and finite scores where masked",
    ),
    (
        "a causal mask inverted, and finite",
        sdpa(is_causal=True),
        lambda x: finitely_masked(x, ~tril(0)),
        ROWS,
        "mask-sign",
        "its mask inverted, and finite scores where masked",
    ),
    (
        "a given mask inverted, and finite",
        sdpa(attn_mask=torch.ones(6, 6, dtype=torch.bool).tril()),
        lambda x: finitely_masked(x, ~tril(0)),
        ROWS,
        "mask-sign",
        "its mask inverted, and finite scores where masked",
    ),
    (
        "positions behind a cache",
        lambda x: x * torch.arange(5, 11)[:, None],
        lambda x: x * jnp.arange(6)[:, None],
        ROWS,
        "position-offset",
        "counted from 0 again",
    ),
    (
        "shared heads",
        lambda x: x.repeat_interleave(2, 1),
        lambda x: jnp.tile(x, (1, 2, 1)),
        ROWS,
        "gqa-order",
        "in turn",
    ),
    (
        "interleaved heads",
        lambda x: split_heads(x) * split_heads(x[..., 4:], 1),
        lambda x: interleaved(x) * interleaved(x[..., 4:], 1),
        ROWS,
        "heads-order",
        "split in the opposite order (interleaved)",
    ),
    (
        "class token without its position",
        lambda x: torch.cat((x[:, :1] * 2, x), 1) + torch.arange(1, 8)[:, None],
        lambda x: jnp.concatenate((x[:, :1] * 2, x + jnp.arange(2, 8)[:, None]), 1),
        ROWS,
        "part-not-added",
        "not added to part 1 of the 2 joined",
    ),
)


@pytest.mark.parametrize("case", CASES, ids=[case[0] for case in CASES])
def test_cause_is_proved(case: Case) -> None:
    """Catches a change that is not tried, and another one that is called proved instead."""
    check_case(case)


def masked(low: float, mask: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Attention written out, with a mask that is true where a key is seen."""

    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return (q @ q.mT * 0.5).masked_fill(~mask, low).softmax(-1) @ q

    return attention


PADDED = (torch.arange(6) < 4).expand(6, 6)  # every row sees the first four keys
CAUSAL = torch.ones(6, 6, dtype=torch.bool).tril()


@pytest.mark.parametrize(
    ("reference", "mask"),
    [
        (sdpa(attn_mask=PADDED), PADDED),
        (masked(-math.inf, PADDED), PADDED),
        (masked(-1e9, PADDED), PADDED),
        (masked(-1e9, CAUSAL), CAUSAL),
    ],
    ids=["given", "infinite", "finite", "causal"],
)
def test_finite_scores_are_no_cause_where_none_are_needed(
    reference: Callable, mask: torch.Tensor
) -> None:
    """Catches scores that are said to be the port's alone, where only its mask is inverted."""
    seen = jnp.asarray(~mask.numpy())
    found = proved(reference, lambda x: finitely_masked(x, seen, -1e9), ROWS)
    assert found[0].what == "its mask inverted"
    assert not [proof for proof in found if "finite" in proof.what]


def test_positions_moved_are_said_of_any_first_one() -> None:
    """Catches "counted from -1 instead of 0" said of a reference that counts from 1."""
    found = proved(
        lambda x: x * torch.arange(1, 7)[:, None], lambda x: x * jnp.arange(6)[:, None], ROWS
    )
    assert found[0].what == "positions moved by -1"


def behind(places: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Causal attention behind so many places of a cache."""

    def attend(x: torch.Tensor) -> torch.Tensor:
        keys = torch.cat((x[:, :places], x), 1)
        seen = torch.ones(x.shape[1], keys.shape[1], dtype=torch.bool).tril(places)
        return (x @ keys.mT).masked_fill(~seen, -torch.inf).softmax(-1) @ keys

    return attend


def test_a_row_without_a_key_in_one_run_alone() -> None:
    """Catches a mask that is moved, and finite scores, unproved since another run needs none."""
    tapes, targets = {}, {}
    for name, places in (("train", 0), ("eval", 3)):
        side = TorchSide(Function(behind(places)), "float64")
        tapes[name] = Tape(side, (ROWS,), False, CallValue(fed=False))
        keys = np.concatenate((ROWS[:, :places], ROWS), 1)
        seen = np.tril(np.ones((ROWS.shape[1], keys.shape[1]), bool), places - 1)
        scores = np.where(seen, ROWS @ keys.swapaxes(1, 2), -1e9)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        targets[name] = weights / weights.sum(-1, keepdims=True) @ keys

    def agrees(run: str, make: Make) -> bool:
        return nearest(tapes[run].replay(make()), targets[run]) <= EXACT

    (proof,) = tried({name: tape.operations for name, tape in tapes.items()}, agrees)
    assert proof.what == "its mask moved by -1, and finite scores where masked"
