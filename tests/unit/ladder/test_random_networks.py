"""Random networks, right and with faults. `python -m tests.random_networks` checks more."""

from __future__ import annotations

import pytest

from tests import random_networks


def test_right_ones_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a right network of any supported layers called wrong, or a cause made up for it."""
    assert random_networks.main(["--count", "2", "--first", "1"]) == 0
    assert "2 of 2 right networks pass" in capsys.readouterr().out


def test_faults_in_them_are_found(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a fault in some layer of a random network that no rung sees."""
    assert random_networks.main(["--count", "1", "--first", "1", "--faults", "6"]) == 0
    assert "6 of 6 faults found in 1 networks" in capsys.readouterr().out


def test_a_wrong_one_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a program that ends well although a pair fails."""
    function = random_networks.ACTIVATIONS["tanh"][1]
    wrong = {
        name: (made, lambda x: function(x) * 1.5)
        for name, (made, _) in random_networks.ACTIVATIONS.items()
    }
    monkeypatch.setattr(random_networks, "ACTIVATIONS", wrong)
    assert random_networks.main(["--count", "1", "--first", "1"]) == 1
    assert "1 false alarms" in capsys.readouterr().out
