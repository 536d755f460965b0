"""Calibration: what is derived from how close clean ports come to the limits."""

from __future__ import annotations

import math

import pytest

from parity.ladder.tolerances import K, floor
from parity.model_checks.networks import port
from parity.model_checks.small_networks import small
from parity.report.quantity import Kind, Quantity
from parity.report.report import Check
from tests.benchmarks import calibrate
from tests.benchmarks.calibrate import ratio


def of(error: float, limit: float, kind: str = "numerics") -> Check:
    return Check("L2", kind, "conv", "conv", Quantity(Kind.OUTPUT), error, limit)


def test_a_limit_that_is_the_floor_alone_needs_no_k_or_an_infinite_one() -> None:
    """Catches a division by the 0 of a reference that made no error, and a miss called none."""
    least = floor("float32")
    assert ratio(of(0.0, least), "float32") == 0
    assert ratio(of(least, least), "float32") == 0
    assert ratio(of(2 * least, least), "float32") == math.inf
    assert ratio(of(math.nan, 2 * least), "float32") == math.inf
    assert ratio(of(2 * least, least + K * least), "float32") == pytest.approx(1)


def test_a_rung_whose_numerics_all_overflow_has_a_row() -> None:
    """Catches a table that is not made where the reference is nowhere finite in a precision."""
    row = calibrate._row("enet", "float16", "L2", [(0, of(1e-12, 1e-10, "structure"))], 7)
    assert (row.comparisons, row.ratio, row.worst, row.left_out) == (1, 0.0, "", 7)


def test_what_must_be_equal_has_a_share_of_its_limit_too() -> None:
    """Catches a division by the limit of integers, and of what has to be equal bit for bit."""
    exact, near = of(0.0, 0.0, "structure"), of(1e-12, 1e-10, "structure")
    checks = [(0, c) for c in (exact, near, of(0.0, 1e-5))]
    row = calibrate._row("enet", "float32", "L2", checks, 2)
    assert (row.structure, row.failed, row.comparisons) == (pytest.approx(0.01), 0, 3)
    assert row.left_out == 2
    wrong = calibrate._row("enet", "float32", "L2", [*checks, (0, of(1.0, 0.0, "structure"))], 0)
    assert (wrong.structure, wrong.failed) == (math.inf, 1)


@pytest.mark.long
def test_a_network_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Catches a command that fails after its measurement: ERFNet's has limits of 0."""

    def little(name, config, size, seed):
        return port(name, *small(name, least=True), seed=seed)

    monkeypatch.setattr(calibrate, "port", little)
    arguments = ["--models", "erfnet", "--precisions", "float32", "--seeds", "1"]
    assert calibrate.main(arguments) == 0
    said = capsys.readouterr().out
    rows = [line.split()[2] for line in said.splitlines() if " float32 " in line]
    assert rows == list(calibrate.MEASURED)


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--models", "lenet"], "model 'lenet', expected some of enet"),
        (["--precisions", "int4"], "precision 'int4'"),
        (["--seeds", "0"], "seeds 0, expected 1 or more"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: pytest.CaptureFixture) -> None:
    """Catches minutes of measuring that begin with what cannot be used."""
    assert calibrate.main(argv) == 2
    assert what in capsys.readouterr().err
