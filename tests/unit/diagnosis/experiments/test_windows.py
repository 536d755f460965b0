"""Masks of attention by which a query sees so many keys before it."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest
import torch

from parity.diagnosis.experiments import windows
from tests.unit.diagnosis.experiments.proving import ROWS, check_case
from tests.unit.diagnosis.experiments.test_attention import attended, sdpa, torch_heads

WINDOW = 3
Reference = Callable[[torch.Tensor], torch.Tensor]


def window(width: int) -> torch.Tensor:
    seen = torch.ones(6, 6, dtype=torch.bool)
    return seen.tril() & seen.triu(1 - width)


def filled(hidden: torch.Tensor) -> Reference:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return (q @ q.mT * 0.5).masked_fill(hidden, -math.inf).softmax(-1) @ q

    return attention


def chosen(seen: torch.Tensor) -> Reference:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return torch.where(seen, q @ q.mT * 0.5, -math.inf).softmax(-1) @ q

    return attention


def added(mask: torch.Tensor) -> Reference:
    def attention(x: torch.Tensor) -> torch.Tensor:
        q = torch_heads(x)
        return (q @ q.mT * 0.5 + mask).softmax(-1) @ q

    return attention


REFERENCES: dict[str, Reference] = {
    "truth values": sdpa(attn_mask=window(WINDOW)),
    "numbers": sdpa(attn_mask=torch.where(window(WINDOW), 0.0, -1e30).double()),
    "added": added(torch.where(window(WINDOW), 0.0, -1e30).double()),
    "filled": filled(~window(WINDOW)),
    "chosen": chosen(window(WINDOW)),
}


@pytest.mark.parametrize(
    ("width", "what"),
    [
        (WINDOW + 1, "its mask's window one key wider"),
        (WINDOW - 1, "its mask's window one key narrower"),
        (6, "its mask without a window"),
    ],
)
@pytest.mark.parametrize("reference", REFERENCES)
def test_another_window_is_proved(reference: str, width: int, what: str) -> None:
    """Catches a window that is off by one, as of other sides' definitions, without a cause."""
    seen = jnp.asarray(window(width).numpy())

    def port(x: jax.Array) -> jax.Array:
        return attended(x, 0.5, seen)

    check_case(("window", REFERENCES[reference], port, ROWS, windows.FAULT, what))


def test_padding_stays_hidden() -> None:
    """Catches a wider window in which queries see keys that are padding."""
    seen = window(WINDOW)
    seen[:, 0] = False
    (wider,) = (other for what, other in windows._windows() if "wider" in what)
    expected = window(WINDOW + 1)
    expected[:, 0] = False
    assert torch.equal(wider(seen), expected)
