"""Files that replace others whole or not at all, with their permissions and links."""

from __future__ import annotations

import itertools
import os
import stat
from pathlib import Path

import numpy as np
import pytest

from parity.io.replacing import PREFIX
from parity.spec.errors import InputError
from tests.checkpoints import SMALL
from weights_convert import formats
from weights_convert.replacing import replacing


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("name", ["x.pth", "x.orbax"])
def test_a_rename_that_fails_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failing: int
) -> None:
    """Catches half of what belongs together replaced: a file without its manifest, no directory."""

    def replace(new: str) -> None:
        arrays = SMALL | {"new": np.array(float(new == '"new"'))}
        with replacing(tmp_path / name) as path:
            formats.write(path, formats.format_for(path), arrays, {"parity": new})

    replace('"old"')
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    real, calls = os.replace, itertools.count(1)

    def fail_once(source: Path, target: Path) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("parity.io.replacing.os.replace", fail_once)
    monkeypatch.setattr("parity.io.replacing._exchange", lambda *_: False)  # two steps
    if failing == 3:  # the new one is there already, with a manifest that holds both
        replace('"new"')
        assert formats.read(tmp_path / name).metadata["parity"] == '"new"'
    else:
        with pytest.raises(InputError, match="No space left"):
            replace('"new"')
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_permissions(tmp_path: Path, name: str) -> None:
    """Catches a file that only its owner can read, as temporary files are."""
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / name) as path:
            formats.write(path, formats.format_for(path), SMALL, {"parity": "{}"})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o640}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == ({0o750} if name == "x.orbax" else set())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Catches a link replaced by a file, what it pointed to left old."""
    (tmp_path / "real").mkdir()
    (tmp_path / "x.safetensors").symlink_to("real/y.safetensors")
    with replacing(tmp_path / "x.safetensors") as path:
        formats.write(path, "safetensors", SMALL, {})
    assert (tmp_path / "x.safetensors").is_symlink()
    assert os.listdir(tmp_path / "real") == ["y.safetensors"]


def test_what_the_dead_left_is_removed_and_the_living_keep(tmp_path: Path) -> None:
    """Catches folders that pile up, and one removed in which somebody writes."""
    dead, strange = tmp_path / f"{PREFIX}abcdefgh", tmp_path / f"{PREFIX}not-ours"
    for folder in (dead, strange):
        folder.mkdir()
        (folder / "x").touch()
    with replacing(tmp_path / "a") as first:
        first.write_text("1")
        assert not dead.exists()
        with replacing(tmp_path / "b") as second:
            second.write_text("2")
        assert first.exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == [strange.name, "a", "b"]
