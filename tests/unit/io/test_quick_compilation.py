"""Options with which XLA compiles fast."""

from __future__ import annotations

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from parity.io import quick_compilation
from tests import xla_flags


@pytest.mark.parametrize("level", [0, 1])
def test_this_xla_knows_the_options(level: int) -> None:
    """Catches an option that the installed release of XLA has no longer, and a wrong result."""

    def fused(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x) * x + 1, axis=1)

    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    found = jax.jit(fused, compiler_options=quick_compilation.options(level))(x)
    wanted = np.sum(np.tanh(x.astype(np.float64)) * x + 1, axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("release", "both"), [("0.10.2", True), ("0.11.0", False)])
def test_a_release_without_an_option_is_not_given_it(
    release: str, both: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches an option that a newer XLA refuses, which ends every check with an error."""
    quick_compilation._has_both_emitters.cache_clear()
    monkeypatch.setattr(quick_compilation.metadata, "version", lambda _: release)
    assert ("xla_cpu_use_fusion_emitters" in quick_compilation.options(0)) == both
    quick_compilation._has_both_emitters.cache_clear()


def test_flags_of_a_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the tests' own flags in place of those that somebody runs the tests with."""
    monkeypatch.setenv("XLA_FLAGS", "")
    xla_flags.set_for_process(level=1)
    assert os.environ["XLA_FLAGS"] == ""
    monkeypatch.delenv("XLA_FLAGS")
    xla_flags.set_for_process(level=1)
    assert "--xla_backend_optimization_level=1" in os.environ["XLA_FLAGS"].split()
