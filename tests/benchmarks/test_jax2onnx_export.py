"""The comparison with jax2onnx, of which only this project's half can run without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx

from parity.export import from_jax
from parity.model_checks.small_networks import small
from tests.benchmarks.jax2onnx_export import measured


def test_a_right_and_a_wrong_file() -> None:
    """Catches outputs compared in another order of axes, and a difference that is never seen."""
    config, size = small("enet")

    def wrong(
        network: Callable[[Any], Any],
        size: tuple[int, int],
        names: Sequence[str],
        batch: int | None,
    ) -> onnx.ModelProto:
        return from_jax.graph_of(lambda images: network(images) + 1, size, names, batch)

    right = measured(from_jax.graph_of, config, size, 1)
    assert right.difference < 1e-5
    assert right.nodes > 50
    assert right.transposes == 0
    assert measured(wrong, config, size, 1).difference > 10 * right.difference
