"""The ladder for several devices: each real run is compared with its prediction.

Where the recipe says that several devices compute the function of one, the prediction is the real
run of one device; elsewhere it is `parity.model_checks.devices.predicted`. What is compared:
gradients and loss of the first step (L3), the optimizer's step (L4), and all losses, weights and
statistics after the last one (L5). Of each run and rung the worst tensor is reported.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from parity.capture.records import NETWORK
from parity.capture.torch_threads import one_thread
from parity.diagnosis import causes
from parity.ladder import tolerances, verdicts
from parity.ladder.evidence import Evidence
from parity.ladder.tolerances import Measurement
from parity.model_checks.devices.hypotheses import device_evidence
from parity.model_checks.devices.plan import ALONE, CASES, STEPS, Job, Plan
from parity.model_checks.devices.predicted import DeviceRun, predict, stepped
from parity.model_checks.devices.processes import DeviceRuns, run
from parity.model_checks.recipes.optimizers import stage_of
from parity.model_checks.recipes.scaled_down import PER_EPOCH, scaled_down
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check, Report
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from parity.spec.tensors import STATISTICS, tensors
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Arrays

RUNGS = ("L3", "L4", "L5")
LIMIT = 1e-9  # of gradients and of updates; here of trajectories, too
DEVICES = 2  # several: but for the batch, any other number trains by the same stage
ONE = Job(ALONE, "one", "torch")  # the one device that all others are measured by

Progress = Callable[[str], None]


def recipe_of(model: str, steps: int = STEPS) -> Recipe:
    """Return a scaled-down recipe that trains a network on several devices.

    It has the last stage that trains the network, in the first recipe with such a stage.

    Raises:
        InputError: No recipe trains it.
    """
    stage = stage_of(model)
    if stage is None:
        raise InputError(f"no recipe trains {model}")
    recipe = next(r for r in RECIPES.values() if stage in r.stages)
    # As many epochs as steps: what is dropped may leave one step of an epoch.
    alone = dataclasses.replace(recipe, stages=(stage,), start=None)
    return scaled_down(alone, PER_EPOCH * steps, devices=DEVICES)


def check(plan: Plan, rungs: Sequence[str] = RUNGS, progress: Progress = lambda _: None) -> Report:
    """Run a recipe on several devices, in real processes, and compare.

    Args:
        plan: A plan from `planned`, or some of its jobs, for a recipe from `recipe_of`.
        rungs: The rungs to compare, of `RUNGS`.
        progress: Called with a description of the current action.

    Raises:
        RuntimeError: A process failed.
    """
    begun = time.perf_counter()
    runs = run(plan, progress)
    report = Report(f"{plan.recipe.stages[0].model} on several devices", "float64")
    report.seconds = dict.fromkeys(rungs, 0.0)
    compared(report, plan, runs, progress)
    report.seconds[rungs[0]] += time.perf_counter() - begun
    return report


def compared(report: Report, plan: Plan, runs: DeviceRuns, progress: Progress) -> None:
    """Compare every job with its prediction."""
    rungs, stage = list(report.seconds), plan.recipe.stages[0]
    evidence: Evidence | None = None
    one = observed(plan, runs, ONE)
    with one_thread():
        alone = predict(plan, "one", 1)
        predictions: dict[tuple[int, str], DeviceRun] = {}
        for job in plan.jobs:
            progress(f"{job.case} on {job.devices}, {job.way}")
            expected = one
            if job == ONE:
                expected = alone
            elif job.devices > 1 and not CASES[job.case].same:
                if (job.devices, job.case) not in predictions:
                    made = predict(plan, job.case, job.devices)
                    predictions[job.devices, job.case] = made
                    # Of a last batch that is not full, one device pads or drops nothing.
                    near = predict(plan, job.case, 1) if CASES[job.case].partial else one
                    report.notes.append(note(stage, job, made, near))
                expected = predictions[job.devices, job.case]
            found = observed(plan, runs, job)
            failed = [c for c in judged(stage, job, found, expected, rungs, report) if not c.ok]
            if failed and evidence is None:
                fault = min(failed, key=lambda c: c.rung)
                seen = device_evidence(plan, job, found, expected)
                evidence = Evidence(fault, devices=seen)
    if evidence is not None:
        report.causes = list(causes.of_evidence(evidence))


def judged(
    stage: Stage,
    job: Job,
    found: DeviceRun,
    expected: DeviceRun,
    rungs: Sequence[str],
    report: Report,
) -> list[Check]:
    """Add a job's checks to a report: of each rung the worst; and give them."""
    where = f"{job.case} on {job.devices}, {job.way}" if job.devices else f"alone, {job.way}"
    measured = {"L3": gradients, "L4": updates, "L5": trajectories}
    made: list[Check] = []
    for rung in rungs:
        checks = verdicts.judge(rung, list(measured[rung](stage, found, expected)))
        made.append(min(checks, key=lambda c: (c.ok, c.margin)))
        if rung == "L5":
            made += handed(found, expected)
    made = [
        dataclasses.replace(c, quantity=dataclasses.replace(c.quantity, detail=where)) for c in made
    ]
    report.checks += made
    return made


def gradients(_: Stage, found: DeviceRun, expected: DeviceRun) -> Iterator[Measurement]:
    for key, reference in expected.gradients.items():
        yield _measurement(key, Kind.PARAMETER_GRADIENT, 0, found.gradients.get(key), reference)
    yield _measurement(NETWORK, Kind.LOSS, 0, found.losses[:1], expected.losses[:1])


def updates(stage: Stage, found: DeviceRun, expected: DeviceRun) -> Iterator[Measurement]:
    """Compare a step with one device's optimizer on the same gradients; and the statistics.

    The gradients found are used, not the predicted ones: Adam turns a tiny gradient into a whole
    step, and so amplifies differences of rounding.
    """
    made = stepped(stage, found)
    for key, spec in tensors(stage.config).items():
        before = found.before[key]
        if spec.kind in STATISTICS:
            yield _measurement(key, Kind.STATE, 1, found.first[key], expected.first[key])
        elif key in made:
            yield _measurement(key, Kind.STEP, 1, found.first[key] - before, made[key] - before)


def trajectories(_: Stage, found: DeviceRun, expected: DeviceRun) -> Iterator[Measurement]:
    steps = len(expected.losses)
    for key in expected.last:
        yield _measurement(key, Kind.STATE, steps, found.last[key], expected.last[key])
    yield _measurement(NETWORK, Kind.LOSSES, steps, found.losses, expected.losses)


def handed(found: DeviceRun, expected: DeviceRun) -> Iterator[Check]:
    """Compare the batches that all devices together received, bit for bit."""
    for what in ("samples", "masks"):
        pairs = list(zip(getattr(found, what), getattr(expected, what), strict=True))
        wrong = [i for i, (a, b) in enumerate(pairs, 1) if not np.array_equal(a, b)]
        note = f"others in step {wrong[0]}" if wrong else ""
        error = math.inf if wrong else 0.0
        quantity = Quantity(Kind.BATCH, what)
        yield Check("L5", "structure", NETWORK, NETWORK, quantity, error, 0.0, note=note)


def observed(plan: Plan, runs: DeviceRuns, job: Job) -> DeviceRun:
    """Return the results of a real run."""
    before = plan.arrays()
    first, kept = runs.named(job, "first"), runs.named(job, "kept")
    return DeviceRun(
        plan.rate(job.case, max(job.devices, 1), 0),
        before,
        gradients_of(plan, job, before, first, kept),
        first,
        runs.named(job, "last"),
        runs.losses(job),
        runs.handed(job, "samples"),
        runs.handed(job, "masks"),
    )


def gradients_of(plan: Plan, job: Job, before: Arrays, first: Arrays, kept: Arrays) -> Arrays:
    """Recover the first step's gradients from the optimizer's state or step.

    Adam's first moment is then (1 - b1) (g + wd w), a buffer of momentum g + wd w, and without one
    the step is -rate (g + wd w).
    """
    stage = plan.recipe.stages[0]
    optimizer, decays = stage.optimizer, stage.optimizer.decays(stage.config)
    made: dict[str, np.ndarray] = {}
    for key in kept or decays:
        if optimizer.kind == "adam":
            decayed = kept[key] / (1 - optimizer.betas[0])
        elif kept:
            decayed = kept[key]
        else:
            rate = plan.rate(job.case, max(job.devices, 1), 0) * optimizer.factor(key)
            decayed = (before[key] - first[key]) / rate
        made[key] = decayed - decays[key] * before[key]
    return made


def note(stage: Stage, job: Job, predicted: DeviceRun, one: DeviceRun) -> str:
    """Return a line on how far several devices are predicted to be from one."""
    steps = len(one.losses)
    first, last = (
        distance(stage, getattr(predicted, when), getattr(one, when), one.before)
        for when in ("first", "last")
    )
    return (
        f"{job.case} on {job.devices}: predicted to be {first:.2g} of a step from one device after"
        f" 1 step, {last:.2g} of the way after {steps}"
    )


def distance(stage: Stage, a: Arrays, b: Arrays, before: Arrays) -> float:
    """Return the distance between two runs' parameters, relative to how far the second moved."""
    keys = [k for k, spec in tensors(stage.config).items() if spec.kind not in STATISTICS]
    between = math.hypot(*(tolerances.norm(a[k] - b[k]) for k in keys))
    return between / math.hypot(*(tolerances.norm(b[k] - before[k]) for k in keys))


def _measurement(
    key: str, kind: Kind, step: int, found: np.ndarray | None, reference: np.ndarray
) -> Measurement:
    layer, _, leaf = key.rpartition(".")
    quantity = Quantity(kind, "" if key == NETWORK else leaf, step=step)
    return tolerances.measured(layer or key, layer or key, quantity, found, reference, LIMIT)
