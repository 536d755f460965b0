"""Convolutions by Eigen."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys

import pytest

from parity.io import xla_convolutions
from parity.io.xla_convolutions import FLAG

PROGRAM = """
from parity.io import xla_convolutions
{}
import jax
axes = ("NHWC", "HWIO", "NHWC")
f = lambda x, k: jax.lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=axes)
x, k = jax.numpy.ones((2, 16, 16, 64)), jax.numpy.ones((3, 3, 64, 64))
print("ynn" in jax.jit(f).lower(x, k).compile().as_text())
"""


@pytest.fixture(autouse=True)
def not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process in which JAX has not computed yet."""
    monkeypatch.setattr(xla_convolutions, "_has_begun", lambda: False)


@pytest.mark.parametrize("given", ["", "--xla_cpu_enable_fast_math=false"])
def test_flag(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a user's flags lost, and a flag added twice."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", given)
    xla_convolutions.by_eigen()
    xla_convolutions.by_eigen()
    assert os.environ["XLA_FLAGS"].split() == [*given.split(), f"{FLAG}=-individual_convolution"]


def test_a_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches YNNPACK turned off for somebody who has chosen what it computes."""
    monkeypatch.setenv("XLA_FLAGS", f"{FLAG}=individual_convolution")
    xla_convolutions.by_eigen()
    assert os.environ["XLA_FLAGS"] == f"{FLAG}=individual_convolution"


def test_a_file_of_flags_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a flag appended to the name of a file, which XLA then does not find."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", "/etc/xla.flags")
    xla_convolutions.by_eigen()
    assert os.environ["XLA_FLAGS"] == "/etc/xla.flags"


def test_another_release_is_not_given_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a flag that a newer XLA may not know, which ends the process."""
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.11.0")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    xla_convolutions.by_eigen()
    assert "XLA_FLAGS" not in os.environ


def test_this_xla_takes_the_flag() -> None:
    """Catches a release of XLA that refuses the flag, or computes by YNNPACK in spite of it."""
    if tuple(importlib.metadata.version("jaxlib").split(".")[:2]) != xla_convolutions.NEEDED_BY:
        pytest.skip("this release of jaxlib does not need the flag")
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    clean["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    found = []
    for call in ("", "xla_convolutions.by_eigen()"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(call)],
            env=clean,
            capture_output=True,
            text=True,
            check=True,
        )
        found.append(done.stdout.strip())
    assert found == ["True", "False"]
