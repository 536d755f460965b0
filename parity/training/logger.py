"""The log of a run, as lines of JSON and for TensorBoard.

A line holds values that are determined by the recipe and, under `clock`, times and speeds. When a
run is resumed, the log is truncated to its length at the checkpoint, so that it equals that of an
uninterrupted run; TensorBoard's files are rebuilt from it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError

CLOCK = "clock"
# Kind of line -> what of it TensorBoard shows.
CURVES = {
    "step": ("loss", "rate", "scale"),
    "epoch": ("loss",),
    "validation": ("score", "mean_loss"),
}


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Context that turns file system errors into one-line messages.

    Raises:
        InputError: It does.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error


class Logger:
    """An open log.

    Args:
        path: The file.
        tensorboard: The folder of TensorBoard's files; None for no such files.
        keep: Number of existing lines to keep; later ones are cut off.

    Raises:
        InputError: It cannot be written, or one of these lines is damaged.
    """

    def __init__(self, path: Path, tensorboard: Path | None, keep: int = 0) -> None:
        self.path = path
        with writing(path):
            kept = path.read_bytes().splitlines(keepends=True)[:keep] if path.exists() else []
            kept = kept[: len(kept) - bool(kept and not kept[-1].endswith(b"\n"))]
            self.file = path.open("ab")
            self.file.truncate(sum(map(len, kept)))
        self.lines = len(kept)
        self.curves = None if tensorboard is None else TensorBoardLogger(tensorboard)
        for i, line in enumerate(kept if self.curves else (), 1):
            try:
                self._show(json.loads(line))
            except (ValueError, KeyError, TypeError) as error:
                self.close()
                raise InputError(f"{path}: line {i} is not of a run's log") from error

    def write(self, kind: str, facts: dict[str, Any], clock: dict[str, Any]) -> None:
        """Add a line.

        Args:
            kind: `step`, `epoch` or `validation`.
            facts: Values that are equal in every run of the recipe.
            clock: Times and speeds.

        Raises:
            InputError: It cannot be written.
        """
        line = {"kind": kind, **facts, CLOCK: {"time": round(time.time(), 3), **clock}}
        with writing(self.path):
            self.file.write(json.dumps(line).encode() + b"\n")
            self.file.flush()
        self.lines += 1
        self._show(line)

    def sync(self) -> None:
        """Flush it to the disk: a checkpoint that counts its lines comes next."""
        with writing(self.path):
            os.fsync(self.file.fileno())
        if self.curves:
            self.curves.flush()

    def close(self) -> None:
        """Close the log; an error here loses nothing, since all lines have been flushed."""
        with contextlib.suppress(OSError):
            self.file.close()
        if self.curves:
            self.curves.close()

    def _show(self, line: dict[str, Any]) -> None:
        names = CURVES[line["kind"]] if self.curves else ()
        values = {f"{line['kind']}/{n}": line[n] for n in names if line.get(n) is not None}
        values |= {
            f"speed/{n}": line[CLOCK][n]
            for n in ("images_per_second", "waiting")
            if line["kind"] == "epoch" and n in line[CLOCK]
        }
        if self.curves:
            self.curves.add(values, line["batches"], line[CLOCK]["time"])


class NullLogger:
    """The log of a process that writes none."""

    lines = 0

    def write(self, kind: str, facts: dict[str, Any], clock: dict[str, Any]) -> None:
        del kind, facts, clock

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardLogger:
    """Writer of TensorBoard's event file, which is rebuilt at every start.

    `tensorboardX.SummaryWriter` writes from a separate thread, which on a full disk dies silently,
    so that a flush waits forever; this class uses the layer below it.

    Args:
        folder: Its folder; event files of earlier starts are removed.
    """

    def __init__(self, folder: Path) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        self.folder = folder
        with writing(folder):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            self.writer = EventsWriter(str(folder / "events"))

    def add(self, values: dict[str, float], step: int, seconds: float) -> None:
        """Add points to curves.

        Args:
            values: Curve -> value.
            step: Number of the step in the whole run.
            seconds: Seconds since 1970.
        """
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        with writing(self.folder):
            for name, value in values.items():
                self.writer.write_event(
                    Event(wall_time=seconds, step=step, summary=scalar(name, value))
                )

    def flush(self) -> None:
        with writing(self.folder):
            self.writer.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.writer.close()


def read(path: Path, clock: bool = True) -> list[dict[str, Any]]:
    """Read the complete lines of a log.

    Args:
        path: The file.
        clock: Whether to include times and speeds.
    """
    lines = path.read_bytes().splitlines(keepends=True)
    found = [json.loads(line) for line in lines if line.endswith(b"\n")]
    return found if clock else [{k: v for k, v in f.items() if k != CLOCK} for f in found]
