"""The benchmark of large checkpoints: what is measured, and what it converts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from parity.spec.errors import InputError
from tests.benchmarks import large_checkpoints
from weights_convert import rules
from weights_convert.streaming.by_rules import planner
from weights_convert.streaming.conversion import convert

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_checkpoints, "CHANNELS", 16)
    monkeypatch.setattr(large_checkpoints, "HIDDEN", 40)


@pytest.mark.usefixtures("small")
def test_what_is_converted(tmp_path: Path) -> None:
    """Catches rules that do not fit the checkpoint, or one that is not about as large as asked."""
    held = large_checkpoints.tensors(100_000, 64)
    assert sum(t.nbytes for t in held.values()) == pytest.approx(100_000, rel=0.05)
    source = large_checkpoints.made(tmp_path / "shards", held, 30_000)
    assert len(list(source.glob("*.safetensors"))) == 4
    (tmp_path / "rules.toml").write_text(large_checkpoints.RULES)
    plan = planner(rules.load(tmp_path / "rules.toml"))
    done = convert(source, tmp_path / "out", plan, dry_run=True)
    assert len(done.plan.made) == len(held)
    assert done.plan.made["layers.1.mlp.up.kernel"].shape == (16, 40)
    convert(source, tmp_path / "same", plan, shard_size=50_000)
    large_checkpoints.compare(tmp_path / "same", tmp_path / "same")
    with pytest.raises(InputError, match="came back"):
        large_checkpoints.compare(source, tmp_path / "same")


def test_a_process_that_fails_is_not_measured() -> None:
    """Catches the memory and time of a process that did nothing, and memory that is not its own."""
    with pytest.raises(InputError, match="it failed: no"):
        large_checkpoints.timed("it", (sys.executable, "-c", "raise SystemExit('no')"))
    found = large_checkpoints.timed("it", (sys.executable, "-c", "x = b'x' * 10**8"))
    assert found.memory > 10**8


@pytest.mark.long
@pytest.mark.usefixtures("small")
def test_all_of_it(tmp_path: Path, capsys: Capture) -> None:
    """Catches a benchmark that fails after its first minutes, or leaves files."""
    options = ["--size", "1MB", "--vocabulary", "500", "--folder", str(tmp_path)]
    assert large_checkpoints.main([*options, "--json", str(tmp_path / "x.json")]) == 0
    found = json.loads((tmp_path / "x.json").read_text())
    assert [run["what"] for run in found["runs"]][1:] == ["shards to Orbax", "Orbax to shards"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]
    assert "bitwise equal" in capsys.readouterr().out
