"""The fault catalogue and the causes, on arrays made here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

import jax_impl.optim
from parity import cli
from parity.diagnosis.catalogue import CATALOGUE, Fault
from parity.diagnosis.experiments.engine import Proof
from parity.faults import evaluation, on_devices, staged, updates
from parity.faults.injections import INJECTIONS
from parity.faults.mutants import spread
from parity.faults.result import CampaignResult
from parity.faults.rows import CleanRow, MutantRow
from parity.faults.transformers import TRANSFORMERS
from parity.model_checks.small_networks import small
from parity.report.report import RUNGS
from parity.spec.training.optimizers import Optimizer


def test_catalogue_is_complete() -> None:
    """Catches an entry that is lost, twice there, or without a rung."""
    assert list(CATALOGUE) == list(Fault)
    assert [entry.number for entry in CATALOGUE.values()] == list(range(1, 90))
    assert len({e.title for e in CATALOGUE.values()}) == 89
    assert all(entry.rung in (*RUNGS, "L6") for entry in CATALOGUE.values())


def test_every_fault_can_be_injected() -> None:
    """Catches an entry that no code injects."""
    injected = {p.fault for p in (*INJECTIONS, *TRANSFORMERS)} | {f[0] for f in evaluation.FAULTS}
    # Of losses and updates, a block, labels, stages, a head.
    elsewhere = (*range(23, 35), 47, 49, 54, 89)
    injected |= {fault for fault in Fault if CATALOGUE[fault].number in elsewhere}
    injected |= {f[0] for f in staged.INITIAL}
    injected |= {p.fault for p in on_devices.INJECTIONS.values()}
    assert injected == set(CATALOGUE)


def test_result_fails_on_a_survivor(tmp_path: Path) -> None:
    """Catches a verdict that lets a survivor, a false alarm or a wrong cause pass."""
    row = MutantRow(
        Fault.BATCH_NORM_EPS,
        "eps",
        "another eps",
        "enet",
        "a.bn",
        "layer",
        killed=True,
        right=True,
        proved=True,
    )
    same = dataclasses.replace(row, killed=False, right=None, equivalent="no input shows it")
    assert CampaignResult([row, same]).ok
    assert CampaignResult([row, same]).totals()["killed"] == (1, 1)
    assert not CampaignResult([row, dataclasses.replace(row, killed=False)]).ok
    wrong = dataclasses.replace(row, proved=False, wrong=True, causes=("another eps",))
    assert not CampaignResult([row, wrong]).ok
    assert CampaignResult([row, wrong]).totals()["wrong cause proved"] == (1, 2)
    assert CampaignResult([row, wrong]).totals()["cause proved"] == (1, 2)
    assert not CampaignResult().ok
    assert not CampaignResult(clean=[CleanRow("enet", 0, (8, 8), "L1 ...")]).ok
    CampaignResult([row]).to_json(tmp_path / "f.json")
    assert json.loads((tmp_path / "f.json").read_text())["totals"]["killed"] == [1, 1]


def test_a_cause_counts_as_proved_only_if_it_is_the_planted_one() -> None:
    """Catches a score that takes any proof for the true one, or hides a wrong one."""
    row = MutantRow(
        Fault.BATCH_NORM_EPS, "eps", "another eps", "enet", "a.bn", "layer", killed=True
    )
    right, other = Proof(Fault.BATCH_NORM_EPS, "eps 1"), Proof(Fault.BATCH_NORM_MODE, "eval mode")
    assert not row.explained([]).proved
    assert not row.explained([]).wrong
    assert row.explained([other, right]).proved  # either gives the same numbers
    assert not row.explained([other, right]).wrong
    assert row.explained([other]).wrong
    assert not row.explained([other]).proved


@pytest.mark.parametrize("separate", [False, True])
def test_eps_inside_the_root_is_a_single_fault(separate: bool) -> None:
    """Catches a mutant that puts the weights' decay elsewhere, too: a second fault."""
    config = small("vit", least=True)[0]
    optimizer = Optimizer("adam", lr=0.1, eps=0.0, weight_decay=0.1, decoupled=separate)
    weights = {"head.kernel": np.linspace(1, 2, 6).reshape(2, 3).astype(np.float32)}
    gradients = {"head.kernel": np.full((2, 3), 0.5, np.float32)}
    now = jax_impl.optim.hyperparameters(optimizer, "float32", 0.1, 1)
    steps = []
    for build in (jax_impl.optim.build, updates.inside):
        made = build(config, optimizer, list(weights))
        steps.append(made.update(gradients, made.init(weights), weights, **now)[0])
    np.testing.assert_allclose(steps[1]["head.kernel"], steps[0]["head.kernel"], rtol=1e-6)


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
