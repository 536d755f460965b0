"""What becomes of the faults of several devices: planted, really run, and compared."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence

from parity.capture.torch_side import one_thread
from parity.data.makers import training_size
from parity.diagnosis import causes
from parity.diagnosis.catalogue import CATALOGUE
from parity.faults.on_devices import DEVICES, INJECTOR, PLANTS, Plant
from parity.faults.rows import Row
from parity.ladder.evidence import Evidence
from parity.model_checks.devices.hypotheses import spread
from parity.model_checks.devices.ladder import RUNGS, judged, observed, recipe_of
from parity.model_checks.devices.plan import DDP, Job, Plan
from parity.model_checks.devices.predicted import Run, predict
from parity.model_checks.devices.processes import Runs, run
from parity.model_checks.recipes.optimizers import stage_of
from parity.report.report import Report
from parity.spec.training.recipe import Recipe

STEPS = 2  # of a run: the first step shows most faults, the second what becomes of a last batch


def rows(model: str, fast: bool = False) -> Iterator[Row]:
    """What becomes of each fault in a network.

    Args:
        model: A key of `MODELS`; of one that no recipe trains there are none.
        fast: One of each fault, and those of PyTorch, where nothing is compiled.

    Raises:
        AssertionError: A sound run is called faulty.
    """
    if stage_of(model) is not None:
        yield from rows_of(model, recipe_of(model, STEPS), fast)


def rows_of(model: str, recipe: Recipe, fast: bool) -> Iterator[Row]:
    """The same of a recipe of one stage."""
    begun = time.perf_counter()
    plants = _plants(recipe, fast)
    pairs = {(p.case, p.way): None for p in plants if p.way == DDP or p.case == "one"}
    sound = [Job(DEVICES, case, way) for case, way in pairs]
    faulty = [Job(DEVICES, p.case, p.way, p.name, INJECTOR) for p in plants]
    plan = Plan(recipe, (*sound, *faulty), STEPS)
    runs = run(plan)
    with one_thread():
        expected = {case: predict(plan, case, DEVICES) for case in {p.case for p in plants}}
        for job in sound:
            report = _report(plan, runs, job, expected[job.case])
            assert report.ok, f"{model}: {report.failures()[0].sentence()}"
        spent = (time.perf_counter() - begun) / len(plants)
        for plant, job in zip(plants, faulty, strict=True):
            yield _row(model, plan, runs, plant, job, expected[job.case], spent)


def _plants(recipe: Recipe, fast: bool) -> list[Plant]:
    """Those that the recipe's network has a place for."""
    stage = recipe.stages[0]
    drops = any(p for p, _ in stage.config.dropout_sites(*training_size(recipe, stage)).values())
    found = [plant for plant in PLANTS.values() if drops or not plant.masks]
    if not fast:
        return found
    first: dict[int, Plant] = {}
    for plant in found:
        first.setdefault(plant.fault, plant)
    return list(first.values())


def _report(plan: Plan, runs: Runs, job: Job, expected: Run) -> Report:
    report = Report(job.key, "float64", seconds=dict.fromkeys(RUNGS, 0.0))
    judged(plan.recipe.stages[0], job, observed(plan, runs, job), expected, RUNGS, report)
    return report


def _row(
    model: str, plan: Plan, runs: Runs, plant: Plant, job: Job, expected: Run, seconds: float
) -> Row:
    title, same = CATALOGUE[plant.fault].title, _equivalent(plan, plant)
    row = Row(plant.fault, title, plant.name, model, "", "devices", same, seconds=seconds)
    report = _report(plan, runs, job, expected)
    fault = report.fault()
    if fault is None:
        return row
    seen = spread(plan, job, observed(plan, runs, job), expected)
    ranked: Sequence[int] = [
        c.fault for c in causes.rank(Evidence(fault, tuple(report.failures()), "", spread=seen))
    ]
    return dataclasses.replace(
        row,
        killed=True,
        rung=fault.rung,
        kind=fault.kind,
        named=fault.layer,
        margin=fault.error / fault.limit if fault.limit else math.inf,
        rank=ranked.index(plant.fault) + 1 if plant.fault in ranked else None,
    )


def _equivalent(plan: Plan, plant: Plant) -> str:
    """Why no input can tell a fault apart, empty if one can."""
    alike = plan.class_weights() is None and plan.recipe.stages[0].loss.ignore_index is None
    return "all samples weigh the same" if plant.fault == 36 and alike else ""
