"""Steps of training whose batch is divided among several devices, in separate processes.

    python -m parity.bench.devices JOB

runs one of the processes; JOB is a `Job` as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from parity.bench.training import SIDES, steps, trainer
from parity.bench.turns import in_turn
from parity.io import compilation_cache
from parity.spec.errors import InputError
from parity.spec.training.parallel import WAYS
from parity.training.dist_env import LOCAL, free_port

MODULE = "parity.bench.devices"
STAGE = "stage: "  # before a line that says what a process does; its last line is the result
BEAT = 0.5  # seconds between two looks at what a process does


@dataclasses.dataclass(frozen=True)
class Job:
    """The measurement that one process makes.

    Attributes:
        side: `torch` or `jax`.
        model: The network, a key of `parity.spec.models.MODELS`.
        size: Height and width, in pixels.
        batch: Images of a step, over all devices.
        runs: Number of timed steps.
        devices: Number of devices that share the batch.
        cores: Processor cores that are used (Linux); 0 is all.
        port: Port on which the processes connect.
        rank: This process's rank.
    """

    side: str
    model: str
    size: tuple[int, int]
    batch: int
    runs: int
    devices: int
    cores: int = 0
    port: int = 0
    rank: int = 0


def divided(job: Job) -> dict[str, list[float]]:
    """Way -> seconds of each step, timed in one of the processes."""
    if job.cores:
        os.sched_setaffinity(0, range(job.cores))
    if job.side == "torch":
        import torch

        from torch_impl import parallel as torch_parallel

        group = torch_parallel.start((LOCAL, job.port), job.devices, job.devices, job.rank)
        if job.cores:
            torch.set_num_threads(job.cores)
        trainers = {"DDP": trainer(job.side, job.model, group=group)}
        timed = steps(trainers, job.model, job.size, job.batch // job.devices)
        found = in_turn(timed, job.runs, report_stage)
        trainers.clear()  # the group can end once no trainer holds it
        group.leave()
        return found
    from jax_impl import parallel as jax_parallel

    jax_parallel.start(None, job.devices)
    groups = {way: jax_parallel.Group(job.devices, way) for way in WAYS}
    trainers = {way: trainer(job.side, job.model, group=group) for way, group in groups.items()}
    return in_turn(steps(trainers, job.model, job.size, job.batch), job.runs, report_stage)


def report_stage(stage: str) -> None:
    """Print the next action, for the parent process."""
    print(f"{STAGE}{stage}", flush=True)


def in_processes(
    job: Job, module: str = MODULE, progress: Callable[[str], None] = lambda _: None
) -> dict[str, list[float]]:
    """Start a job's processes.

    Args:
        job: The job; its port and rank are chosen here.
        module: The program that each process runs.
        progress: Called at least every second with the first process's current activity.

    Returns:
        The first process's result: way of mapping -> seconds of each step.

    Raises:
        InputError: A process failed.
    """
    port, pipe = free_port(), subprocess.PIPE
    jobs = [
        dataclasses.replace(job, port=port, rank=rank)
        for rank in range(max(1, job.devices) if job.side == "torch" else 1)
    ]
    commands = [[sys.executable, "-m", module, json.dumps(dataclasses.asdict(j))] for j in jobs]
    started = [subprocess.Popen(command, stdout=pipe, text=True) for command in commands]
    printed = _followed(started[0], progress)
    for process in started:
        process.communicate()
    if any(process.returncode for process in started):
        raise InputError(f"{job.side} on {job.devices} devices failed")
    return json.loads(printed[-1])


def _followed(process: subprocess.Popen[str], progress: Callable[[str], None]) -> list[str]:
    """Yield the lines that a process prints; repeat its last activity while silent."""
    printed: list[str] = []

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            printed.append(line.rstrip("\n"))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    while thread.is_alive():
        stages = [line for line in printed if line.startswith(STAGE)]
        progress(stages[-1].removeprefix(STAGE) if stages else "its processes start")
        thread.join(BEAT)
    return printed


def main(timed: Callable[[Job], dict[str, list[float]]] = divided) -> None:
    """Be one of the processes: time the job of the command line, and print the result as JSON."""
    values = json.loads(sys.argv[1])
    compilation_cache.keep_compiled(compilation_cache.of_user())
    print(json.dumps(timed(Job(**values | {"size": tuple(values["size"])}))))


@dataclasses.dataclass(frozen=True)
class Speed:
    """Steady training speed on a number of devices.

    Attributes:
        side: `torch` or `jax`.
        devices: Number of devices that share the batch.
        way: How the step is distributed, such as `ddp` or `pmap`.
        batch: Images of a step, over all devices.
        seconds: Duration of each timed step.
    """

    side: str
    devices: int
    way: str
    batch: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def images(self) -> float:
        """Return the images per second, on all devices together."""
        return self.batch / self.median

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        own = {"images_per_second": self.images, "of_each": self.images / self.devices}
        return dataclasses.asdict(self) | own


def speeds(
    model: str,
    size: tuple[int, int],
    batch: int,
    runs: int,
    numbers: Sequence[int],
    progress: Callable[[str], None],
) -> list[Speed]:
    """Measure both sides' speeds on these numbers of devices, each in separate processes.

    Raises:
        InputError: A process failed.
    """
    found = []
    for side in SIDES:
        for devices in numbers:
            where = f"{side} on {devices} device{'s' * (devices > 1)}"

            def shown(stage: str, where: str = where) -> None:
                progress(f"{where}, {stage}")

            job = Job(side, model, size, batch, runs, devices)
            ways = in_processes(job, progress=shown)
            found += [Speed(side, devices, way, batch, tuple(s)) for way, s in ways.items()]
    return found


if __name__ == "__main__":
    main()
