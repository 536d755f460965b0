"""Starting and watching both sides' processes of a plan, and collecting their results."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from parity.model_checks.devices.plan import Job, Plan
from parity.training.dist_env import free_port

LIMIT = 1800  # seconds
LOOK = 0.1  # seconds between looks
LINES = 8  # of what a process said last

Progress = Callable[[str], None]


class DeviceRuns:
    """The results of the processes.

    Args:
        arrays: `Job.key`:name -> one array of each process.
    """

    def __init__(self, arrays: dict[str, list[np.ndarray]]) -> None:
        self.arrays = arrays

    def named(self, job: Job, prefix: str) -> dict[str, np.ndarray]:
        """Name -> array, of `first/`, `kept/` or `last/`."""
        start = f"{job.key}:{prefix}/"
        return {k.removeprefix(start): a[0] for k, a in self.arrays.items() if k.startswith(start)}

    def evaluation(self, job: Job, when: str, images: int) -> tuple[np.ndarray, float, int]:
        """Confusion matrix, mean loss, and images that were counted; see `worker.evaluate`."""
        start = f"{job.key}:{when}/{images}"
        loss, count = self.arrays[f"{start}/loss"][0]
        return self.arrays[f"{start}/matrix"][0], float(loss), int(count)

    def losses(self, job: Job) -> np.ndarray:
        """(steps,) float64."""
        return self.arrays[f"{job.key}:losses"][0]

    def handed(self, job: Job, what: str) -> list[np.ndarray]:
        """Return, per step, digests of the `samples` or `masks` that all processes received."""
        each = self.arrays[f"{job.key}:{what}"]
        return [np.concatenate([a[i][a[i] != 0] for a in each]) for i in range(len(each[0]))]


def run(plan: Plan, progress: Progress = lambda _: None) -> DeviceRuns:
    """Run all of a plan's jobs.

    Raises:
        RuntimeError: A process failed, or took too long; its last lines say why.
    """
    with tempfile.TemporaryDirectory(prefix="parity-devices-") as name:
        folder = Path(name)
        ports = {devices: free_port() for devices in plan.counts("torch")}
        (folder / "plan.pickle").write_bytes(pickle.dumps((plan, ports)))
        progress(f"{len(plan.jobs)} runs on several devices")
        sides = sorted({job.side for job in plan.jobs})
        started = {side: _start(side, folder) for side in sides}
        try:
            _watch(started, folder)
        finally:
            for process in started.values():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # and what it has started
                process.wait()
        arrays: dict[str, list[np.ndarray]] = {}
        for key, array in _read(folder):
            arrays.setdefault(key, []).append(array)
    return DeviceRuns(arrays)


def _start(side: str, folder: Path) -> subprocess.Popen:
    command = [
        sys.executable,
        "-m",
        "parity.model_checks.devices.worker",
        side,
        str(folder),
        str(os.getpid()),
    ]
    # Virtual devices are a CPU's, and several processes on one GPU would not be several devices.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    with (folder / f"{side}.txt").open("wb") as file:
        return subprocess.Popen(
            command, env=environment, stdout=file, stderr=file, start_new_session=True
        )


def _watch(started: dict[str, subprocess.Popen], folder: Path) -> None:
    """Wait until all have ended well."""
    begun, left = time.monotonic(), dict(started)
    while left:
        for side, process in list(left.items()):
            if process.poll() is None:
                continue
            del left[side]
            if process.returncode:
                said = (folder / f"{side}.txt").read_text(errors="replace").splitlines()
                raise RuntimeError(f"the processes of {side} failed: " + "\n".join(said[-LINES:]))
        if time.monotonic() - begun > LIMIT:
            raise RuntimeError(f"the processes of {', '.join(left)} took more than {LIMIT} s")
        time.sleep(LOOK)


def _read(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the processes' arrays in the order of their ranks."""
    paths = sorted(folder.glob("*.npz"), key=lambda p: int(p.stem.rpartition("-")[2]))
    for path in paths:
        with np.load(path) as held:
            yield from ((key, held[key]) for key in held.files)
