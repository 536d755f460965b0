"""How far each choice takes several devices from one, measured in real runs.

    python -m tests.benchmarks.device_effects --models enet,genet --devices 2,8

trains small networks by their recipes, in float64, in processes of PyTorch, and prints a table in
Markdown.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from parity.capture.torch_threads import one_thread
from parity.cli.arguments import parse_devices
from parity.io.files import check_writable, write_atomically
from parity.ladder import tolerances
from parity.model_checks.devices.ladder import ONE, distance, observed, recipe_of
from parity.model_checks.devices.plan import CASES, DDP, STEPS, Job, Plan
from parity.model_checks.devices.predicted import DeviceRun, predict
from parity.model_checks.devices.processes import run
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.tensors import STATISTICS, tensors
from parity.spec.training.parallel import DDP as DEFAULT
from parity.spec.training.parallel import Parallel
from parity.spec.training.recipe import Stage
from parity.spec.training.trainer import Arrays


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a choice changes, in one network on one number of devices.

    Attributes:
        model: The network.
        optimizer: That trains it.
        case: Which choice, a key of `CASES`.
        devices: How many.
        first: Distance of the weights from those of one device after a step, relative to its step.
        last: After the last step, relative to the way that they have gone.
        step: The length of the first step, relative to one device's.
        statistics: Distance of the running statistics after the last step, relative to their size.
        predicted: Distance of the weights from the predicted ones after the last step, as `last`.
    """

    model: str
    optimizer: str
    case: str
    devices: int
    first: float
    last: float
    step: float
    statistics: float
    predicted: float


def measure(model: str, counts: Sequence[int], steps: int = STEPS) -> Iterator[Effect]:
    """The effects of all choices, from one real run each.

    Args:
        model: A key of `MODELS`.
        counts: Of devices.
        steps: Of each run.

    Raises:
        InputError: No recipe trains it.
        RuntimeError: A process failed.
    """
    recipe = recipe_of(model, steps)
    jobs = [Job(devices, case, DDP) for devices in counts for case in CASES]
    plan = Plan(recipe, (ONE, Job(1, "pad", DDP), *jobs), steps)
    runs, stage = run(plan), recipe.stages[0]
    full, partial = (observed(plan, runs, job) for job in plan.jobs[:2])
    with one_thread():
        for job in jobs:
            found = observed(plan, runs, job)
            one = partial if CASES[job.case].partial else full
            expected = predict(plan, job.case, job.devices)
            yield effect(stage, model, job, found, one, expected)


def effect(
    stage: Stage, model: str, job: Job, found: DeviceRun, one: DeviceRun, expected: DeviceRun
) -> Effect:
    """Return how far one run is from that of one device."""
    specs = tensors(stage.config)
    kept = [k for k, spec in specs.items() if spec.kind in ("mean", "var")]
    trained = [k for k, spec in specs.items() if spec.kind not in STATISTICS]
    size = math.hypot(*(tolerances.norm(one.last[k]) for k in kept))
    return Effect(
        model,
        stage.optimizer.kind,
        job.case,
        job.devices,
        distance(stage, found.first, one.first, one.before),
        distance(stage, found.last, one.last, one.before),
        way(found, trained) / way(one, trained),
        math.hypot(*(tolerances.norm(found.last[k] - one.last[k]) for k in kept)) / size,
        distance(stage, found.last, expected.last, one.before),
    )


def way(found: DeviceRun, keys: Sequence[str]) -> float:
    """The length of the first step."""
    before: Arrays = found.before
    return math.hypot(*(tolerances.norm(found.first[k] - before[k]) for k in keys))


def table(effects: Sequence[Effect]) -> list[str]:
    """In Markdown."""
    lines = [
        "| network, optimizer | choice | devices | after 1 step | after the last | first step"
        " | statistics | prediction |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for e in effects:
        numbers = (f"{x:.2g}" for x in (e.first, e.last))
        cells = [
            f"{e.model}, {e.optimizer}",
            choice(CASES[e.case].parallel, e.case),
            f"{e.devices}",
        ]
        cells += [*numbers, f"{e.step:.3f}", f"{e.statistics:.2g}", f"{e.predicted:.0e}"]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def choice(parallel: Parallel, case: str) -> str:
    """What it differs in from what one device computes, or from the default's padding."""
    same = CASES["one"].parallel
    if parallel == DEFAULT:
        return "the defaults"
    changed = [
        f"`{f.name} = {getattr(parallel, f.name)}`"
        for f in dataclasses.fields(Parallel)
        if getattr(parallel, f.name) != getattr(same, f.name)
    ]
    if CASES[case].partial and not changed:
        changed = ["`last = pad`"]
    return ", ".join(changed) or "all as on one device"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.device_effects", description=__doc__
    )
    parser.add_argument("--models", default="enet,genet", help="(default: %(default)s)")
    parser.add_argument("--devices", default="2,8", help="(default: %(default)s)")
    parser.add_argument("--out", metavar="FILE", help="write the table to this file, too")
    args = parser.parse_args(argv)
    try:
        if unknown := [m for m in args.models.split(",") if m not in MODELS]:
            raise InputError(f"model {unknown[0]!r}, expected some of {', '.join(MODELS)}")
        counts = [parse_devices(text) for text in args.devices.split(",")]
        if args.out is not None:
            check_writable(args.out)
        models = args.models.split(",")
        lines = table([e for model in models for e in measure(model, counts)])
    except (InputError, RuntimeError) as error:
        print(f"tests.benchmarks.device_effects: error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines))
    if args.out is not None:
        write_atomically(Path(args.out), "\n".join([*lines, ""]).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
