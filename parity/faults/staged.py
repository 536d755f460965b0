"""Faults in the start of training: initial weights, and what a stage takes from the last."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from parity.diagnosis import causes
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.faults.rows import MutantRow
from parity.ladder.evidence import Evidence
from parity.model_checks.recipes import initial
from parity.model_checks.recipes.compare_sides import TrainingComparison
from parity.model_checks.recipes.rungs import of_model
from parity.model_checks.recipes.scaled_down import scaled_down
from parity.model_checks.recipes.side import TrainedSide
from parity.model_checks.small_networks import small
from parity.report.report import Check, Report
from parity.spec.models import Config
from parity.spec.tensors import STATISTICS, Tensor, tensors
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.trainer import Snapshot
from parity.training.stage_start import StageStart

Arrays = Mapping[str, np.ndarray]
SHORT = 1  # step: of a recipe so short each stage still has its least epochs
AFTER = 2  # steps of the second stage


def rows(model: str) -> Iterator[MutantRow]:
    """Yield the result of each of these faults.

    Raises:
        AssertionError: A network without a fault is reported as faulty.
    """
    config = small(model)[0]
    sound = initial.made(config, 0)["jax"]
    clean = [c for c, _ in initial.judged(config, sound, "torch", "own of jax") if not c.ok]
    assert not clean, f"{model}: {clean[0].sentence()}"
    for fault, name, change in INITIAL:
        if any(spec.kind in change.kinds for spec in tensors(config).values()):
            yield _drawn(model, config, fault, name, sound, change(config, sound))
    staged = (r for r in of_model(model) if len(r.stages) > 1)
    recipe = next((r for r in staged if model in [s.model for s in r.stages]), None)
    if recipe is not None:
        yield _stage(model, recipe)


@dataclasses.dataclass(frozen=True)
class Change:
    """A faulty initialisation.

    Attributes:
        kinds: The kinds of tensors it changes.
        make: Maps a tensor's description and values to its faulty values.
    """

    kinds: tuple[str, ...]
    make: Callable[[Tensor, np.ndarray], np.ndarray]

    def __call__(self, config: Config, arrays: Arrays) -> dict[str, np.ndarray]:
        specs = tensors(config)
        return {
            key: self.make(specs[key], a) if specs[key].kind in self.kinds else a
            for key, a in arrays.items()
        }


def lecun(spec: Tensor, array: np.ndarray) -> np.ndarray:
    """Scale to variance 1 / fan_in, as Flax draws; PyTorch's is a third of it."""
    return array * np.float32(math.sqrt(3))


def fan_out(spec: Tensor, array: np.ndarray) -> np.ndarray:
    """Scale as if the fan of the outputs were used."""
    return array * np.float32(math.sqrt(spec.shape[1] / spec.shape[0]))


INITIAL = (
    (
        Fault.PRELU_INITIAL_SLOPE,
        "slopes of 0.01",
        Change(("slope",), lambda spec, a: np.full_like(a, 0.01)),
    ),
    (Fault.INITIAL_WEIGHTS, "LeCun's variance", Change(("conv", "conv_transpose"), lecun)),
    (Fault.INITIAL_WEIGHTS, "fan_out for fan_in", Change(("conv", "conv_transpose"), fan_out)),
)


def _drawn(
    model: str, config: Config, fault: Fault, name: str, sound: Arrays, arrays: Arrays
) -> MutantRow:
    start = time.perf_counter()
    found = list(initial.judged(config, arrays, "torch", "own of jax"))
    failed = [(check, draws) for check, draws in found if not check.ok]
    row = MutantRow(fault, CATALOGUE[fault].title, name, model, "(initial weights)", "start")
    row = dataclasses.replace(row, seconds=time.perf_counter() - start)
    if not failed:
        return row
    check, draws = failed[0]
    changed = {key.rpartition(".")[0] for key in arrays if arrays[key] is not sound[key]}
    named = "(initial weights)" if check.layer in changed else check.layer
    evidence = Evidence(check, draws=draws)
    return _killed(row, check, evidence, named)


class FreshStatistics(StageStart):
    """A stage that takes over weights without their statistics."""

    def __call__(self, stage: Stage, before: tuple[Stage, Snapshot] | None) -> Snapshot:
        found = super().__call__(stage, before)
        if before is None:
            return found
        drawn = super().__call__(stage, None).arrays
        kinds = tensors(stage.config)
        arrays = {k: drawn[k] if kinds[k].kind in STATISTICS else found.arrays[k] for k in kinds}
        return dataclasses.replace(found, arrays=arrays)


def _stage(model: str, recipe: Recipe) -> MutantRow:
    start = time.perf_counter()
    made = scaled_down(recipe, SHORT)
    reference = TrainedSide("torch", made)
    first = made.stages[0].epochs * len(reference.source) // made.stages[0].batch
    comparison = TrainingComparison(
        reference, TrainedSide("jax", made, FreshStatistics(made)), first + AFTER
    )
    checks = comparison.checks()
    place = f"(stage {made.stages[1].name})"
    row = MutantRow(
        Fault.ENCODER_STATISTICS,
        CATALOGUE[Fault.ENCODER_STATISTICS].title,
        "without their statistics",
        model,
        place,
        "start",
    )
    row = dataclasses.replace(row, seconds=time.perf_counter() - start)
    fault = Report(model, "float64", checks).fault()
    if fault is None:
        return row
    divergence = comparison.divergence(fault)
    named = f"(stage {comparison.last[-1][0].stage.name})"
    return _killed(row, fault, Evidence(fault, divergence=divergence), named)


def _killed(row: MutantRow, check: Check, evidence: Evidence, named: str) -> MutantRow:
    found = dataclasses.replace(
        row,
        killed=True,
        rung=check.rung,
        kind=check.kind,
        named=named,
        right=named == row.place,
        margin=check.error / check.limit if check.limit else math.inf,
    )
    return found.explained(causes.of_evidence(evidence))
