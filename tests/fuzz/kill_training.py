"""Training runs that are killed at random instants, and go on: is the end bitwise the same?

A small ENet on scenes that the project draws, with dropout, augmentation, two optimizers, a stage
change and a dynamic loss scale. Each run is killed once (SIGKILL), every fourth anywhere from its
first import to its last write, the others between its first checkpoint and its last, and started
again with `resume`. Then every file that it leaves must be, byte for byte, that of a run that
nobody killed; of the log and the environment the times may differ.
On several devices PyTorch has a process each and one that started them: any of them is killed, at
an instant from the beginning of training on, and all must have ended within a minute.
"""

from __future__ import annotations

import contextlib
import dataclasses
import filecmp
import functools
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from parity.spec.training.written import to_toml
from parity.training import logger
from parity.training.folder import Folder
from parity.training.run import Options
from tests.fuzz.result import FuzzRow, Job
from tests.small_recipe import PROGRAM, recipe, scenes

CURVES = "tensorboard"  # whose files are named by the time
ANYWHERE = 4  # one kill in so many; the others are where there is something to go on from
PROMPT = 60  # seconds in which everything has ended
OPTIONS = Options(log_every=1, save_every=2, keep_every=1, pictures=1)

Case = tuple[str, str, int]  # framework, precision (half ones are at level O2), devices
CASES: tuple[Case, ...] = tuple((f, "fp32", n) for n in (1, 2) for f in ("torch", "jax"))


def endure(job: Job, case: Case) -> FuzzRow:
    """Kill runs; those that end as if nobody had killed them count as read.

    Args:
        job: How many.
        case: What trains, and how.

    Raises:
        RuntimeError: A run fails that nobody killed, or does not fail well.
    """
    folder, (framework, precision, devices) = job.folder, case
    row = FuzzRow("training", f"{framework}, {precision}, devices: {devices}")
    data, whole = scenes(folder / "data"), folder / "whole"
    rng = random.Random(f"{job.seed} {framework}")
    several = framework == "torch" and devices > 1
    run = functools.partial(trained, case, data, rng)
    run(folder / "first")  # what is compiled once is kept
    begun = time.time()
    run(whole)
    seconds = time.time() - begun
    training = Folder(whole).environment.stat().st_mtime if several else begun
    saved = [path.stat().st_mtime for path in Folder(whole).last.parent.iterdir()]
    early = 0
    while row.tried < job.count:
        job.progress(f"{row.suite}, {row.what}: {row.tried}/{job.count}")
        out = folder / f"killed{row.tried}"
        if row.tried % ANYWHERE == ANYWHERE - 1:
            longest = begun + seconds - training
            since = Folder(out).environment if several else None
        else:
            longest, since = max(saved) - min(saved), Folder(out).last
        if not run(out, rng.uniform(0, longest), since):  # else it ended before
            row.tried += 1
            early += not Folder(out).last.exists()
            run(out)
            wrong = different(whole, out)
            row.loaded += not wrong
            if wrong:
                row.faults.append(f"kill {row.tried}: {', '.join(wrong)}")
        shutil.rmtree(out)
    row.note = f"{early} before the first checkpoint; a run takes {seconds:.1f} s"
    return row


def trained(
    case: Case,
    data: Path,
    rng: random.Random,
    out: Path,
    delay: float | None = None,
    since: Path | None = None,
) -> bool:
    """`parity train` in its own processes, which goes on where there is something to go on from.

    Args:
        case: What trains, and how.
        data: What it trains on.
        rng: Draws which process is killed.
        out: Where it writes.
        delay: Seconds until then; none is if not given.
        since: A file from which on they count, once it is there.

    Returns:
        Whether it ended before one was killed.

    Raises:
        RuntimeError: It failed, or a process was killed and it did not fail well.
    """
    framework, precision, devices = case
    toml, log = out.with_name("recipe.toml"), out.with_name(f"{out.name}.txt")
    toml.write_text(to_toml(recipe(precision, devices)))
    options = {"framework": framework, "data": data, "out": out, "devices": devices, "workers": 0}
    options |= {k: v for k, v in dataclasses.asdict(OPTIONS).items() if v is not None}
    said = [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    with log.open("ab") as file:
        command = [sys.executable, "-c", PROGRAM, "train", str(toml), "--resume", *said]
        starter = psutil.Popen(command, stdout=file, stderr=subprocess.PIPE, text=True)
    workers: list[psutil.Process] = []
    victim = starter
    if delay is not None:
        while since and starter.poll() is None and not since.exists():
            time.sleep(0.002)
        time.sleep(delay)
        with contextlib.suppress(psutil.NoSuchProcess):
            workers = starter.children()
            victim = rng.choice([starter, *workers])
            victim.kill()
    killed = time.monotonic()
    error = starter.communicate(timeout=None if delay is None else PROMPT)[1]
    if starter.returncode == 0:
        return True
    if delay is None:
        raise RuntimeError(f"{log}: exit status {starter.returncode}: {error}")
    while alive := list(filter(lives, workers)):
        if time.monotonic() - killed > PROMPT:
            raise RuntimeError(f"{log}: still there after {PROMPT} s: {alive}")
        time.sleep(0.02)
    if victim != starter and error.count("\n") != 1:
        raise RuntimeError(f"{log}: expected one line, it said {error!r}")
    return False


def lives(process: psutil.Process) -> bool:
    """Whether a process has not ended; one that has may stay until somebody asks for its status."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def different(one: Path, other: Path) -> list[str]:
    """Which files of two runs are not the same, but for times."""
    ours, theirs = (
        {p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.parent.name != CURVES}
        for root in (one, other)
    )
    both = (ours & theirs) - {Path("log.jsonl"), Path("environment.json")}
    wrong = [str(p) for p in sorted(ours ^ theirs)]
    wrong += filecmp.cmpfiles(one, other, sorted(map(str, both)), shallow=False)[1]
    logs = [logger.read(folder / "log.jsonl", clock=False) for folder in (one, other)]
    return wrong + ["log.jsonl"] * (logs[0] != logs[1])
