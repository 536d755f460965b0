"""Reports are what they were: which comparisons are made, and how structure is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from parity import cli
from parity.diagnosis.check import check
from parity.model_checks.networks import port
from parity.model_checks.recipes import optimizers
from parity.model_checks.small_networks import small
from tests import golden_reports

MODELS = sorted(p.name.partition(".")[0] for p in golden_reports.FOLDER.glob("*.json.xz"))
SMALL = "enet-small"


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    """The smallest ENet on every rung."""
    config, size = small("enet", least=True)
    clean, stage = port("enet", config, size), optimizers.stage_of("enet")
    assert stage is not None
    trained = optimizers.trained(clean, config, stage.optimizer, optimizers.rates(stage))
    found: dict[str, Any] = json.loads(json.dumps(check(trained).to_dict()))
    return found


def test_a_small_report_is_what_it_was(report: dict[str, Any]) -> None:
    """Catches a comparison that is lost, renamed, or judged by another limit."""
    assert golden_reports.differences(report, SMALL) == []


def test_differences_are_seen(report: dict[str, Any]) -> None:
    """Catches a comparison of reports that lets a lost check, a new word or a new limit pass."""
    checks = report["checks"]
    names = [(c["kind"], c["quantity"]) for c in checks]
    first = names.index(("structure", "loss"))
    lost = report | {"checks": checks[1:]}
    assert len(golden_reports.differences(lost, SMALL)) == 1
    for change in ({"quantity": "the loss"}, {"limit": 1e-3}, {"ok": False}):
        changed = [*checks[:first], checks[first] | change, *checks[first + 1 :]]
        assert golden_reports.differences(report | {"checks": changed}, SMALL)
    assert golden_reports.differences(report | {"notes": ["new"]}, SMALL)


@pytest.mark.long
@pytest.mark.parametrize("model", [m for m in MODELS if m != SMALL])
def test_reports_are_what_they_were(model: str, tmp_path: Path) -> None:
    """Catches the same in a network of full size, with what its recipe is made of."""
    assert cli.main(["check", model, "--json", str(tmp_path / "report.json")]) == 0
    found = json.loads((tmp_path / "report.json").read_text())
    assert golden_reports.differences(found, model) == []
