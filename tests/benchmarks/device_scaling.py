"""What several devices cost, and what they bring: seconds of a step of training.

    python -m tests.benchmarks.device_scaling --model enet --size 128x256 --batch 4 --devices 1,2

First one process and one device: plain, and by what several devices are trained with
(`DistributedDataParallel`; `pmap` and `shard_map`), each step in turn with the others. Then the
same batch divided among devices: each number in processes of their own, several times in turn; and
one device on one core (Linux), for otherwise it computes on all of them.
Only on a machine that does nothing else do the numbers mean something.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from typing import Any

from parity.bench import devices
from parity.bench.devices import Job, in_processes
from parity.bench.training import SIDES, steps, trainer
from parity.bench.turns import in_turn
from parity.cli.arguments import parse_size
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.training.parallel import DDP, WAYS
from parity.training.dist_env import LOCAL, free_port
from tests import program

MODULE = "tests.benchmarks.device_scaling"
ROUNDS = 2  # of each number of devices
PLAIN = "plain"
Times = dict[str, dict[str, dict[str, list[float]]]]


def alone(job: Job) -> dict[str, list[float]]:
    """Way -> seconds of each step on one device."""
    trainers: dict[str, Any] = {PLAIN: trainer(job.side, job.model)}
    runs = ROUNDS * job.runs
    if job.side == "torch":
        import torch

        from torch_impl import parallel as torch_parallel

        group = torch_parallel.Group()
        torch.set_num_threads(os.cpu_count() or 1)
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://{LOCAL}:{free_port()}", world_size=1, rank=0
        )
        trainers["DDP"] = trainer(job.side, job.model, group=group)
        found = in_turn(steps(trainers, job.model, job.size, job.batch), runs)
        trainers.clear()  # the group can end once no trainer holds it
        group.leave()
        return found
    from jax_impl import parallel as jax_parallel

    for way in WAYS:
        own = jax_parallel.Group(1, way)
        trainers[way] = trainer(job.side, job.model, parallel=DDP, group=own)
    return in_turn(steps(trainers, job.model, job.size, job.batch), runs)


def timed(job: Job) -> dict[str, list[float]]:
    """What one of the processes times: no devices is a trainer that knows of no others."""
    return devices.divided(job) if job.devices else alone(job)


def measure(job: Job, numbers: Sequence[int], progress: Callable[[str], None]) -> Times:
    """Side -> `alone` or a number of devices -> way -> seconds of each step."""
    found: Times = {}
    for side in SIDES:
        progress(f"{side}, alone")
        one = dataclasses.replace(job, side=side)
        found[side] = {"alone": in_processes(one, MODULE)}
        for turn in range(ROUNDS):
            for number, cores in ((1, 1), *((number, 0) for number in numbers)):
                name = f"{number}{', one core' * cores}"
                progress(f"{side}, {name}, round {turn + 1}")
                held = found[side].setdefault(name, {})
                several = dataclasses.replace(one, devices=number, cores=cores)
                for way, seconds in in_processes(several, MODULE).items():
                    held.setdefault(way, []).extend(seconds)
                    progress(f"{way}: {1e3 * statistics.median(seconds):.1f} ms")
    return found


def table(found: Times, batch: int) -> list[str]:
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
        for number, ways in found[side].items():
            if number == "alone":
                continue
            first = first or number
            for way, seconds in ways.items():
                median = statistics.median(seconds)
                speed = statistics.median(found[side][first][way]) / median
                figures = f"{_figures(seconds)} | {batch / median:.2f} | {speed:.2f}"
                lines.append(f"| {side} | {number} | {way} | {figures} |")
    return lines


def _figures(seconds: Sequence[float]) -> str:
    values = (statistics.median(seconds), min(seconds), max(seconds))
    return " | ".join(f"{1e3 * value:.1f}" for value in values)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", default="enet", choices=MODELS)
    add("--size", default="128x256", metavar="HxW")
    add("--batch", type=int, default=4, metavar="N", help="images of a step, over all devices")
    add("--devices", default="1,2", metavar="LIST")
    add("--runs", type=int, default=8, metavar="N", help=f"steps of each, {ROUNDS} times over")
    add("--json", metavar="FILE")


def run(args: argparse.Namespace) -> int:
    numbers = [int(text) for text in args.devices.split(",")]
    if bad := [n for n in numbers if n < 1 or args.batch % n]:
        raise InputError(f"--batch {args.batch} does not divide among {bad[0]} devices")
    job = Job("", args.model, parse_size(args.size), args.batch, args.runs, 0)
    found = measure(job, numbers, lambda s: print(s, flush=True))
    print("\n".join(table(found, args.batch)))
    program.save(args.json, found)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start(MODULE, add_arguments, run, argv)


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        devices.main(timed)  # one of the processes
    else:
        sys.exit(main())
