"""A process that has imported the frameworks and forks: its children begin at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any
from unittest import mock

from parity.io import compilation_cache

ROOT = Path(__file__).resolve().parents[1]
FORKS = multiprocessing.get_context("forkserver")
# What takes seconds to import; nothing of the project, into which a child may inject a fault.
PRELOAD = (
    "numpy",
    "torch",
    "torch._dynamo",  # which the first optimizer would import, for longer than a short run takes
    "jax",
    "flax.nnx",
    "optax",
    "orbax.checkpoint",
    "PIL.Image",
    "grain",
    "onnx",
    "sklearn.metrics",
    "tensorboardX",
    "pytest",
)


def start() -> None:
    """Start the process that forks, if it does not run yet; what is not installed it leaves out."""
    compilation_cache.keep_compiled(compilation_cache.of_user())  # before it imports JAX
    said = {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "OMP_NUM_THREADS": "1",  # there is a child for each core
        # JAX warns that its threads would be lost: its backend has not started any yet.
        "PYTHONWARNINGS": "ignore:os.fork() was called",
    }
    forkserver.set_forkserver_preload(list(PRELOAD))
    with mock.patch.dict(os.environ, said):
        forkserver.ensure_running()


def ended(
    target: Callable[..., None],
    *arguments: Any,
    delay: float | None = None,
    since: Callable[[], object] = lambda: True,
) -> bool:
    """Run a function in a child, which may be killed.

    Args:
        target: The function.
        arguments: Its arguments.
        delay: Seconds until it is killed; not at all if not given.
        since: They count once this is true.

    Returns:
        Whether it ended before it was killed.

    Raises:
        RuntimeError: It failed.
    """
    start()
    child = FORKS.Process(target=target, args=arguments)
    child.start()
    if delay is not None:
        while not since() and child.is_alive():
            time.sleep(0.001)
        child.join(delay)
        child.kill()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{target.__name__}{arguments}: exit status {child.exitcode}")
    return child.exitcode == 0
