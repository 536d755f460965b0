"""The ladder on the Transformers: a ViT, and a decoder with its cache."""

from __future__ import annotations

import pytest

from parity.model_checks.check import check_model
from parity.report.report import RUNGS, Report

# What each rung compares at least, of all six.
COUNTS = {
    "vit": {"L0": 32, "L1": 150, "L2": 110, "L3": 65, "L4": 300, "L5": 33},
    "decoder": {"L0": 21, "L1": 160, "L2": 200, "L3": 40, "L4": 200, "L5": 22},
}
CASES = [(model, rung) for model in COUNTS for rung in RUNGS]


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    return {model: check_model(model, tuple(RUNGS)) for model in COUNTS}


@pytest.mark.parametrize(("model", "rung"), CASES)
def test_rungs(reports: dict[str, Report], model: str, rung: str) -> None:
    """Catches any weight, layer, output, gradient or step of AdamW that differs, or is left out."""
    checks = [c for c in reports[model].checks if c.rung == rung]
    assert len(checks) >= COUNTS[model][rung], len(checks)
    failed = [c.sentence() for c in checks if not c.ok]
    assert not failed, failed[0]


def test_decoder_is_compared_with_a_cache(reports: dict[str, Report]) -> None:
    """Catches a comparison of whole sequences only: decoding takes other places and masks."""
    seen = {str(c.quantity) for c in reports["decoder"].checks if c.layer == "(network)"}
    assert {f"output {i} in eval mode" for i in range(5)} <= seen  # logits, keys and values


def test_nothing_is_claimed_of_a_recipe(reports: dict[str, Report]) -> None:
    """Catches a report that is silent on what no recipe can be compared with."""
    for model, report in reports.items():
        assert any(note.startswith(f"no recipe trains {model}") for note in report.notes)


def test_tied_head() -> None:
    """Catches a head that is tied on one side only: its gradient is the embedding's, too."""
    check_model("decoder-tied", ("L0", "L2", "L3")).assert_faithful()
