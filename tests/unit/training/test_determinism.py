"""`parity train --deterministic`: what is asked of a framework, and what is named."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from torch.nn import functional

from parity.spec.errors import InputError
from parity.training import determinism
from parity.training.determinism import deterministic


def test_pytorch_computes_deterministically_and_is_put_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a setting that is not made, or one that stays for whoever comes next."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    lines: list[str] = []
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    y, places = functional.max_pool2d(x, 2, return_indices=True)
    with deterministic("torch", lines.append):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        for _ in range(2):
            functional.max_unpool2d(y, places, 2)
        with pytest.raises(UserWarning, match="another"):  # other warnings are as they were
            warnings.warn("another", UserWarning, stacklevel=1)
    assert not torch.are_deterministic_algorithms_enabled()
    assert lines == [
        "deterministic: PyTorch has no deterministic form of max_unpooling2d_forward_out"
    ]


def test_xla_is_given_its_flags_before_it_begins() -> None:
    """Catches flags that XLA does not know, or that come beside the user's own."""
    code = (
        "import os\n"
        "from parity.training.determinism import deterministic\n"
        "with deterministic('jax', print):\n"
        "    import jax\n"
        "    jax.numpy.ones(2).block_until_ready()\n"
        "print(os.environ['XLA_FLAGS'])\n"
    )
    given = "--xla_cpu_enable_fast_math=false"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"XLA_FLAGS": given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [given, *determinism.XLA]


def test_flags_that_come_too_late_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a run that is called deterministic, and whose flags nobody has read."""
    import jax

    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "")
    with (
        pytest.raises(InputError, match="JAX has begun already"),
        deterministic("jax", lambda line: None),
    ):
        pass
