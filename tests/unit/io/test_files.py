"""Files that are there whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from parity.io import files
from parity.spec.errors import InputError


def test_write_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    """Catches a temporary file that stays, and an old file that is written over in place."""
    path, before = tmp_path / "report.json", tmp_path / "before.json"
    files.write_atomically(path, b"old")
    os.link(path, before)
    files.write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert before.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["before.json", "report.json"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file lost or halved when the disk is full."""

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "report.json"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"cannot write .*report.json: No space left"):
        files.write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["report.json"]


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    """Catches temporary files that pile up, one for every kill."""
    path = tmp_path / "report.json"
    code = (
        "import os, signal, sys\n"
        "from parity.io import files\n"
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_atomically(sys.argv[1], b'half')\n"
    )
    died = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert died.returncode == -signal.SIGKILL
    assert len(os.listdir(tmp_path)) == 1
    assert not path.exists()
    files.write_atomically(path, b"whole")
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Catches a link replaced by a file, its target left old."""
    path, link = tmp_path / "report.json", tmp_path / "latest.json"
    link.symlink_to(path)
    files.write_atomically(link, b"new")
    assert link.is_symlink()
    assert path.read_bytes() == b"new"


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    """Catches a device such as /dev/stdout replaced by a file."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    files.write_atomically(path, b"numbers")
    assert os.read(reader, 100) == b"numbers"
    os.close(reader)
    assert path.is_fifo()


def test_paths_that_cannot_be_written(tmp_path: Path) -> None:
    """Catches hours of work whose result then has no place."""
    (tmp_path / "file").write_bytes(b"")
    for name, message in (
        ("", "a folder, expected the name of a file"),
        ("nowhere/report.json", "no folder .*nowhere"),
        ("file/report.json", "no folder .*file"),
    ):
        with pytest.raises(InputError, match=message):
            files.check_writable(tmp_path / name)
    with pytest.raises(InputError, match=": a folder"):
        files.check_writable("")
    with pytest.raises(InputError, match="is a file, expected a folder"):
        files.check_folder(tmp_path / "file" / "pages")
    with pytest.raises(InputError, match="no folder can be made"):
        files.make_folder(tmp_path / "file" / "pages")
    files.check_writable(tmp_path / "new.json")
    files.check_folder(tmp_path / "new" / "pages")
    assert os.listdir(tmp_path) == ["file"]
