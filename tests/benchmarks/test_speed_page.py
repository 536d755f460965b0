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
        "first_calls_in_own_process": {
            "torch": {"cold": {"seconds": 1.0, "memory": 3 << 20}, "warm": None},
            "jax": {
                "cold": {"seconds": 9.0, "memory": 7 << 20},
                "warm": {"seconds": 2.0, "memory": 5 << 20},
            },
            "torch.compile": {
                "cold": {"seconds": 9.0, "memory": None},  # a system that does not say
                "warm": {"seconds": 2.0, "memory": None},
            },
        },
        "versions": versions,
        "hardware": hardware,
    }
    made = speed_page.page({"a": found}, {"b": found})
    assert "| a | 500 | 200 | 100 | 160 | 300 | 0.50 | 1.25 |\n" in made
    assert "| b | 200 | 100 | 0.50 |\n" in made
    assert "| a | forward | PyTorch | 1.0 | - | 3 | - |\n" in made
    assert "| b | step | JAX | 9.0 | 2.0 | 7 | 5 |\n" in made
    assert "| b | step | torch.compile | 9.0 | 2.0 | - | - |\n" in made
    found["median"] |= {"torch.compile": 0.15}
    made = speed_page.page({"a": found}, {"b": found})
    assert "| a | 500 | 200 | 100 | 160 | 300 | 0.50 | 1.25 | 150 |\n" in made
    assert "JAX / PyTorch | torch.compile |\n" in made
    text = f"before\n{speed_page.BEGIN}\noutdated\n{speed_page.END}\nafter\n"
    new = speed_page.placed(text, made)
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "outdated" not in new
    assert speed_page.placed(new, made) == new
    with pytest.raises(SystemExit, match="marks"):
        speed_page.placed("no marks", made)
