"""Claims: which process trains which run, where several share a folder.

A claim is a file that is made atomically and names its owner. A process that is killed leaves it.
It is stale when the owner's process is gone (on this machine), or when nobody has touched it for
`STALE` seconds (of another machine, whose processes cannot be seen); every owner touches its own
every `BEAT` seconds. Clocks are compared by the file system's own times alone.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import tempfile
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.io.files import make_folder
from parity.spec.errors import InputError

BEAT = 20.0
STALE = 300.0


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a claim; yields False where another process holds it.

    Args:
        path: The claim's file; its folder is made.

    Raises:
        InputError: It cannot be written.
    """
    make_folder(path.parent)
    token = uuid.uuid4().hex
    if not _take(path, token):
        yield False
        return
    done = threading.Event()
    beats = threading.Thread(target=_beat, args=(path, done), daemon=True)
    beats.start()
    try:
        yield True
    finally:
        done.set()
        beats.join()
        if _read(path).get("token") == token:
            path.unlink(missing_ok=True)


def holder(path: Path) -> str | None:
    """Describe who holds a claim; None where nobody does, or one who is gone."""
    found = _read(path)
    if not found or _stale(path, found):
        return None
    return f"process {found.get('pid')} on {str(found.get('host')).split()[0]}"


def _take(path: Path, token: str) -> bool:
    if _make(path, token):
        return True
    found = _read(path)
    if not _stale(path, found):
        return False
    # Moved away, not deleted: of two that find it stale, only one moves it, and it sees what it
    # moved. If that was the other's new claim, it is put back.
    aside = path.with_name(f"{path.name}.{token}")
    try:
        os.rename(path, aside)
    except OSError:
        return False
    if _read(aside) != found:
        with contextlib.suppress(OSError):
            os.link(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return _make(path, token)


def _make(path: Path, token: str) -> bool:
    """Make a claim, whole, unless there is one."""
    owner = {"token": token, "host": _machine(), "pid": os.getpid()}
    owner["born"] = _born(os.getpid())
    new = path.with_name(f"{path.name}.{token}")
    try:
        new.write_text(json.dumps(owner))
        try:
            os.link(new, path)  # fails where there is one; never shows half a file
        finally:
            new.unlink(missing_ok=True)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):  # no links there
            return _make_alone(path, owner)
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return True


def _make_alone(path: Path, owner: dict[str, Any]) -> bool:
    try:
        with path.open("x") as file:
            file.write(json.dumps(owner))
    except FileExistsError:
        return False
    return True


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _stale(path: Path, found: dict[str, Any]) -> bool:
    if found.get("host") == _machine():
        pid = found.get("pid")
        born = _born(pid) if isinstance(pid, int) else None
        return born is None or born != found.get("born")
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".parity-clock-") as now:
            age = os.stat(now.name).st_mtime - path.stat().st_mtime
    except OSError:
        return False
    return age > STALE


def _machine() -> str:
    """Return the name of the machine; of a container, with what tells its process numbers apart."""
    try:
        return f"{platform.node()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def _born(pid: int) -> str | None:
    """Return what tells a process from a later one of the same number; None if there is none."""
    try:
        # The 22nd field of the line is the start time; the name before it may hold blanks.
        line = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if line[0] in "ZX" else line[19]
    except OSError:
        pass
    if os.path.exists("/proc/self/stat"):
        return None
    try:  # no Linux
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


def _beat(path: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(path)
