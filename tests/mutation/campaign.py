"""All faults of the contract: first the judges without a fault, then each fault alone."""

from __future__ import annotations

import contextlib
import functools
import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from parity.spec.errors import InputError
from tests import forking
from tests.mutation import forks
from tests.mutation.catalogue import Fault, stale
from tests.mutation.judges import JUDGES
from tests.mutation.result import FaultRow, MutationResult

Progress = Callable[[str], None]
LIMIT = 600  # seconds, after which a fault's tests are ended


def each(
    root: Path, progress: Progress, jobs: Sequence[Mapping[str, Any]], names: Sequence[str]
) -> list[dict[str, Any]]:
    """Run each job in a process of its own, one on each core; gives what became of them, in order.

    Args:
        root: The checkout.
        progress: Called with what is done.
        jobs: See `forks.child`.
        names: What they are called.
    """
    done = itertools.count(1)
    progress("importing the frameworks")
    forking.start()

    def one(number: int) -> dict[str, Any]:
        folder = Path(scratch, str(number))
        folder.mkdir()
        with contextlib.suppress(RuntimeError):  # what it printed says why it died
            forking.ended(forks.child, jobs[number], str(root), folder, delay=LIMIT)
        progress(f"{next(done)}/{len(jobs)} done, last {names[number]}")
        return forks.outcome(folder)

    with (
        tempfile.TemporaryDirectory(prefix="parity-faults-") as scratch,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        try:
            return list(pool.map(one, range(len(jobs))))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.kill()
            raise


def run(
    faults: Sequence[Fault],
    root: Path,
    progress: Progress = lambda _: None,
    quick: bool = False,
) -> MutationResult:
    """Inject each fault alone and ask its judges.

    Args:
        faults: Which.
        root: The checkout.
        progress: Called with what is done.
        quick: Of the judges' tests, only those that found a fault are run without one, afterwards;
            else all are, before.

    Raises:
        InputError: A fault's text is not there, or a judge's tests fail without a fault.
    """
    if lines := stale(faults, root):
        raise InputError(f"{len(lines)} of {len(faults)} faults cannot be injected: {lines[0]}")
    ask = functools.partial(each, root, progress)
    skipped = {} if quick else _judges(ask, faults)
    jobs = [vars(fault) | {"tests": fault.selection, "module": fault.module} for fault in faults]
    found = ask(jobs, [f"{fault.kind}: {fault.title}" for fault in faults])
    rows = [_row(*pair) for pair in zip(faults, found, strict=True)]
    if quick and (tests := sorted({row.by for row in rows if row.by})):
        _clean(ask([{"tests": tests}], ["those that found a fault"])[0], "that found one")
    return MutationResult(rows, skipped)


def _judges(ask: Callable[..., list[dict[str, Any]]], faults: Sequence[Fault]) -> dict[str, int]:
    """Run all judges' tests without a fault; gives how many of whose were skipped."""
    asked = list(dict.fromkeys(judge for fault in faults for judge in fault.judges))
    clean = dict(zip(asked, ask([{"tests": JUDGES[j].tests} for j in asked], asked), strict=True))
    for judge, found in clean.items():
        _clean(found, f"of {JUDGES[judge].name}")
    return {judge: found["skipped"] for judge, found in clean.items() if found["skipped"]}


def _clean(found: Mapping[str, Any], which: str) -> None:
    """Refuse tests that fail anyway: they would find any fault."""
    if found["code"] or not found["passed"]:
        why = f"{found['failed']}: {found['message']}" if found["failed"] else found["message"]
        raise InputError(f"without a fault, the tests {which} fail: {why}")


def _row(fault: Fault, found: Mapping[str, Any]) -> FaultRow:
    """What became of a fault. Only a test that fails finds one: what cannot be run finds none."""
    error = ""
    if found["code"] not in (0, 1):
        error = f"its tests could not be run: {found['message'] or found['code']}"
    elif not found["loaded"]:
        error = "its tests did not import the file"
    by = found["failed"] if found["code"] == 1 and not error else ""
    return FaultRow(fault, by, found["message"] if by else "", error, found["seconds"])
