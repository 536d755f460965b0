"""Checkpoints with a manifest that were changed on the way: every change must be refused."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tests.fuzz.result import FuzzRow, Job
from tests.fuzz.samples import files_of, sample
from tests.fuzz.sandbox import Sandbox, Verdict

EDGE = 4096  # bytes at the start and at the end of a file, where its structure is
LONGEST = 4096  # bytes appended


class Change(NamedTuple):
    """One change of one file: which, where in bytes, and what the file holds afterwards."""

    file: Path
    at: int
    data: bytes


def flips(data: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
    """One bit the other way."""
    at = drawn_place(len(data), rng)
    return at, data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :]


def truncations(data: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
    """Without its end."""
    at = drawn_place(len(data), rng)
    return at, data[:at]


def appended(data: bytes, rng: np.random.Generator) -> tuple[int, bytes]:
    """With bytes behind its end: at random, zeros, newlines, or its own first ones."""
    count = int(np.exp(rng.uniform(0, np.log(LONGEST))))
    choices = (rng.bytes(count), bytes(count), b"\n" * count, data[:count])
    return len(data), data + choices[rng.integers(len(choices))]


# Name -> where a file's bytes are changed, and what they are afterwards.
KINDS = {"flips": flips, "truncations": truncations, "appended": appended}


def drawn_file(files: list[Path], rng: np.random.Generator) -> Path:
    """One of a checkpoint's files that are not empty: by turns any, and any byte's."""
    files = [f for f in files if f.stat().st_size]
    sizes = np.array([f.stat().st_size for f in files], float)
    return files[rng.choice(len(files), p=sizes / sizes.sum() if rng.integers(2) else None)]


def drawn_place(size: int, rng: np.random.Generator) -> int:
    """Somewhere in a file: half of the time anywhere, else near one of its ends."""
    if rng.integers(2):
        return int(rng.integers(size))
    near = int(rng.integers(min(EDGE, size)))
    return near if rng.integers(2) else size - 1 - near


def changed(path: Path, kind: str, count: int, seed: int) -> Iterator[Change]:
    """Make changes, one at a time: while one is out, the checkpoint has it."""
    files = files_of(path)
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        file = drawn_file(files, rng)
        whole = file.read_bytes()
        change = Change(file, *KINDS[kind](whole, rng))
        file.write_bytes(change.data)
        try:
            yield change
        finally:
            file.write_bytes(whole)


def endure(job: Job, kind: str, format: str, sandbox: Sandbox | None = None) -> FuzzRow:
    """Change a checkpoint many times, and count what becomes of it.

    Args:
        job: How often.
        kind: A key of `KINDS`.
        format: A key of `formats.FORMATS`.
        sandbox: Who reads; one of its own, which has read the checkpoint before, if not given.
    """
    path = sample(job.folder, format, job.seed)
    row = FuzzRow(kind, format)
    with contextlib.nullcontext(sandbox) if sandbox else Sandbox(warm=[path]) as sandbox:
        whole = sandbox.read(path)
        if whole.outcome != "loaded" or not whole.answer["manifest"]:
            raise RuntimeError(f"{path} cannot be read before it is changed: {whole.line}")
        for i, change in enumerate(changed(path, kind, job.count, job.seed)):
            if i % 50 == 0:
                job.progress(f"{kind}, {format}: {i}/{job.count}")
            found, place = sandbox.read(path), region(path, change)
            accepted = [_way(whole, found)] if found.outcome == "loaded" else []
            row.tried += 1
            row.refused += found.refused
            row.loaded += len(accepted)
            for fault in (*found.faults, *accepted):
                row.faults.append(f"{place}, byte {change.at}: {fault}")
    shutil.rmtree(path.parent)
    return row


def _way(whole: Verdict, found: Verdict) -> str:
    """How a changed checkpoint was loaded, beside the whole one; none of them may be."""
    if any(found.answer[k] != whole.answer[k] for k in ("arrays", "facts")):
        return "loaded with other numbers"
    if found.answer["manifest"] == whole.answer["manifest"]:
        return "loaded as if nothing were"
    which = "without its" if found.answer["manifest"] is None else "with another"
    return f"loaded {which} manifest"


def region(path: Path, change: Change) -> str:
    """Which of a checkpoint's files a change hit."""
    if not path.is_dir():
        return "file" if change.file == path else "manifest"
    parts = change.file.relative_to(path).parts  # the store's own files have random names
    return "/".join((*parts[:-1], "*" if parts[-2:-1] == ("d",) else parts[-1]))
