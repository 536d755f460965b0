"""The folder of a run: its files, and its lock against a second writer.

OUT/environment.json    the recipe, the seed, every start: versions, hardware, commit, command
OUT/log.jsonl           a line for every few steps, every epoch, every validation
OUT/tensorboard/        the log for TensorBoard
OUT/checkpoints/        last, best, and one every so many epochs
OUT/pictures/           predictions of the latest validation
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.io.files import check_folder, make_folder, read_json, write_atomically
from parity.io.replacing import LEFT, sweep
from parity.spec.errors import InputError

try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]  # Windows has none

ENVIRONMENT = "environment.json"
SUFFIX = ".safetensors"


class Folder:
    """The folder that a run writes to.

    Args:
        path: The folder OUT.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.checkpoints = self.path / "checkpoints"
        self.pictures = self.path / "pictures"
        self.log = self.path / "log.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.environment = self.path / ENVIRONMENT
        self.last = self.checkpoint("last")

    def checkpoint(self, name: str) -> Path:
        return self.checkpoints / f"{name}{SUFFIX}"

    @contextlib.contextmanager
    def claimed(self, resume: bool) -> Iterator[None]:
        """Keep it for this process alone.

        Args:
            resume: It may hold a run.

        Raises:
            InputError: It holds a run or something else, cannot be made, or another process has it.
        """
        check_folder(self.path)
        self._refuse_full(resume)
        make_folder(self.checkpoints)
        with self._locked():
            self.sweep()
            yield

    def sweep(self) -> None:
        """Remove what a process left that was killed while it wrote."""
        for folder in (self.path, self.checkpoints, self.pictures):
            sweep(folder)

    def starts(self) -> list[dict[str, Any]]:
        """Read the record of every start of the run, in order.

        Raises:
            InputError: It cannot be read, or was changed.
        """
        if not self.environment.exists():
            return []
        found = read_json(self.environment)
        starts = found.get("starts") if isinstance(found, dict) else None
        if not isinstance(starts, list):
            raise InputError(f'{self.environment}: expected {{"starts": [...]}}')
        return starts

    def started(self, facts: dict[str, Any]) -> None:
        """Add a start.

        Raises:
            InputError: It cannot be written.
        """
        entries = {"starts": [*self.starts(), facts]}
        write_atomically(self.environment, json.dumps(entries, indent=1).encode())

    def _refuse_full(self, resume: bool) -> None:
        found = list(self.path.iterdir()) if self.path.is_dir() else []
        if self.environment in found and not resume and self._begun():
            raise InputError(
                f"{self.path} holds a run: --resume goes on with it, another --out begins anew"
            )
        # What a run leaves that ended before it had begun.
        early = [p for p in found if p == self.checkpoints and not any(p.iterdir())]
        early += [p for p in found if LEFT.fullmatch(p.name)]
        others = [p.name for p in found if p not in early]
        if others and self.environment not in found:
            raise InputError(f"{self.path} is not empty: it holds {min(others)}, but no run")

    def _begun(self) -> bool:
        """Return whether there are files that a new run would overwrite."""
        logged = self.log.exists() and self.log.stat().st_size > 0
        return logged or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold a lock until this process ends, where the system supports it."""
        if not fcntl:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"{self.path}: another process trains there") from None
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            os.close(handle)
