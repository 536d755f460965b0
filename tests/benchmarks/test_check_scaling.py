"""The page on how a check grows with the network."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tests.benchmarks import check_scaling
from tests.benchmarks.check_scaling import Checked
from tests.benchmarks.large_checkpoints import Measured
from tests.benchmarks.speed_page import END


def took(parameters: int, power: float = 1.0) -> Checked:
    """A check whose time is a power of the parameters, with 40 bytes for each."""
    seconds = 1e-5 * parameters**power
    memory = 2**30 + 40 * parameters
    return Checked(seconds, 2 * seconds, memory, parameters, 9, 100)


def test_slopes_and_columns() -> None:
    """Catches an exponent of something else, a column of another check, and a row that is lost."""
    found = {
        "one": {name: (took(n), took(n, 0.5)) for name, n in (("a", 10**7), ("b", 10**8))},
        "two": {"c": (took(10**6), None)},
    }
    versions = dict.fromkeys(check_scaling.PACKAGES, "1")
    made = check_scaling.page(found, versions, {"cores": 2, "processor": "P"})
    assert "| a | 10.0 | 9 | 100 | 200 | 1.37 | 9 | 0 | 0 | 1.37 |" in made
    assert "| c | 1.0 | 9 | 10 | 20 | 1.04 | broke off |  |  |  |" in made
    assert "| one | 1.00 | 1.00 | 0.54 | 40 | 0.50 | 0.50 | 0.54 | 40 |" in made
    assert "| two |  |  |  |  |  |  |  |  |" in made


def test_what_a_report_says() -> None:
    """Catches statistics counted as parameters, and layers left out counted as compared."""
    tensors = {"a.kernel": "3x3x2x4", "a.mean": "4", "scale": "number"}
    pairs = [{"kind": "tensor", "port": n, "port_shape": s} for n, s in tensors.items()]
    report = {
        "pairs": [*pairs, *[{"kind": "layer"}] * 5],
        "bounds": [{"layers": 3}],
        "checks": [{"can_fail": True}, {"can_fail": False}],
    }
    found = check_scaling.of_report(report, Measured("a", 2.0, 3.0, 4))
    assert found == Checked(2.0, 3.0, 4, 73, 2, 1)


def test_a_fit_needs_two() -> None:
    """Catches a slope through one point."""
    assert math.isnan(check_scaling.slope([1], [1]))
    assert math.isnan(check_scaling.per_parameter([1], [1]))


@pytest.mark.parametrize("name", ["vit_s", "decoder_10m", "decoder_300m"])
def test_the_sizes(name: str) -> None:
    """Catches a network of another size than its name says."""
    made: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "parity.model_checks.networks.port", lambda name, config, *_: made.append(config)
        )
        getattr(check_scaling, name)()
    count = sum(math.prod(tensor.shape) for _, tensor in made[0].tensors())
    expected = {"vit_s": 22e6, "decoder_10m": 10e6, "decoder_300m": 300e6}[name]
    assert abs(count / expected - 1) < 0.1


def test_a_check_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a program that loses a network, or writes no page."""
    sizes = iter(range(1, 100))
    monkeypatch.setattr(check_scaling, "checked", lambda name, options: took(10**6 * next(sizes)))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{check_scaling.BEGIN}\n{END}\nafter\n")
    assert check_scaling.main([str(page), "--json", str(tmp_path / "numbers.json")]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    for makers in check_scaling.FAMILIES.values():
        for make in makers:
            assert f"| {make.__name__} | " in text
    assert check_scaling.main([str(page), "--networks", "resnet19"]) == 2
