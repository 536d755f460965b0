"""What several devices cost, and what they bring: seconds of a step of training.

    python -m parity.training.scaling --model enet --size 128x256 --batch 4 --devices 1,2

First one process and one device: plain, and by what several devices are trained with
(`DistributedDataParallel`; `pmap` and `shard_map`), each step in turn with the others. Then the
same batch divided among devices: each number in processes of their own, several times in turn; and
one device on one core (Linux), for otherwise it computes on all of them.
Only on a machine that does nothing else do the numbers mean something.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from parity.cli.arguments import parse_size
from parity.cli.commands.bench import batch_of, in_turn, trainer
from parity.io import compilation_cache
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.training.parallel import DDP, WAYS
from parity.training.dist_env import LOCAL, free_port

ROUNDS = 2  # of each number of devices
SIDES = ("torch", "jax")
PLAIN = "plain"
BEAT = 0.5  # seconds between two looks at what a process does
STAGE = "stage: "  # before a line that says what is done; the last line is the result


def alone(side: str, model: str, size: tuple[int, int], batch: int, runs: int) -> dict[str, list]:
    """Seconds of each step on one device, by how it is made."""
    made: dict[str, Any] = {}
    group: Any = None
    if side == "torch":
        import torch

        from torch_impl import parallel as torch_parallel

        group = torch_parallel.Group()
        torch.set_num_threads(os.cpu_count() or 1)
        made[PLAIN] = trainer(side, model)
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://{LOCAL}:{free_port()}", world_size=1, rank=0
        )
        made["DDP"] = trainer(side, model, group=group)
    else:
        from jax_impl import parallel as jax_parallel

        made[PLAIN] = trainer(side, model)
        for way in WAYS:
            made[way] = trainer(side, model, parallel=DDP, group=jax_parallel.Group(1, way))
    found = in_turn(steps(made, model, size, batch), runs, tell)
    _leave(group, made)
    return found


def tell(stage: str) -> None:
    """What is done next, for whoever started this process."""
    print(f"{STAGE}{stage}", flush=True)


def _leave(group: Any, made: dict[str, Any]) -> None:
    """End PyTorch's group, once no trainer holds it."""
    made.clear()
    if group is not None:
        group.leave()


def steps(
    made: dict[str, Any], model: str, size: tuple[int, int], batch: int
) -> dict[str, Callable[[], object]]:
    """What is timed: one step, waited for."""
    given = batch_of(model, size, batch)
    return {name: functools.partial(each.step, given, 5e-4) for name, each in made.items()}


def divided(
    side: str,
    model: str,
    size: tuple[int, int],
    batch: int,
    runs: int,
    devices: int,
    cores: int,
    port: int,
    rank: int,
) -> dict[str, list]:
    """The same where the batch is divided among devices; in one of the processes.

    Args:
        side: `torch` or `jax`.
        model: The network.
        size: Height and width, in pixels.
        batch: Images, over all devices.
        runs: Steps that are counted.
        devices: Among which it is divided.
        cores: That are used; 0 is all.
        port: Where the processes meet.
        rank: Which of them this one is.
    """
    group: Any = None
    if cores:
        os.sched_setaffinity(0, range(cores))
    if side == "torch":
        import torch

        from torch_impl import parallel as torch_parallel

        group = torch_parallel.start((LOCAL, port), devices, devices, rank)
        if cores:
            torch.set_num_threads(cores)
        part = batch // devices
        made = {"DDP": trainer(side, model, group=group)}
    else:
        from jax_impl import parallel as jax_parallel

        jax_parallel.start(None, devices)
        part = batch
        made = {way: trainer(side, model, group=jax_parallel.Group(devices, way)) for way in WAYS}
    found = in_turn(steps(made, model, size, part), runs, tell)
    _leave(group, made)
    return found


def in_processes(
    arguments: Sequence[str],
    side: str,
    devices: int,
    cores: int = 0,
    progress: Callable[[str], None] = lambda stage: None,
) -> dict[str, list[float]]:
    """`divided`, by processes of their own: what the first one says.

    Args:
        arguments: Of `main`.
        side: `torch` or `jax`.
        devices: Among which the batch is divided; 0 is `alone`.
        cores: That are used; 0 is all.
        progress: Called at least every few seconds with what is being done.

    Raises:
        RuntimeError: A process failed.
    """
    command = [sys.executable, "-m", "parity.training.scaling", *arguments, "--side", side]
    command += ["--among", str(devices), "--cores", str(cores), "--port", str(free_port())]
    ranks = range(max(1, devices) if side == "torch" else 1)
    pipe = subprocess.PIPE
    started = [
        subprocess.Popen([*command, "--rank", str(rank)], stdout=pipe, text=True) for rank in ranks
    ]
    said = _listened(started[0], progress)
    for process in started:
        process.communicate()
    if any(process.returncode for process in started):
        raise RuntimeError(f"{side} on {devices} devices failed")
    return json.loads(said[-1])


def _listened(process: subprocess.Popen[str], progress: Callable[[str], None]) -> list[str]:
    """The lines of a process; what it does is told as it says so, and again while it is silent."""
    said: list[str] = []

    def listen() -> None:
        assert process.stdout
        for line in process.stdout:
            said.append(line.rstrip("\n"))

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    while thread.is_alive():
        stages = [line for line in said if line.startswith(STAGE)]
        progress(stages[-1].removeprefix(STAGE) if stages else "its processes start")
        thread.join(BEAT)
    return said


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast so many devices train together, once they run.

    Attributes:
        side: `torch` or `jax`.
        devices: Among which the batch is divided.
        way: By what.
        batch: Images of a step, over all devices.
        seconds: Of each step that was counted.
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
        """A second, on all devices together."""
        return self.batch / self.median

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
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
    """Both sides' speeds on these numbers of devices, each in processes of its own.

    Raises:
        InputError: A process failed.
    """
    given = {"model": model, "size": f"{size[0]}x{size[1]}", "batch": batch, "runs": runs}
    arguments = [f"--{name}={value}" for name, value in given.items()]
    found = []
    for side in SIDES:
        for devices in numbers:
            where = f"{side} on {devices} device{'s' * (devices > 1)}"

            def shown(stage: str, where: str = where) -> None:
                progress(f"{where}, {stage}")

            try:
                own = [*arguments, f"--devices={devices}"]
                ways = in_processes(own, side, devices, progress=shown)
            except RuntimeError as error:
                raise InputError(str(error)) from error
            found += [Speed(side, devices, way, batch, tuple(s)) for way, s in ways.items()]
    return found


def measure(
    arguments: Sequence[str], numbers: Sequence[int], progress: Callable[[str], None]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Side -> `alone` or a number of devices -> way -> seconds of each step."""
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for side in SIDES:
        progress(f"{side}, alone")
        found[side] = {"alone": in_processes(arguments, side, 0)}
        for turn in range(ROUNDS):
            for devices, cores in ((1, 1), *((number, 0) for number in numbers)):
                name = f"{devices}{', one core' * cores}"
                progress(f"{side}, {name}, round {turn + 1}")
                held = found[side].setdefault(name, {})
                for way, seconds in in_processes(arguments, side, devices, cores).items():
                    held.setdefault(way, []).extend(seconds)
                    progress(f"{way}: {1e3 * statistics.median(seconds):.1f} ms")
    return found


def table(found: dict[str, dict[str, dict[str, list[float]]]], batch: int) -> list[str]:
    """In Markdown."""
    lines = ["| | one device | median ms | min | max | x plain |", "|---|---|--:|--:|--:|--:|"]
    for side in SIDES:
        plain = found[side]["alone"][PLAIN]
        for way, seconds in found[side]["alone"].items():
            # Of neighbours in time: what else the machine does slows both down.
            ratio = statistics.median(a / b for a, b in zip(seconds, plain, strict=True))
            lines.append(f"| {side} | {way} | {_figures(seconds)} | {ratio:.3f} |")
    lines += ["", "| | devices | by | median ms | min | max | images/s | x first |"]
    lines += ["|---|--:|---|--:|--:|--:|--:|--:|"]
    for side in SIDES:
        first = ""
        for devices, ways in found[side].items():
            if devices == "alone":
                continue
            first = first or devices
            for way, seconds in ways.items():
                median = statistics.median(seconds)
                speed = statistics.median(found[side][first][way]) / median
                figures = f"{_figures(seconds)} | {batch / median:.2f} | {speed:.2f}"
                lines.append(f"| {side} | {devices} | {way} | {figures} |")
    return lines


def _figures(seconds: Sequence[float]) -> str:
    values = (statistics.median(seconds), min(seconds), max(seconds))
    return " | ".join(f"{1e3 * value:.1f}" for value in values)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m parity.training.scaling", description=__doc__)
    add = parser.add_argument
    add("--model", default="enet", choices=MODELS)
    add("--size", default="128x256", metavar="HxW")
    add("--batch", type=int, default=4, metavar="N", help="images of a step, over all devices")
    add("--devices", default="1,2", metavar="LIST")
    add("--runs", type=int, default=8, metavar="N", help=f"steps of each, {ROUNDS} times over")
    add("--json", metavar="FILE")
    for name, kind in {"side": str, "among": int, "cores": int, "port": int, "rank": int}.items():
        add(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    compilation_cache.keep_compiled(compilation_cache.of_user())
    numbers = [int(text) for text in args.devices.split(",")]
    if bad := [n for n in numbers if n < 1 or args.batch % n]:
        raise InputError(f"--batch {args.batch} does not divide among {bad[0]} devices")
    what = (args.model, parse_size(args.size), args.batch, args.runs)
    if args.side:
        if args.among == 0:
            seconds = alone(args.side, *what[:3], ROUNDS * args.runs)
        else:
            where = (args.among, args.cores, args.port, args.rank)
            seconds = divided(args.side, *what, *where)
        print(json.dumps(seconds))
        return 0
    own = [f"--{name}={getattr(args, name)}" for name in ("model", "size", "batch", "runs")]
    found = measure([*own, f"--devices={args.devices}"], numbers, lambda s: print(s, flush=True))
    print("\n".join(table(found, args.batch)))
    if args.json:
        Path(args.json).write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
