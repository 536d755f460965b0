"""How bounds are given: patterns, samples, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from parity.cli import main
from parity.ladder.bounds import Bounds, nearest, parse_sample


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("encoder.layers.0.conv", True),
        ("encoder", False),
        ("decoder.head", True),
        ("decoder.head.weight", True),
        ("decoder.heads", False),
        ("stem.Conv", False),
    ],
)
def test_patterns(name: str, fits: bool) -> None:
    """Catches a `*` that stops at a dot, a name that fits in part, and one in other letters."""
    assert Bounds(("encoder.*", "decoder.head", "stem.conv")).fits(name) is fits


FILE = """
from tests.unit.ladder import test_bounds

def make_port():
    return test_bounds.port()
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))
    (tmp_path / "mine.py").write_text(FILE)
    return f"{tmp_path}/mine.py:make_port"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layers", "unitz.1"], "--layers 'unitz.1' fits no layer of either side; the nearest"),
        (["--layers", "units.1,nothing.*"], "--layers 'nothing.*' fits no layer"),
        (["--layers", ""], "--layers '', expected a pattern"),
        (["--layers", "units.1,"], "--layers '', expected a pattern"),
        (["--sample", "0"], "--sample '0', expected how many layers of each kind"),
        (["--sample", "1.5"], "--sample '1.5', expected"),
        (["--sample", "-1"], "--sample '-1', expected"),
        (["--sample", "many"], "--sample 'many', expected"),
        (["--sample-seed", "3"], "--sample-seed is of --sample"),
        (["--sample", "1", "--sample-seed", "x"], "invalid int value"),
    ],
)
def test_bad_bounds_are_one_line(
    factory: str, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a bound that is none and is taken for one that leaves nothing, or everything, out."""
    try:
        status = main(["check", factory, *options])
    except SystemExit as error:
        status = error.code  # type: ignore[assignment]  # a number here
    err = capsys.readouterr().err
    assert status == 2
    assert message in err
    assert err.count("\n") == 1


def test_devices_are_not_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an option that would be silently ignored."""
    assert main(["check", "enet", "--devices", "2", "--sample", "1"]) == 2
    assert "--sample is not for --devices" in capsys.readouterr().err


def test_on_the_command_line(factory: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches options that the command does not hand over."""
    options = ["--layers", "units.0.dense", "--layers", "units.3", "--levels", "L1"]
    assert main(["check", factory, *options, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {c["layer"] for c in found["checks"]} == {
        "units.0.dense",
        "units.3.dense",
        "units.3.normalise",
    }
    assert main(["check", factory, "--sample", "1", "--sample-seed", "7", "--levels", "L1"]) == 0
    assert "--sample 1 --sample-seed 7 left out 7 of 13 layers" in capsys.readouterr().out


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("12", 12), ("0.25", 0.25), (".5", 0.5)])
def test_samples(text: str, value: float) -> None:
    """Catches a number of layers taken for a share, or the reverse."""
    found = parse_sample(text)
    assert found == value
    assert type(found) is type(value)


def test_the_nearest_names() -> None:
    """Catches a message that names anything but what the user may have meant."""
    names = ["encoder.0.conv", "encoder.1.conv", "decoder.0.conv", "head"]
    assert nearest("encodr.*", names)[0] == "encoder"
    assert nearest("encoder.1.cov", names)[0] == "encoder.1.conv"
