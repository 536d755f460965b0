"""The checks of L4 and L5 that `parity check` adds for our own networks: their recipes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from parity.diagnosis import causes
from parity.ladder.evidence import Evidence
from parity.model_checks.recipes import initial, losses, schedules
from parity.model_checks.recipes.compare_sides import TrainingComparison
from parity.model_checks.recipes.optimizers import stage_of
from parity.model_checks.recipes.scaled_down import STEPS, scaled_down
from parity.model_checks.recipes.side import TrainedSide
from parity.model_checks.small_networks import small
from parity.report.report import Check, Report
from parity.spec.recipes import RECIPES
from parity.spec.training.recipe import Recipe

Progress = Callable[[str], None]
Known = tuple[Check, Evidence | None]  # a check, and what is known of it if it fails


def of_model(model: str) -> list[Recipe]:
    """Return every recipe that trains a network; if none does, those of its family."""
    stage = stage_of(model)
    if stage is None:
        return []
    return [r for r in RECIPES.values() if any(s.model == stage.model for s in r.stages)]


def add(report: Report, model: str, levels: Sequence[str], progress: Progress) -> None:
    """Add checks of the parts of a model's recipes to a report.

    Args:
        report: The ladder's report.
        model: A key of `MODELS`.
        levels: The chosen rungs; L4 and L5 are added to.
        progress: Called with a description of the current action.
    """
    recipes = of_model(model)
    if not recipes:
        said = "L4 and L5 are of AdamW on one batch; a schedule and a training were not compared"
        report.notes.append(f"no recipe trains {model}: {said}")
        if "L4" in levels:
            progress("L4 initial weights")
            _add(report, "L4", initial_weights(model, "torch"))
        return
    if "L4" in levels:
        progress("L4 schedules, losses, initial weights")
        _add(report, "L4", parts(model, recipes))
    if "L5" in levels:
        progress(f"L5 {recipes[0].name}, {STEPS} steps, scaled down")
        _add(report, "L5", scaled_down_training(recipes[0]))


def parts(model: str, recipes: Iterable[Recipe]) -> Iterator[Known]:
    """L4: schedules, losses, and what training begins with."""
    for recipe in recipes:
        for check in schedules.checks(recipe):
            yield check, None
    for check in losses.checks():
        yield check, None
    stage = stage_of(model)
    assert stage is not None
    yield from initial_weights(model, stage.initial)


def initial_weights(model: str, rule: str) -> Iterator[Known]:
    """L4: what both sides' layers begin with, and what is drawn by a rule for both."""
    for check, draws in initial.checks(small(model)[0], rule):
        yield check, Evidence(check, draws=draws)


def scaled_down_training(recipe: Recipe, steps: int = STEPS) -> Iterator[Known]:
    """L5: both sides' trainers on the scaled-down recipe."""
    small_one = scaled_down(recipe, steps)
    comparison = TrainingComparison(
        TrainedSide("torch", small_one), TrainedSide("jax", small_one), steps
    )
    for check in comparison.checks():
        divergence = None if check.ok else comparison.divergence(check)
        yield check, Evidence(check, divergence=divergence)


def _add(report: Report, rung: str, found: Iterable[Known]) -> None:
    start = time.perf_counter()
    known = list(found)
    report.checks += [check for check, _ in known]
    report.seconds[rung] = report.seconds.get(rung, 0.0) + time.perf_counter() - start
    fault = report.fault()
    evidence = next((e for check, e in known if check is fault), None)
    if evidence is not None:
        report.causes = list(causes.of_evidence(evidence))
