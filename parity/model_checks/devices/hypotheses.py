"""Predicted gradients of the first step under faults of several devices, as evidence."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import numpy as np

from parity.data.makers import training_size
from parity.diagnosis.catalogue import Fault
from parity.ladder.evidence import DeviceEvidence
from parity.model_checks.devices.plan import CASES, Job, Plan
from parity.model_checks.devices.predicted import DeviceRun, Handed, OneDevice
from parity.spec import draw
from parity.spec.training.parallel import CHOICES, Parallel
from parity.spec.training.trainer import Arrays, Batch

Change = Callable[[Batch], Batch]


def device_evidence(plan: Plan, job: Job, found: DeviceRun, expected: DeviceRun) -> DeviceEvidence:
    """Return the evidence on a run that differs from its prediction."""
    predicted = hypotheses(plan, job) if job.devices > 1 else ()
    return DeviceEvidence(
        joined(expected.gradients),
        joined(found.gradients),
        tuple((fault, why, joined(gradients)) for fault, why, gradients in predicted),
        samples=same(found.samples, expected.samples),
        masks=same(found.masks, expected.masks),
    )


def hypotheses(plan: Plan, job: Job) -> Iterator[tuple[Fault, str, Arrays]]:
    """Yield each fault that it may be, why, and the first step's gradients with it."""
    parallel, parts = CASES[job.case].parallel, job.devices
    for field, (fault, what) in OTHERWISE.items():
        (other,) = (choice for choice in CHOICES[field] if choice != getattr(parallel, field))
        changed = dataclasses.replace(parallel, **{field: other})
        yield fault, what.format(other), _gradients(plan, job, changed)
    changes: list[tuple[Fault, str, Change]] = [
        (
            Fault.DEVICE_SAMPLES,
            "the first device's samples on all",
            lambda b: _taken(b, _first(b, parts)),
        ),
        (
            Fault.DEVICE_SAMPLES,
            "each device's samples taken in turn",
            lambda b: _taken(b, _in_turn(b, parts)),
        ),
        (
            Fault.DEVICE_DROPOUT_MASKS,
            "the first device's masks on all",
            lambda b: _masked(b, _taken(b, _first(b, parts))),
        ),
        (
            Fault.DEVICE_DROPOUT_MASKS,
            "masks of a seed for each device",
            lambda b: _seeded(plan, b, parts),
        ),
    ]
    for fault, what, change in changes:
        yield fault, f"{what} gives the gradients", _gradients(plan, job, parallel, change)


# Choice -> fault, and what it does.
OTHERWISE = {
    "gradients": (Fault.GRADIENT_SUM, "the {} of all gradients is what it gives"),
    "normalizer": (Fault.DEVICE_LOSS_NORMALIZER, "the normaliser of the {} gives the gradients"),
    "batch_norm": (Fault.SYNC_BATCH_NORM, "batch norms that are {} give the gradients"),
}


def joined(arrays: Arrays) -> np.ndarray:
    return np.concatenate([np.ravel(arrays[key]) for key in sorted(arrays)])


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    """Return whether all steps had the same samples, in any order."""
    pairs = zip(found, expected, strict=True)
    return all(np.array_equal(np.sort(a), np.sort(b)) for a, b in pairs)


def _gradients(
    plan: Plan, job: Job, parallel: Parallel, change: Change = lambda batch: batch
) -> Arrays:
    stage, share = plan.of(job.case)[1], cast(Any, Handed(job.devices))
    batch = plan.batch(job.case, share, 0)
    one = OneDevice(stage, plan.arrays(), plan.class_weights(), parallel, job.devices)
    one.differentiate(change(batch))
    return one.gradients()


def _first(batch: Batch, parts: int) -> np.ndarray:
    """Return the indices of the first part's samples, repeated for each part."""
    return np.tile(np.arange(len(batch.samples) // parts), parts)


def _in_turn(batch: Batch, parts: int) -> np.ndarray:
    return np.arange(len(batch.samples)).reshape(-1, parts).T.ravel()


def _taken(batch: Batch, at: np.ndarray) -> Batch:
    masks = {site: mask[at] for site, mask in batch.masks.items()}
    return Batch(batch.images[at], tuple(t[at] for t in batch.targets), masks, batch.samples[at])


def _masked(batch: Batch, other: Batch) -> Batch:
    return batch._replace(masks=other.masks)


def _seeded(plan: Plan, batch: Batch, parts: int) -> Batch:
    """Return the batch with each part's masks drawn with its number added to the seed."""
    recipe, stage, _ = plan.of("one")
    size, each = training_size(recipe, stage), np.array_split(batch.samples, parts)
    made = [
        draw.dropout_masks(stage.config, size, recipe.seed + k, 0, 0, samples.tolist())
        for k, samples in enumerate(each)
    ]
    return batch._replace(masks={s: np.concatenate([m[s] for m in made]) for s in batch.masks})
