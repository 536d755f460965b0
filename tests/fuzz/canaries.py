"""Files outside a hostile file's folder, watched by the kernel: C++ cannot open them unseen."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

OPEN, ACCESS, MODIFY, CREATE, DELETE, MOVED = 0x20, 0x1, 0x2, 0x100, 0x200, 0xC0
EVENTS = OPEN | ACCESS | MODIFY | CREATE | DELETE | MOVED
HEADER = struct.Struct("iIII")
NONBLOCK = os.O_NONBLOCK | os.O_CLOEXEC


class Canaries:
    """A folder whose files nothing may open, make or remove (Linux: inotify).

    Attributes:
        folder: What is watched, with the folders in it that are there when it is made.
        canary: A name in it; whatever a hostile file runs makes a file of this name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.canary = folder / "canary"
        folder.mkdir(exist_ok=True)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._handle = self._libc.inotify_init1(NONBLOCK)
        self._names: dict[int, Path] = {}
        if self._handle < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")

    def watch(self) -> None:
        """Begin, with what lies there now."""
        for folder in (self.folder, *(p for p in self.folder.rglob("*") if p.is_dir())):
            number = self._libc.inotify_add_watch(self._handle, os.fsencode(folder), EVENTS)
            if number < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(folder))
            self._names[number] = folder

    def touched(self) -> list[str]:
        """What was opened, made or removed since the last call."""
        found: dict[str, None] = {}
        while data := self._read():
            at = 0
            while at < len(data):
                number, mask, _, length = HEADER.unpack_from(data, at)
                name = data[at + HEADER.size : at + HEADER.size + length].rstrip(b"\0")
                at += HEADER.size + length
                where = self._names.get(number, self.folder) / os.fsdecode(name)
                verbs = {"made": CREATE, "opened": OPEN | ACCESS}
                verb = next((verb for verb, bits in verbs.items() if mask & bits), "changed")
                found[f"{verb} {where}"] = None
        self.canary.unlink(missing_ok=True)
        while self._read():  # that it was removed
            pass
        return list(found)

    def close(self) -> None:
        os.close(self._handle)

    def _read(self) -> bytes:
        try:
            return os.read(self._handle, 1 << 16)
        except BlockingIOError:
            return b""
