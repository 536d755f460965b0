"""The speed of conversions: what is timed, and what is refused before anything is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from parity.spec.errors import InputError
from parity.spec.models import MODELS
from tests.benchmarks import conversion_speed
from tests.fuzz.pairs import smallest
from weights_convert import formats

Capture = pytest.CaptureFixture[str]


@pytest.mark.long
def test_conversions(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a conversion that is not timed, a ratio of other numbers, and files that stay."""
    small = dataclasses.replace(MODELS["genet"], depth=10, width=1)
    monkeypatch.setattr(conversion_speed, "LARGE", small)
    monkeypatch.setitem(conversion_speed.MODELS, "icnet", smallest("icnet"))
    monkeypatch.setattr(
        formats, "FORMATS", {k: formats.FORMATS[k] for k in ("torch", "safetensors")}
    )
    seen: list[set[str]] = []
    timed = conversion_speed.timed

    def watched(command: tuple[str, ...], made: Path) -> float:
        seconds = timed(command, made)
        seen.append({path.name for path in made.parent.iterdir()})
        return seconds

    monkeypatch.setattr(conversion_speed, "timed", watched)
    file = tmp_path / "x.json"
    assert conversion_speed.main(["--runs", "1", "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    for format in ("torch", "safetensors"):
        (copied,), (carried,) = found["copied"][format], found["carried"][format]
        assert carried > 0.1  # a process that imports NumPy
        assert found["ratio"][format] == pytest.approx(carried / copied)
    pairs = {f"{a} to {b}" for a in formats.FORMATS for b in formats.FORMATS}
    assert found["between"].keys() == pairs
    assert all(name.startswith("source") for names in seen for name in names)
    out = capsys.readouterr().out
    assert "torch to safetensors" in out
    assert "icnet, one run of each" in out


def test_a_conversion_that_fails_is_not_a_fast_one(tmp_path: Path) -> None:
    """Catches the time of a process that did nothing."""
    (tmp_path / "x").write_text("no checkpoint")
    with pytest.raises(InputError, match="of no known format"):
        conversion_speed.converting(tmp_path / "x", tmp_path, "npz")
    with pytest.raises(InputError, match="no-such"):
        conversion_speed.copying(tmp_path / "no-such", tmp_path / "copy")


@pytest.mark.parametrize(
    ("argv", "what"),
    [
        (["--runs", "-1"], "runs -1, expected 1 or more"),
        (["--json", "/nowhere/x.json"], "no folder /nowhere"),
    ],
)
def test_usage(argv: list[str], what: str, capsys: Capture) -> None:
    """Catches minutes of timing that begin with what cannot be used."""
    assert conversion_speed.main(argv) == 2
    assert what in capsys.readouterr().err
