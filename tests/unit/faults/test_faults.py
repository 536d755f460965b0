"""The fault catalogue and the causes, on arrays made here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parity import cli
from parity.diagnosis import causes
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.faults import evaluation, on_devices, staged
from parity.faults.injections import INJECTIONS
from parity.faults.mutants import spread
from parity.faults.result import CampaignResult
from parity.faults.rows import CleanRow, MutantRow
from parity.faults.transformers import TRANSFORMERS
from parity.ladder.evidence import Case, Evidence
from parity.report.quantity import Kind, Mode, Quantity, Scope
from parity.report.report import RUNGS, Check

RNG = np.random.default_rng(0)
X = RNG.normal(1, 2, (2, 6, 8, 4))
NORM = {
    "scale": RNG.uniform(0.5, 1.5, 4),
    "bias": RNG.normal(size=4),
    "mean": RNG.normal(size=4),
    "var": RNG.uniform(0.5, 1.5, 4),
}


def alone(kind: Kind, **fields: Any) -> Quantity:
    return Quantity(kind, scope=Scope.LAYER, **fields)


OUTPUT = alone(Kind.OUTPUT, index=0, mode=Mode.TRAIN)
CHECK = Check("L1", "structure", "a.bn", "a.bn", OUTPUT, 0.1, 1e-10)


def test_catalogue_is_complete() -> None:
    """Catches an entry that is lost, twice there, or without a rung."""
    assert list(CATALOGUE) == list(Fault)
    assert [entry.number for entry in CATALOGUE.values()] == list(range(1, 90))
    assert len({e.title for e in CATALOGUE.values()}) == 89
    assert all(entry.rung in (*RUNGS, "L6") for entry in CATALOGUE.values())


def test_every_fault_can_be_planted() -> None:
    """Catches an entry that no code plants."""
    injected = {p.fault for p in (*INJECTIONS, *TRANSFORMERS)} | {f[0] for f in evaluation.FAULTS}
    # Of losses and updates, a block, labels, stages, a head.
    elsewhere = (*range(23, 35), 47, 49, 54, 89)
    injected |= {fault for fault in Fault if CATALOGUE[fault].number in elsewhere}
    injected |= {f[0] for f in staged.INITIAL}
    injected |= {p.fault for p in on_devices.INJECTIONS.values()}
    assert injected == set(CATALOGUE)


def batch_norm(eps: float, mean: np.ndarray | None = None) -> np.ndarray:
    mean, var = X.mean((0, 1, 2)) if mean is None else mean, X.var((0, 1, 2))
    return (X - mean) / np.sqrt(var + eps) * NORM["scale"] + NORM["bias"]


def evidence(
    kind: str, settings: dict, reference: dict, port: dict, weights: dict | None = None
) -> Evidence:
    wrong = [k for k in reference if not np.array_equal(reference[k], port[k])]
    failures = tuple(dataclasses.replace(CHECK, quantity=k) for k in wrong)
    return Evidence(
        fault=failures[0],
        failures=failures,
        kind=kind,
        settings=settings,
        cases={"train": Case((X,), reference, port)},
        weights={k: (v, v) for k, v in (weights or {}).items()},
    )


def first(found: Evidence) -> int:
    return number(causes.rank(found)[0])


def number(cause: causes.Cause) -> int:
    return CATALOGUE[cause.fault].number


def test_eps_is_told_by_trying_it() -> None:
    """Catches a cause that does not come from the arrays."""
    sound, wrong = {OUTPUT: batch_norm(1e-5)}, {OUTPUT: batch_norm(1e-3)}
    found = evidence("BatchNorm2d", {"eps": 1e-5, "momentum": 0.1}, sound, wrong, NORM)
    assert first(found) == 2
    assert "0.001" in causes.rank(found)[0].why
    other = evidence(
        "BatchNorm2d",
        {"eps": 1e-5, "momentum": 0.1},
        wrong | sound,
        {OUTPUT: batch_norm(1e-5, X.mean((0, 1, 2)) + 0.1)},
        NORM,
    )
    assert causes.rank(other)[0].score < 0.6  # a shift that no entry explains


@pytest.mark.parametrize(("share", "factor", "fault"), [(0.9, 96 / 95, 1), (0.1, 1.0, 3)])
def test_statistics_are_told_apart(share: float, factor: float, fault: int) -> None:
    """Catches momentum and the biased variance taken for each other."""
    mean, var, n = X.mean((0, 1, 2)), X.var((0, 1, 2)), X.size // 4

    def after(m: float, unbiased: float) -> dict[Quantity, np.ndarray]:
        return {
            alone(Kind.STATISTIC, path="mean", mode=Mode.TRAIN): (1 - m) * NORM["mean"] + m * mean,
            alone(Kind.STATISTIC, path="var", mode=Mode.TRAIN): (1 - m) * NORM["var"]
            + m * var * unbiased,
        }

    sound = after(0.1, n / (n - 1))
    found = evidence("BatchNorm2d", {"momentum": 0.1}, sound, after(share, factor), NORM)
    assert first(found) == fault


@pytest.mark.parametrize(("factor", "fault"), [(0.8, 22), (4.0, 21)])
def test_dropout_is_told_by_its_factor(factor: float, fault: int) -> None:
    """Catches a rescaling that is forgotten taken for one by the wrong probability."""
    sound = {OUTPUT: X * 1.25}
    wrong = {OUTPUT: X * 1.25 * factor}
    assert first(evidence("Dropout2d", {"p": 0.2}, sound, wrong)) == fault


def test_gradient_alone_means_ties() -> None:
    """Catches a max-pool's ties that are not looked for where outputs agree."""
    sound = {OUTPUT: X, alone(Kind.INPUT_GRADIENT, index=0): X}
    wrong = {OUTPUT: X, alone(Kind.INPUT_GRADIENT, index=0): X + 1}
    assert first(evidence("MaxPool2d", {"kernel_size": 2, "stride": 2}, sound, wrong)) == 17


def test_swapped_kernel_is_told_by_its_values() -> None:
    """Catches a stored kernel whose layout is wrong, which L0 finds and nothing computes."""
    kernel = RNG.normal(size=(3, 3, 4, 4))
    fault = dataclasses.replace(CHECK, rung="L0", quantity=Quantity(Kind.VALUES))
    weights = {"kernel": (kernel, kernel.swapaxes(2, 3))}
    assert first(Evidence(fault, (fault,), "Conv2d", weights=weights)) == 9


def test_factor_of_loss_and_gradients() -> None:
    """Catches a loss's wrong denominator taken for a wrong function."""
    quantities = (Quantity(Kind.PARAMETER_GRADIENT, "kernel"), Quantity(Kind.LOSS))
    for errors, expected in (((0.5, 0.5), {23, 24}), ((0.7, 0.1), {26, 25})):
        failures = tuple(
            dataclasses.replace(
                CHECK, rung="L3", quantity=q, error=e, layer="a" if q.path else "(network)"
            )
            for q, e in zip(quantities, errors, strict=True)
        )
        ranked = causes.rank(Evidence(failures[0], failures, "Conv2d"))
        assert {number(c) for c in ranked[:2]} == expected


def test_result_fails_on_a_survivor(tmp_path: Path) -> None:
    """Catches a verdict that lets a survivor or a false alarm pass, or counts equivalents."""
    row = MutantRow(
        Fault.BATCH_NORM_EPS,
        "eps",
        "another eps",
        "enet",
        "a.bn",
        "layer",
        killed=True,
        right=True,
        rank=1,
    )
    same = dataclasses.replace(row, killed=False, right=None, equivalent="no input shows it")
    assert CampaignResult([row, same]).ok
    assert CampaignResult([row, same]).totals()["killed"] == (1, 1)
    assert not CampaignResult([row, dataclasses.replace(row, killed=False)]).ok
    assert not CampaignResult().ok
    assert not CampaignResult(clean=[CleanRow("enet", 0, (8, 8), "L1 ...")]).ok
    CampaignResult([row]).to_json(tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["totals"]["killed"] == [1, 1]


def test_places_are_spread() -> None:
    """Catches mutants that all lie at the beginning."""
    assert spread("abcdefg", 3) == ["a", "d", "g"]
    assert spread("ab", 3) == ["a", "b"]
    assert spread("abc", 1) == ["a"]
    assert spread("", 3) == []


@pytest.mark.parametrize(
    "arguments", [["--model", "nonet"], ["--clean", "0"], ["--json", "no/such/f.json"]]
)
def test_bad_input(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, or a run that begins before its arguments are checked."""
    assert cli.main(["faults", *arguments]) == 2
    assert capsys.readouterr().err.count("\n") == 1
