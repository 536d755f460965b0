"""The cache of compiled programs: where it is, and how it stays small."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from parity.cli import main
from parity.io import compilation_cache, garbage


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of three files of 10 bytes, of which two are too many."""
    monkeypatch.setattr(compilation_cache, "LARGEST", 15)
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)  # put back afterwards
    folder = tmp_path / "xla"
    folder.mkdir()
    for age, name in enumerate(("new", "old", "older")):
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (0, 10**6 - age))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_oldest_files_go(cache: Path) -> None:
    """Catches a cache that grows for ever, or that loses what was compiled last."""
    compilation_cache.keep_compiled(cache)
    assert os.environ["JAX_COMPILATION_CACHE_DIR"] == str(cache)
    assert names(cache) == ["new"]


def test_files_are_looked_at_once_an_hour(cache: Path) -> None:
    """Catches a look at 10,000 files in every command, or never another one."""
    compilation_cache.keep_compiled(cache)
    for name in ("old", "older"):
        (cache / name).write_bytes(bytes(10))
    compilation_cache.keep_compiled(cache)
    assert len(names(cache)) == 3
    stamp = cache.with_name("xla.checked")
    os.utime(stamp, (0, stamp.stat().st_mtime - compilation_cache.INTERVAL - 1))
    compilation_cache.keep_compiled(cache)
    assert len(names(cache)) == 1


def test_a_call_leaves_the_collector_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a Python call that changes how a user's process collects garbage."""
    before = gc.get_threshold()
    gc.set_threshold(701, 11, 12)
    try:
        assert main(["recipes"]) == 0
        assert gc.get_threshold() == (701, 11, 12)
        garbage.collect_rarely()
        assert gc.get_threshold() == garbage.THRESHOLDS
    finally:
        gc.set_threshold(*before)
    assert capsys.readouterr().out
