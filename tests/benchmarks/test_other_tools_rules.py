"""Other tools' default rules, on arrays made here and on one small network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks import other_tools_rules
from tests.benchmarks.other_tools_rules import RULES, Judged, counts, verdicts

RNG = np.random.default_rng(0)


def test_rules() -> None:
    """Catches a tool's rule with another constant, or one that lets NaN or another shape pass."""
    ref = RNG.normal(size=(4, 5))
    near = verdicts([ref * (1 + 5e-7)], [ref], [ref])
    assert all(near[name] for name in RULES if name != "reprod_log")
    off = verdicts([ref + 2e-5], [ref], [ref])
    assert {n for n, same in off.items() if same} == {
        "HuggingFace PT-Flax, formerly",
        "nobuco",
        "TroubleShooter",
        "msprobe",
    }
    zero = verdicts([ref * 0 + 5e-6], [ref * 0], [ref * 0])
    assert zero["Polygraphy"]
    assert not zero["chex"]
    assert not any(verdicts([ref + np.nan], [ref], [ref]).values())
    assert not any(verdicts([ref[:2]], [ref], [ref]).values())
    assert not any(verdicts([], [ref], [ref]).values())
    assert not verdicts([-ref], [ref], [ref])["msprobe"]


def test_counts() -> None:
    """Catches a rule that fails everything, credited with telling faults apart."""
    no, yes = dict.fromkeys(RULES, False), dict.fromkeys(RULES, True)
    found = [
        Judged("found by all", False, no, yes),
        Judged("failed even without its fault", False, no, no),
        Judged("found by parity alone", False, yes, yes),
        Judged("clean", True, no),
    ]
    ours = counts(found)["parity"]
    assert ours == {"killed": (3, 3), "told apart": (3, 3), "false alarms": (0, 1)}
    chex = counts(found)["chex"]
    assert chex == {"killed": (2, 3), "told apart": (1, 3), "false alarms": (1, 1)}


@pytest.mark.long
def test_a_clean_network(tmp_path: Path, capsys) -> None:
    """Catches a comparison whose table, or JSON, does not hold every rule."""
    file = tmp_path / "x.json"
    argv = ["--clean", "1", "--model", "genet", "--json", str(file)]
    assert other_tools_rules.main(argv) == 0
    found = json.loads(file.read_text())
    assert found["rules"].keys() == {"parity", *RULES}
    assert found["rules"]["parity"]["false alarms"] == [0, 1]
    assert [row["parity"] for row in found["networks"]] == [True]
    assert "TorchDynamo" in capsys.readouterr().out
