"""The pytest plugin of the project's own tests: where data lies, and what XLA compiled before.

Loaded by `pyproject.toml`, so that `parity/` and `tests/` share it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Keep compiled XLA programs between runs, in `.cache/xla` unless JAX was told otherwise."""
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session")
def golden() -> Path:
    """What the published reference implementations compute."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real checkpoints and data, which do not ship: `$PARITY_SHARED`, else `../shared`.

    Skips the test where they are absent, unless `$CI` is set: there nothing may be skipped.
    """
    path = Path(os.environ.get("PARITY_SHARED", ROOT.parent / "shared"))
    if not path.is_dir():
        message = f"no real checkpoints and data at {path}; set PARITY_SHARED"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path
