"""First calls in processes of their own: how long they take, and how much memory.

    python -m parity.bench.alone JOB

is one of the processes; JOB is a `Job` as JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from parity.io import compilation_cache
from parity.spec.errors import InputError

MODULE = "parity.bench.alone"
MORE = 2  # calls after the first, in which memory may grow
KEEPS = ("jax", "torch.compile")  # those that keep on disk what they compiled
STATUS = Path("/proc/self/status")  # Linux
RESET = Path("/proc/self/clear_refs")  # 5 sets VmHWM to VmRSS, see proc(5)


@dataclasses.dataclass(frozen=True)
class Job:
    """What one process does.

    Attributes:
        name: One of `parity.bench.forward.NAMES`, or of `parity.bench.training.NAMES`.
        model: The network, a key of `parity.spec.models.MODELS`.
        size: Height and width, in pixels.
        batch: Number of images.
        threads: PyTorch's.
        train: Whether a step of training is called, not a forward pass.
    """

    name: str
    model: str
    size: tuple[int, int]
    batch: int
    threads: int
    train: bool


@dataclasses.dataclass(frozen=True)
class Call:
    """What a first call took.

    Attributes:
        seconds: Its duration.
        memory: Bytes by which the process grew at most, from when all libraries were imported and
            nothing was built; None where the system does not say.
    """

    seconds: float
    memory: int | None


@dataclasses.dataclass(frozen=True)
class First:
    """The first calls of one network.

    Attributes:
        cold: With nothing compiled before.
        warm: With all that the one before has left compiled on disk; None if nothing is left.
    """

    cold: Call
    warm: Call | None

    def cells(self) -> list[str]:
        """Return seconds, cold and warm, and MiB more, alike, as text; `-` is unknown."""
        calls = (self.cold, self.warm)
        seconds = [f"{call.seconds:.1f}" if call else "-" for call in calls]
        memory = [call.memory if call else None for call in calls]
        return [*seconds, *("-" if found is None else f"{found / 2**20:.0f}" for found in memory)]


def first_calls(
    names: Sequence[str],
    model: str,
    size: tuple[int, int],
    batch: int,
    threads: int,
    train: bool,
    progress: Callable[[str], None],
) -> dict[str, First]:
    """Measure first calls, each in a process of its own, one after the other.

    Args:
        names: As in `Job`.
        model: As in `Job`.
        size: As in `Job`.
        batch: As in `Job`.
        threads: As in `Job`.
        train: As in `Job`.
        progress: Called with what is done next.

    Raises:
        InputError: A process failed.
    """
    found = {}
    for name in names:
        job = Job(name, model, size, batch, threads, train)
        with tempfile.TemporaryDirectory() as folder:
            progress(f"{name}: first call in a process of its own, nothing compiled before")
            cold, warm = in_process(job, folder), None
            if name in KEEPS:
                progress(f"{name}: first call in a process of its own, all compiled before")
                warm = in_process(job, folder)
        found[name] = First(cold, warm)
    return found


def in_process(job: Job, folder: str) -> Call:
    """Do a job in a process that keeps what it compiles in this folder.

    Raises:
        InputError: It failed.
    """
    caches = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": f"{folder}/xla",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
    }
    command = [sys.executable, "-m", MODULE, json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(command, env=os.environ | caches, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        why = said[-1] if said else f"status {done.returncode}"
        raise InputError(f"{job.name}: the process of its first call failed: {why}")
    return Call(**json.loads(done.stdout.splitlines()[-1]))


def measured(job: Job) -> Call:
    """Build the network in this process, and call it."""
    module = importlib.import_module(f"parity.bench.{'training' if job.train else 'forward'}")
    importlib.import_module(f"{job.name.partition('.')[0]}_impl.train")
    build = module.trainers if job.train else module.networks
    forget_peak()
    before = resident("VmRSS")
    call = build((job.name,), job.model, job.size, job.batch, job.threads)[job.name]
    start = time.perf_counter()
    call()
    seconds = time.perf_counter() - start
    for _ in range(MORE):
        call()
    peak = resident("VmHWM")
    return Call(seconds, None if before is None or peak is None else peak - before)


def forget_peak() -> None:
    """Have `VmHWM` begin anew, where the system lets a process: imports may have taken more."""
    with contextlib.suppress(OSError):
        RESET.write_text("5")


def resident(key: str) -> int | None:
    """Return the memory of this process in bytes: `VmRSS`, of now, or `VmHWM`, the most of late.

    Not `ru_maxrss`: a new process begins with that of the one that started it.
    """
    with contextlib.suppress(OSError):
        for line in STATUS.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) << 10
    return None


def main() -> None:
    """Be one of the processes: do the job of the command line, and print the result as JSON."""
    values = json.loads(sys.argv[1])
    compilation_cache.keep_compiled(Path(os.environ["JAX_COMPILATION_CACHE_DIR"]))
    print(json.dumps(dataclasses.asdict(measured(Job(**values | {"size": tuple(values["size"])})))))


if __name__ == "__main__":
    main()
