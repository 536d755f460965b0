"""Faults of training on several devices: injected, run in real processes, and compared."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator

from parity.capture.torch_threads import one_thread
from parity.data.makers import training_size
from parity.diagnosis import causes
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.faults.on_devices import DEVICES, INJECTIONS, INJECTOR, Injection
from parity.faults.rows import MutantRow
from parity.ladder.evidence import Evidence
from parity.model_checks.devices.hypotheses import device_evidence
from parity.model_checks.devices.ladder import RUNGS, judged, observed, recipe_of
from parity.model_checks.devices.plan import DDP, Job, Plan
from parity.model_checks.devices.predicted import DeviceRun, predict
from parity.model_checks.devices.processes import DeviceRuns, run
from parity.model_checks.recipes.optimizers import stage_of
from parity.report.report import Report
from parity.spec.training.recipe import Recipe

STEPS = 2  # of a run: the first step shows most faults, the second what becomes of a last batch


def rows(model: str, fast: bool = False) -> Iterator[MutantRow]:
    """Yield the result of each fault in a network.

    Args:
        model: A key of `MODELS`; one that no recipe trains yields nothing.
        fast: Whether to run each fault once, in PyTorch, where nothing is compiled.

    Raises:
        AssertionError: A run without a fault is reported as faulty.
    """
    if stage_of(model) is not None:
        yield from rows_of(model, recipe_of(model, STEPS), fast)


def rows_of(model: str, recipe: Recipe, fast: bool) -> Iterator[MutantRow]:
    """Yield the result of each fault in a recipe of one stage."""
    begun = time.perf_counter()
    injections = _injections(recipe, fast)
    pairs = {(p.case, p.way): None for p in injections if p.way == DDP or p.case == "one"}
    sound = [Job(DEVICES, case, way) for case, way in pairs]
    with_faults = [Job(DEVICES, p.case, p.way, p.name, INJECTOR) for p in injections]
    plan = Plan(recipe, (*sound, *with_faults), STEPS)
    runs = run(plan)
    with one_thread():
        expected = {case: predict(plan, case, DEVICES) for case in {p.case for p in injections}}
        for job in sound:
            report = _report(plan, runs, job, expected[job.case])
            assert report.ok, f"{model}: {report.failures()[0].sentence()}"
        spent = (time.perf_counter() - begun) / len(injections)
        for injection, job in zip(injections, with_faults, strict=True):
            yield _row(model, plan, runs, injection, job, expected[job.case], spent)


def _injections(recipe: Recipe, fast: bool) -> list[Injection]:
    """Return those that the recipe's network has a place for."""
    stage = recipe.stages[0]
    drops = any(p for p, _ in stage.config.dropout_sites(*training_size(recipe, stage)).values())
    found = [injection for injection in INJECTIONS.values() if drops or not injection.masks]
    if not fast:
        return found
    first: dict[Fault, Injection] = {}
    for injection in found:
        first.setdefault(injection.fault, injection)
    return list(first.values())


def _report(plan: Plan, runs: DeviceRuns, job: Job, expected: DeviceRun) -> Report:
    report = Report(job.key, "float64", seconds=dict.fromkeys(RUNGS, 0.0))
    judged(plan.recipe.stages[0], job, observed(plan, runs, job), expected, RUNGS, report)
    return report


def _row(
    model: str,
    plan: Plan,
    runs: DeviceRuns,
    injection: Injection,
    job: Job,
    expected: DeviceRun,
    seconds: float,
) -> MutantRow:
    title, same = CATALOGUE[injection.fault].title, _equivalent(plan, injection)
    row = MutantRow(
        injection.fault, title, injection.name, model, "", "devices", same, seconds=seconds
    )
    report = _report(plan, runs, job, expected)
    fault = report.fault()
    if fault is None:
        return row
    seen = device_evidence(plan, job, observed(plan, runs, job), expected)
    found = dataclasses.replace(
        row,
        killed=True,
        rung=fault.rung,
        kind=fault.kind,
        named=fault.layer,
        margin=fault.error / fault.limit if fault.limit else math.inf,
    )
    return found.explained(causes.of_evidence(Evidence(fault, devices=seen)))


def _equivalent(plan: Plan, injection: Injection) -> str:
    """Return why no input can reveal a fault; empty if one can."""
    alike = plan.class_weights() is None and plan.recipe.stages[0].loss.ignore_index is None
    return (
        "all samples weigh the same"
        if injection.fault == Fault.DEVICE_LOSS_NORMALIZER and alike
        else ""
    )
