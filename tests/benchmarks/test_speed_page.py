"""The page of speeds."""

from __future__ import annotations

import pytest

from parity.training import environment
from tests.benchmarks import speed_page


def test_ratios_and_places() -> None:
    """Catches a ratio the wrong way round, a column of another side, and text of the page lost."""
    hardware = {"cores": 2, "processor": "P"}
    versions = environment.versions()
    names = ("plain", "torch", "jax", "torch.onnx", "jax.onnx")
    found = {
        "median": dict(zip(names, (0.5, 0.2, 0.1, 0.16, 0.3), strict=True)),
        "first_call": {"torch": 1.0, "jax": 9.0},
        "versions": versions,
        "hardware": hardware,
    }
    made = speed_page.page({"a": found}, {"b": found})
    assert "| a | 500 | 200 | 100 | 160 | 300 | 0.50 | 1.25 | 1.0 | 9.0 |" in made
    assert "| b | 200 | 100 | 0.50 | 1.0 | 9.0 |" in made
    text = f"before\n{speed_page.BEGIN}\nold\n{speed_page.END}\nafter\n"
    new = speed_page.placed(text, made)
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "old" not in new
    assert speed_page.placed(new, made) == new
    with pytest.raises(SystemExit, match="marks"):
        speed_page.placed("no marks", made)
