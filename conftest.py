"""What pytest does for the project's own tests: their order, memory and threads, and their data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from parity.io import compilation_cache, garbage, xla_convolutions
from tests import xla_flags

ROOT = Path(__file__).resolve().parent

# Files of the project's that take longest, of two workers a minute and more each, the longest
# first: so no worker is left alone with one at the end.
LONGEST = (
    "test_trainer",
    "test_golden",
    "test_pairs",
    "test_onnx",
    "test_mixed",
    "test_hostile",
    "test_interrupts",
    "test_faults",
    "test_ladder",
    "test_devices",
    "test_real_mindspore",
    "test_numbering",
    "test_training",
    "test_optimizer_refused",
    "test_mindspore_training",
    "test_fuzz",
    "test_assumptions",
    "test_demo",
    "test_contract_faults",
    "test_training_loop",
    "test_miou",
    "test_mindspore_adam",
    "test_optim",
    "test_port_kinds",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest files first."""
    place = {name: i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


# Bytes that a test process may hold before compiled programs are dropped, between two files.
MOST_HELD = 3 * 2**30


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Drop compiled programs between two files where they have come to fill the memory."""
    if nextitem is None or nextitem.path == item.path or "jax" not in sys.modules:
        return
    statm = Path("/proc/self/statm")
    if (
        not statm.exists()
        or int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") < MOST_HELD
    ):
        return
    import jax

    from parity.capture import traced
    from parity.capture.spill import release

    jax.clear_caches()
    traced.TRACED.clear()
    release()


def pytest_configure(config: pytest.Config) -> None:
    """Set up how XLA compiles and share cores, before frameworks are imported."""
    # By itself pytest-xdist begins with the files of the most tests.
    if getattr(config.option, "loadscopereorder", False):
        config.option.loadscopereorder = False
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if workers > 1:  # PyTorch's threads would wait for each other's cores
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    compilation_cache.keep_compiled(compilation_cache.of_user())
    xla_flags.set_for_process(level=0)
    xla_convolutions.by_eigen()
    garbage.collect_rarely()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Return the folder of results computed by the published reference implementations."""
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
