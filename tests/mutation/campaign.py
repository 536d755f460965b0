"""All faults of the contract: first the judges without a fault, then each fault alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.io import compilation_cache
from parity.spec.errors import InputError
from tests.mutation import forks
from tests.mutation.catalogue import Fault, stale
from tests.mutation.judges import JUDGES
from tests.mutation.result import FaultRow, MutationResult

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


class Forks:
    """The process that runs the jobs; see `forks`.

    Args:
        root: The checkout.
        preload: Modules that it imports once.
        progress: Called with what is done.
    """

    def __init__(self, root: Path, preload: Sequence[str], progress: Progress) -> None:
        self.root, self.preload, self.progress = root, preload, progress

    def __enter__(self) -> Forks:
        compilation_cache.keep_compiled(compilation_cache.of_user())  # before it imports JAX
        self.scratch = tempfile.TemporaryDirectory(prefix="parity-faults-")
        command = [sys.executable, "-P", str(Path(forks.__file__))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}  # it has a process for each core
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment, start_new_session=True
        )
        asked = {"root": str(self.root), "preload": list(self.preload), "limit": LIMIT}
        self._tell(asked | {"scratch": self.scratch.name, "processes": os.cpu_count() or 1})
        self.progress("importing the frameworks")
        return self

    def __exit__(self, *_: object) -> None:
        """Its forks go with it, if it is not done."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for stream in (self.process.stdin, self.process.stdout):
            assert stream
            stream.close()
        self.process.wait()
        self.scratch.cleanup()

    def each(self, jobs: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
        """What became of each job, in their order.

        Raises:
            RuntimeError: The process died.
        """
        self._tell(jobs)
        found: dict[int, dict[str, Any]] = {}
        assert self.process.stdout
        while len(found) < len(jobs):
            line = self.process.stdout.readline()
            if not line:
                raise RuntimeError(f"{forks.__file__} ended with status {self.process.wait()}")
            one = json.loads(line)
            found[one["job"]] = one
            self.progress(f"{len(found)}/{len(jobs)} done, last {names[one['job']]}")
        return [found[i] for i in range(len(jobs))]

    def _tell(self, value: Any) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()


def run(
    faults: Sequence[Fault],
    root: Path,
    preload: Sequence[str] = PRELOAD,
    progress: Progress = lambda _: None,
    quick: bool = False,
) -> MutationResult:
    """Inject each fault alone and ask its judges.

    Args:
        faults: Which.
        root: The checkout.
        preload: Modules that are imported once.
        progress: Called with what is done.
        quick: Of the judges' tests, only those that found a fault are run without one, afterwards;
            else all are, before.

    Raises:
        InputError: A fault's text is not there, or a judge's tests fail without a fault.
    """
    if lines := stale(faults, root):
        raise InputError(f"{len(lines)} of {len(faults)} faults cannot be injected: {lines[0]}")
    with Forks(root, preload, progress) as made:
        skipped = {} if quick else _judges(made, faults)
        titles = [f"{fault.kind}: {fault.title}" for fault in faults]
        found = made.each([_job(fault) for fault in faults], titles)
        rows = [_row(*pair) for pair in zip(faults, found, strict=True)]
        if quick and (tests := sorted({row.by for row in rows if row.by})):
            _clean(made.each([{"tests": tests}], ["those that found a fault"])[0], "that found one")
    return MutationResult(rows, skipped)


def _job(fault: Fault) -> dict[str, Any]:
    place = {"module": fault.module, "file": fault.file}
    return {"tests": fault.selection, **place, "right": fault.right, "wrong": fault.wrong}


def _judges(made: Forks, faults: Sequence[Fault]) -> dict[str, int]:
    """Run all judges' tests without a fault; gives how many of whose were skipped."""
    asked = list(dict.fromkeys(judge for fault in faults for judge in fault.judges))
    clean = made.each([{"tests": JUDGES[judge].tests} for judge in asked], asked)
    for judge, found in zip(asked, clean, strict=True):
        _clean(found, f"of {JUDGES[judge].name}")
    pairs = zip(asked, clean, strict=True)
    return {judge: found["skipped"] for judge, found in pairs if found["skipped"]}


def _clean(found: Mapping[str, Any], which: str) -> None:
    """Refuse tests that fail anyway: they would find any fault."""
    if found["code"] or not found["passed"]:
        why = f"{found['failed']}: {found['message']}" if found["failed"] else found["message"]
        raise InputError(f"without a fault, the tests {which} fail: {why}")


def _row(fault: Fault, found: Mapping[str, Any]) -> FaultRow:
    """What became of a fault. Only a test that fails finds one: what cannot be run finds none."""
    error = ""
    if found["code"] not in (0, 1):
        error = f"its tests could not be run: {found['message'] or found['code']}"
    elif not found["loaded"]:
        error = "its tests did not import the file"
    by = found["failed"] if found["code"] == 1 and not error else ""
    return FaultRow(fault, by, found["message"] if by else "", error, found["seconds"])
