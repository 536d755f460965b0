"""Several devices: what they compute is predicted by one, and how they evaluate is what one does.

Real processes of PyTorch, virtual devices of JAX. More devices: `pytest -m devices`.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parity.faults import several
from parity.faults.on_devices import INJECTIONS
from parity.model_checks.devices import ladder
from parity.model_checks.devices.plan import ALONE, CASES, DDP, EVALUATED, Job, Plan, planned
from parity.model_checks.devices.processes import DeviceRuns, run
from parity.model_checks.recipes.scaled_down_stage import SmallStage
from parity.report.report import Report
from parity.spec.networks.erfnet import Block, ERFNetConfig
from parity.spec.training.recipe import Recipe

LIMIT = 1e-9  # structure, of updates: docs/tolerances.md
IMAGES = (1, 2, 5, 13)  # one image on two devices; an even number; primes
TINY = ERFNetConfig(
    num_classes=20,
    encoder_only=True,
    dropout=(0.3, 0.3),
    encoder=(Block("down", 3, 8), Block("nb1d", 8, 8)),
    decoder=(Block("up", 8, 8),),
)
BOTH = (Job(ALONE, "one", "torch"), Job(ALONE, "one", "jax"))
# Every case on two devices of PyTorch. JAX maps every case alike, `jax_impl.parallel.Group.map`:
# nothing else asks which way it is. So a few cases are compiled here; the others are in `MORE`.
QUICK = (
    *BOTH,
    Job(1, "one", DDP),
    *(Job(1, EVALUATED, way) for way in (DDP, "pmap")),
    *(Job(2, case, DDP) for case in CASES),
    *(Job(2, case, "pmap") for case in (EVALUATED, "pad", "sum")),
    Job(2, "one", "shard_map"),
)
# Each case on more than two devices, on either side, and each way on four and on eight. Every case
# in every way on two, four and eight: `long`.
MORE = (
    *BOTH,
    Job(1, EVALUATED, DDP),
    *(Job(8, case, DDP) for case in (EVALUATED, "sum", "statistics", "pad")),
    *(Job(4, case, DDP) for case in ("one", "local", "device", "drop")),
    *(Job(8, case, "pmap") for case in ("statistics", "drop")),
    *(Job(4, case, "pmap") for case in ("one", "sum")),
    *(Job(8, case, "shard_map") for case in (EVALUATED, "local")),
    *(Job(4, case, "shard_map") for case in ("device", "pad")),
)
WAYS = (DDP, "pmap", "shard_map")
STEPS = 8  # of `MORE`: rounding has 20 to add up on two devices


def recipe() -> Recipe:
    """ERFNet's, of a network that is compiled in no time."""
    made = ladder.recipe_of("erfnet")
    fields = {f.name: getattr(made.stages[0], f.name) for f in dataclasses.fields(SmallStage)}
    return dataclasses.replace(made, stages=(SmallStage(**fields | {"network": TINY}),))


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan(recipe(), QUICK, images=IMAGES)


@pytest.fixture(scope="module")
def runs(plan: Plan) -> DeviceRuns:
    return run(plan)


def report_of(plan: Plan, runs: DeviceRuns) -> Report:
    report = Report("tiny", "float64", seconds=dict.fromkeys(ladder.RUNGS, 0.0))
    ladder.compared(report, plan, runs, lambda _: None)
    return report


def test_several_devices_compute_what_is_predicted(plan: Plan, runs: DeviceRuns) -> None:
    """Catches gradients, steps or 20 steps of DDP, pmap or shard_map that are not as predicted.

    Where the recipe says that they are those of one device, the prediction is its real run.
    """
    report = report_of(plan, runs)
    assert report.ok, report.failures()[0].sentence()
    assert {c.rung for c in report.checks} == set(ladder.RUNGS)
    assert len(report.checks) == 5 * len(plan.jobs)
    assert max(c.error for c in report.checks) < LIMIT


def test_each_choice_is_predicted_to_differ_from_one_device(plan: Plan, runs: DeviceRuns) -> None:
    """Catches a choice that is not acted upon, and a comparison that cannot fail."""
    one = ladder.observed(plan, runs, ladder.ONE)
    for name, case in CASES.items():
        job = Job(2, name, DDP)
        apart = ladder.distance(
            plan.recipe.stages[0], ladder.observed(plan, runs, job).last, one.last, one.before
        )
        assert (apart < LIMIT) if case.same else (apart > 1e-4), name


def evaluations(plan: Plan) -> list[Job]:
    return [job for job in plan.jobs if job.case == EVALUATED]


def check_evaluations(plan: Plan, runs: DeviceRuns) -> None:
    """Check that the same weights give the same losses on any number of devices of either side."""
    first, *others = evaluations(plan)
    for images in plan.images:
        matrix, loss, count = runs.evaluation(first, "before", images)
        assert count == images
        for job in others:
            found = runs.evaluation(job, "before", images)
            np.testing.assert_array_equal(found[0], matrix, err_msg=job.key)
            assert found[1] == pytest.approx(loss, rel=1e-12)
            assert found[2] == images
    whole = [runs.evaluation(first, "before", n)[0].sum() for n in plan.images]
    assert [w / n for w, n in zip(whole, plan.images, strict=True)] == [whole[0]] * len(whole)


def check_evaluations_after_training(plan: Plan, runs: DeviceRuns) -> None:
    for job in evaluations(plan):
        for images in plan.images:
            together, alone = (runs.evaluation(job, w, images) for w in ("after", "alone"))
            np.testing.assert_array_equal(together[0], alone[0], err_msg=job.key)
            assert together[1:] == pytest.approx(alone[1:], rel=1e-12)


def test_every_image_is_counted_once(plan: Plan, runs: DeviceRuns) -> None:
    """Catches an image that is counted twice or by nobody, and a padded one that counts."""
    both = {(devices, way) for devices in (1, 2) for way in (DDP, "pmap")}
    assert {(j.devices, j.way) for j in evaluations(plan)} == both
    check_evaluations(plan, runs)


def test_all_devices_evaluate_one_network(plan: Plan, runs: DeviceRuns) -> None:
    """Catches devices that evaluate by the statistics of their own parts of the batches."""
    check_evaluations_after_training(plan, runs)


def test_faults_are_found_and_explained() -> None:
    """Catches a fault of several devices that survives, on another rung, or without its cause."""
    rows = list(several.rows_of("tiny", recipe(), fast=True))
    assert [row.number for row in rows] == [35, 36, 37, 55, 56]
    for row in rows:
        assert row.killed, row.name
        assert (row.rung, row.proved) == ("L3", True), row.name


@pytest.mark.devices
def test_all_faults_are_found() -> None:
    """Catches the same in every way in which a fault can be injected, on both sides."""
    rows = list(several.rows_of("tiny", recipe(), fast=False))
    assert [row.name for row in rows] == list(INJECTIONS)
    assert all(row.killed and not row.wrong for row in rows)
    late = {row.name for row in rows if row.rung != "L3"}
    assert late == {"dropped for padded, DDP"}  # it is of an epoch's last batch


def test_nothing_is_left_out() -> None:
    """Catches a case that is run in no way, or on no more than two devices, in what is quick."""
    assert {job.case for job in QUICK if (job.devices, job.way) == (2, DDP)} == set(CASES)
    assert {job.way for job in QUICK if job.devices == 2} == set(WAYS)
    many = [job for job in MORE if job.devices > 2]
    assert {(job.case, job.side) for job in many} == {
        (c, s) for c in CASES for s in ("torch", "jax")
    }
    assert {(job.devices, job.way) for job in many} == {(n, way) for n in (4, 8) for way in WAYS}


def check_devices(plan: Plan) -> None:
    """Everything that several devices compute, train and evaluate."""
    found = run(plan)
    report = report_of(plan, found)
    assert report.ok, report.failures()[0].sentence()
    assert len(report.checks) == 5 * len(plan.jobs)
    assert max(c.error for c in report.checks) < LIMIT
    check_evaluations(plan, found)
    check_evaluations_after_training(plan, found)


@pytest.mark.devices
def test_up_to_eight_devices() -> None:
    """Catches anything that holds on two devices and not on four or eight."""
    check_devices(Plan(recipe(), MORE, STEPS, images=(1, 3, 7, 13, 17)))


@pytest.mark.long
def test_every_case_in_every_way_on_up_to_eight_devices() -> None:
    """Catches what one case shows in one way on one number of devices alone."""
    made = planned(recipe(), (1, 2, 4, 8))
    check_devices(dataclasses.replace(made, images=(1, 3, 7, 13, 17)))
