"""Writing an Orbax directory in parts."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from parity.io.replacing import flush
from parity.spec.errors import InputError, listed
from weights_convert.memory import ahead
from weights_convert.streaming import orbax_arrays
from weights_convert.streaming.orbax_arrays import Arrays
from weights_convert.streaming.plan import Unit, tensors_of, units
from weights_convert.streaming.work import Work, different, sha256

PART = 1 << 27  # bytes that are saved at a time, unless one tensor takes more


def write_orbax(work: Work, folder: Path, target: Path) -> dict[str, str]:
    """Write a directory; parts that an earlier process wrote are kept, if they are right.

    Args:
        work: What to write.
        folder: Where parts are kept until all are there.
        target: The directory to make.

    Returns:
        The hashes of all tensors.

    Raises:
        InputError: What was written reads otherwise.
        OSError: The file system refuses.
    """
    parts = units(work.plan, PART)
    hashes = _kept(work, folder, parts)
    rest = [unit for unit in parts if not tensors_of(unit).keys() <= hashes.keys()]
    for count, (arrays, made) in enumerate(ahead(lambda u: _arrays(work, u), rest, 1), 1):
        work.progress(f"writing part {count} of {len(rest)}")
        orbax_arrays.save_part(folder, arrays)
        hashes |= made
        arrays.clear()  # the next but one is being made
    orbax_arrays.join(folder, target)
    for file in target.rglob("*"):
        flush(file)
    _verify(work, target, hashes)
    return {name: hashes[name] for name in work.plan.made}


def _arrays(work: Work, unit: Unit) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Make the arrays of a part, and their hashes."""
    arrays = work.each(unit, lambda name, array: _laid_out(array))
    return arrays, {name: sha256(array) for name, array in arrays.items()}


def _laid_out(array: np.ndarray) -> np.ndarray:
    """Return an array in C order, while an earlier part is written; a large view stays one."""
    return array if array.nbytes > PART else np.array(array, order="C", copy=None)


def _kept(work: Work, folder: Path, parts: list[Unit]) -> dict[str, str]:
    """Return the hashes of tensors in parts that are there and right; the others are removed."""
    hashes: dict[str, str] = {}
    for path, held in orbax_arrays.parts(folder).items():
        unit = next((u for u in parts if tensors_of(u) == held.tensors), None)
        if unit is not None and not tensors_of(unit).keys() & hashes.keys():
            work.progress(f"verifying {path.name}, which is there")
            made = work.sha256s(unit)
            with contextlib.suppress(InputError):
                if not different({name: held.sha256(name) for name in held.tensors}, made):
                    hashes |= made
                    continue
        orbax_arrays.drop(path)
    return hashes


def _verify(work: Work, target: Path, made: dict[str, str]) -> None:
    """Refuse a directory that does not hold what was made.

    Raises:
        InputError: It does not.
    """
    work.progress("reading it back")
    written = Arrays(target)
    if written.tensors != work.plan.made:
        raise InputError(f"cannot write {target}: read back, it holds other tensors")

    def digest(name: str) -> str:
        with work.budget.taken(2 * written.tensors[name].nbytes):
            return written.sha256(name)

    with ThreadPoolExecutor(work.workers) as pool:
        found = dict(zip(made, pool.map(digest, made), strict=True))
    if wrong := different(found, made):
        raise InputError(f"cannot write {target}: read back, {listed(wrong)} differ")
