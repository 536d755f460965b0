"""The fault catalogue: one mutant per fault here, all of them and clean runs with `-m long`."""

from __future__ import annotations

import pytest

from parity.diagnosis.catalogue import Fault
from parity.faults import campaign, evaluation
from parity.faults.mutants import Mutant, fast, mutants
from parity.faults.runner import predict, run
from parity.model_checks.small_networks import models, subject


@pytest.fixture(scope="module")
def enet() -> list[Mutant]:
    return fast("enet")


@pytest.fixture(scope="module")
def transformers() -> dict[str, list[Mutant]]:
    return {model: fast(model) for model in ("vit", "decoder")}


# Faults whose proof is tried on other pairs as well: by tests/unit/diagnosis, in a tenth of the
# time. `-m long` proves them here, too.
PROVED_ELSEWHERE = (
    Fault.BATCH_NORM_MOMENTUM,
    Fault.BATCH_NORM_EPS,
    Fault.BIASED_RUNNING_VARIANCE,
    Fault.SAME_PADDING,
    Fault.KERNEL_NOT_FLIPPED,
    Fault.KERNEL_AXES,
    Fault.POOL_CEIL_MODE,
    Fault.LOSS_MEAN,
    Fault.LOSS_CLASS_WEIGHTS,
    Fault.IGNORED_LABEL,
    Fault.SOFTMAX,
    Fault.TF32,
    Fault.SHORTCUT_ORDER,
)
PROVED_HERE = (
    Fault.FAST_VARIANCE,
    Fault.BATCH_NORM_MODE,
    Fault.OUTPUT_PADDING_SIDE,
    Fault.UNPOOL_INDICES,
    Fault.MAX_POOL_TIES,
    Fault.PRELU_SLOPE_COUNT,
    Fault.DROPOUT_CHANNELS,
    Fault.DROPOUT_KEEP_PROBABILITY,
    Fault.DROPOUT_SCALE,
)


@pytest.mark.parametrize("fault", PROVED_HERE + PROVED_ELSEWHERE, ids=lambda fault: fault.name)
def test_fault(enet: list[Mutant], fault: Fault) -> None:
    """Catches a ladder that misses a fault, names another layer, or cannot prove why."""
    (mutant,) = (m for m in enet if m.fault is fault)
    row = run(mutant, explained=fault in PROVED_HERE)
    assert row.killed
    assert row.right is not False, f"{row.named} named, injected in {row.place}"
    assert row.proved or fault in PROVED_ELSEWHERE, row.causes


def test_float32_inside_is_no_fault() -> None:
    """Catches a layer that computes in float32, as its author chose, called wrong in float64."""
    every = mutants("enet", least=True, places=1)
    mutant = next(m for m in every if m.fault is Fault.X64_OFF)
    assert "a note names the layer" in mutant.equivalent
    assert not run(mutant).killed


OF_TRANSFORMERS = (
    ("vit", Fault.GELU_TANH, "L1"),
    ("vit", Fault.CLASS_TOKEN_PLACE, "L1"),
    ("decoder", Fault.GROUPED_HEADS, "L1"),
    ("decoder", Fault.ROTARY_PAIRS, "L1"),
    # Nothing but decoding with a cache shows it.
    pytest.param("decoder", Fault.CACHED_POSITIONS, "L2", marks=pytest.mark.long),
    ("decoder", Fault.TIED_HEAD, "L0"),
)


@pytest.mark.parametrize(("model", "fault", "rung"), OF_TRANSFORMERS)
def test_fault_of_a_transformer(
    transformers: dict[str, list[Mutant]], model: str, fault: Fault, rung: str
) -> None:
    """Catches a ladder that misses what goes wrong in attention, norms, places and caches."""
    (mutant,) = (m for m in transformers[model] if m.fault is fault)
    row = run(mutant, explained=False)
    assert (row.killed, row.rung) == (True, rung)
    assert row.right, f"{row.named} named, injected in {row.place}"


def test_evaluation() -> None:
    """Catches an evaluation whose steps differ unseen, or that calls a clean one different."""
    rows = list(evaluation.rows(subject("enet", least=True), predict))
    assert len(rows) == len(evaluation.FAULTS)
    assert all(r.killed and r.right and r.proved for r in rows if not r.equivalent)


@pytest.mark.long
@pytest.mark.parametrize("model", models())
def test_catalogue(model: str) -> None:
    """Catches a mutant that survives, in any network, and a cause that is not proved or another."""
    result = campaign.mutants(model, fast=False)
    assert result.ok, result.survivors
    right, layers = result.totals()["first named right, of layers"]
    proved, killed = result.totals()["cause proved"]
    assert right >= 0.95 * layers
    assert proved >= 0.9 * killed


@pytest.mark.long
def test_clean_runs() -> None:
    """Catches a false alarm of ours in 500 clean runs."""
    result = campaign.clean(500, None)
    assert result.ok, result.false_alarms
