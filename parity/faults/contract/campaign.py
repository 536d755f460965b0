"""All faults of the contract: first the judges without a fault, then each fault alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parity import compiled
from parity.faults.contract import forks
from parity.faults.contract.fault import Fault, stale
from parity.faults.contract.judges import JUDGES
from parity.faults.contract.result import Result, Row
from parity.spec.errors import InputError

Progress = Callable[[str], None]
# What takes seconds to import, once for all; nothing of the project.
PRELOAD = (
    "numpy",
    "torch",
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
LIMIT = 600  # seconds, after which a fault's tests are ended


def run(
    faults: Sequence[Fault],
    root: Path,
    preload: Sequence[str] = PRELOAD,
    progress: Progress = lambda _: None,
) -> Result:
    """Plant each fault alone and ask its judges.

    Args:
        faults: Which.
        root: The checkout.
        preload: Modules that are imported once.
        progress: Called with what is done.

    Raises:
        InputError: A fault's text is not there, or a judge's tests fail without a fault.
    """
    if lines := stale(faults, root):
        raise InputError(f"{len(lines)} of {len(faults)} faults cannot be planted: {lines[0]}")
    asked = list(dict.fromkeys(judge for fault in faults for judge in fault.judges))
    jobs: list[dict[str, Any]] = [{"tests": list(JUDGES[judge].tests)} for judge in asked]
    clean: dict[str, float] = {}
    skipped: dict[str, int] = {}
    for judge, found in zip(asked, _each(jobs, root, preload, progress, asked), strict=True):
        if found["code"] or not found["passed"]:
            why = f"{found['failed']}: {found['message']}" if found["failed"] else found["message"]
            raise InputError(f"without a fault, the tests of {JUDGES[judge].name} fail: {why}")
        clean[judge], skipped[judge] = found["seconds"], found["skipped"]
    planted = [
        {
            "tests": fault.selection,
            "module": fault.module,
            "file": fault.file,
            "right": fault.right,
            "wrong": fault.wrong,
        }
        for fault in faults
    ]
    titles = [f"{fault.kind}: {fault.title}" for fault in faults]
    found_all = _each(planted, root, preload, progress, titles)
    rows = [_row(f, found) for f, found in zip(faults, found_all, strict=True)]
    return Result(rows, clean, {judge: n for judge, n in skipped.items() if n})


def _row(fault: Fault, found: dict[str, Any]) -> Row:
    """What became of a fault. Only a test that fails finds one: what cannot be run finds none."""
    error = ""
    if found["code"] not in (0, 1):
        error = f"its tests could not be run: {found['message'] or found['code']}"
    elif not found["loaded"]:
        error = "its tests did not import the file"
    by = found["failed"] if found["code"] == 1 and not error else ""
    return Row(fault, by, found["message"] if by else "", error, found["seconds"])


def _each(
    jobs: list[dict[str, Any]],
    root: Path,
    preload: Sequence[str],
    progress: Progress,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """What became of each job, in their order."""
    asked = {"root": str(root), "preload": list(preload), "jobs": jobs, "limit": LIMIT}
    asked["processes"] = min(os.cpu_count() or 1, len(jobs))
    found: dict[int, dict[str, Any]] = {}
    progress("importing the frameworks")
    with tempfile.TemporaryDirectory(prefix="parity-faults-") as scratch:
        for line in _lines(json.dumps(asked | {"scratch": scratch})):
            found[line["job"]] = line
            progress(f"{len(found)}/{len(jobs)} done, last {names[line['job']]}")
    return [found[i] for i in range(len(jobs))]


def _lines(text: str) -> Iterator[dict[str, Any]]:
    """Each line that `forks` prints; it has as many threads as there are cores for it."""
    compiled.keep_compiled(compiled.of_user())  # before it imports JAX
    command = [sys.executable, "-P", str(Path(forks.__file__))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            process.stdin.write(text)
            process.stdin.close()
            for line in process.stdout:
                yield json.loads(line)
            process.wait()
        finally:
            if process.poll() is None:  # Ctrl-C, say: its forks go with it
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise RuntimeError(f"{command[-1]} ended with status {process.returncode}")
