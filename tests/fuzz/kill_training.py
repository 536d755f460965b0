"""Training runs that are killed at random instants, and go on: is the end bitwise the same?

    python -m tests.fuzz.kill_training --framework torch --kills 50

A small ENet on scenes that the project draws, with dropout, augmentation, two optimizers, a stage
change and a dynamic loss scale. Each run is killed once (SIGKILL), every fourth anywhere from its
first import to its last write, the others between its first checkpoint and its last, and started
again with `resume`. Then every file that it leaves must be, byte for byte, that of a run that
nobody killed; of the log and the environment the times may differ. Linux.
With `--devices N` PyTorch has N processes and one that started them: any of them is killed, at an
instant from the beginning of training on, and all must have ended within a minute.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from parity.spec.augmentation import Flip, RatioCrop, Resize
from parity.spec.models import MODELS
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.recipe import PRECISIONS, Recipe, Stage
from parity.spec.training.schedules import Schedule
from parity.spec.training.written import to_toml
from parity.training import logger
from parity.training.dist_env import DistEnv
from parity.training.folder import Folder
from parity.training.run import Options
from tests.fuzz import kill_processes

MODEL = "enet-least"
BLOCKS = ("downsample1_0", "regular1_1", "upsample5_0")
SIZE = (20, 28)
TRAIN, VAL = 6, 2  # images
CURVES = "tensorboard"  # whose files are named by the time
FORKS = multiprocessing.get_context("fork")  # of a process that has started no threads
ANYWHERE = 4  # one kill in so many; the others are where there is something to go on from
OPTIONS = Options(log_every=1, save_every=2, keep_every=1, pictures=1)


def recipe(precision: str = "fp32", devices: int = 1) -> Recipe:
    """Twelve steps in which everything happens that a checkpoint must bring back.

    Args:
        precision: See `Recipe`.
        devices: Among which a batch of two, or as many as there are, can be divided.
    """
    enet: Any = MODELS["enet"]
    blocks = tuple(block for block in enet.blocks if block.name in BLOCKS)
    MODELS[MODEL] = dataclasses.replace(enet, blocks=blocks)
    first = Stage(
        name="first",
        model=MODEL,
        epochs=2,
        optimizer=Optimizer("sgd", lr=0.01, weight_decay=1e-4),
        schedule=Schedule("step", every=1, gamma=0.5),
        loss=Loss(),
        augmentation=(RatioCrop(1.0, 1.3), Resize(SIZE), Flip()),
        batch=max(2, devices),
        dropout=(0.2, 0.4),
    )
    second = dataclasses.replace(
        first,
        name="second",
        optimizer=Optimizer("adam", lr=1e-3, decay="not-norms", weight_decay=1e-4),
        schedule=Schedule("poly", length=2, per_step=True),
        dropout=(0.1, 0.3),
    )
    return Recipe(
        name="kills",
        about="",
        data="cityscapes",
        stages=(first, second),
        labels="void-last",
        size=SIZE,
        precision=precision,
        level="O2",
        loss_scale="dynamic",
    )


def scenes(root: Path) -> Path:
    """A small data set."""
    from parity.data.scenes import write

    write(root, 1, TRAIN, 24, 48, "train")
    write(root, 2, VAL, 24, 48)
    return root


@dataclasses.dataclass
class Kills:
    """What became of the runs of one framework.

    Attributes:
        framework: `torch` or `jax`.
        precision: Of its runs.
        devices: That they train on.
        killed: How many were killed before they ended.
        early: How many of them before their first checkpoint.
        equal: How many left, after going on, what a run leaves that nobody killed.
        faults: What differed, a line for each of the others.
        seconds: Of a run that nobody killed.
    """

    framework: str
    precision: str
    devices: int = 1
    killed: int = 0
    early: int = 0
    equal: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return self.killed > 0 and self.equal == self.killed


def endure(
    framework: str,
    count: int,
    seed: int,
    folder: Path,
    precision: str = "fp32",
    progress: Callable[[str], None] = lambda _: None,
    devices: int = 1,
) -> Kills:
    """Kill so many runs.

    Args:
        framework: `torch` or `jax`.
        count: How many.
        seed: Of the instants.
        precision: Of the recipe; half ones are at level O2.
        folder: Where files are made.
        progress: Called with what is done next.
        devices: That it trains on.

    Raises:
        RuntimeError: A run fails that nobody killed, or does not fail well.
    """
    data, whole = scenes(folder / "data"), folder / "whole"
    kills = Kills(framework, precision, devices)
    rng = random.Random(f"{seed} {framework}")
    run: Callable[..., bool]
    if framework == "torch" and devices > 1:
        run = functools.partial(launched, data, folder, rng, precision, devices)
    else:
        run = functools.partial(train, framework, data, precision=precision, devices=devices)
        preload(framework)
    run(folder / "first")  # what is compiled once is kept
    begun = time.time()
    run(whole)
    kills.seconds = time.time() - begun
    training = Folder(whole).environment.stat().st_mtime if devices > 1 else begun
    saved = [path.stat().st_mtime for path in Folder(whole).last.parent.iterdir()]
    while kills.killed < count:
        progress(f"kills, {framework}: {kills.killed}/{count}")
        out = folder / f"killed{kills.killed}"
        if kills.killed % ANYWHERE == 0:
            seconds = begun + kills.seconds - training
            since = Folder(out).environment if devices > 1 else None
        else:
            seconds, since = max(saved) - min(saved), Folder(out).last
        if run(out, rng.uniform(0, seconds), since):
            shutil.rmtree(out)  # it ended before
            continue
        kills.killed += 1
        kills.early += not Folder(out).last.exists()
        run(out)
        wrong = different(whole, out)
        kills.equal += not wrong
        if wrong:
            kills.faults.append(f"kill {kills.killed}: {', '.join(wrong)}")
        shutil.rmtree(out)
    return kills


def launched(
    data: Path,
    folder: Path,
    rng: random.Random,
    precision: str,
    devices: int,
    out: Path,
    delay: float | None = None,
    since: Path | None = None,
) -> bool:
    """One run of PyTorch in several processes; see `train`, and `kill_processes.train`."""
    toml = folder / "recipe.toml"
    toml.write_text(to_toml(recipe(precision, devices)))
    options = dataclasses.asdict(OPTIONS)
    numbers = [f"--{k.replace('_', '-')}={v}" for k, v in options.items() if v is not None]
    places = [f"--{k}={v}" for k, v in {"data": data, "out": out, "devices": devices}.items()]
    arguments = ["train", str(toml), "--framework=torch", "--workers=0", "--resume"]
    log = out.with_name(f"{out.name}.txt")
    return kill_processes.train([*arguments, *numbers, *places], log, rng, delay, since)


def preload(framework: str) -> None:
    """Import what every run needs, and compute nothing: a child that is forked begins at once."""
    # Else PyTorch imports the second with the first optimizer, which takes longer than the runs.
    others = {"torch": ("torch_impl.train", "torch._dynamo"), "jax": ("jax_impl.train",)}
    for name in ("grain", "tensorboardX", "parity.training.start", *others[framework]):
        importlib.import_module(name)


def train(
    framework: str,
    data: Path,
    out: Path,
    delay: float | None = None,
    since: Path | None = None,
    precision: str = "fp32",
    devices: int = 1,
) -> bool:
    """One run in a child, which goes on where there is something to go on from.

    Args:
        framework: `torch` or `jax`.
        data: What it trains on.
        out: Where it writes.
        delay: Seconds until it is killed; not at all if not given.
        since: A file from which on they count, once it is there.
        precision: Of the recipe.
        devices: That it trains on, all of this process.

    Returns:
        Whether it ended before it was killed.

    Raises:
        RuntimeError: It failed.
    """
    log = out.with_name(f"{out.name}.txt")
    arguments = (recipe(precision, devices), framework, data, out, log, DistEnv(devices))
    child = FORKS.Process(target=_train, args=arguments)
    child.start()
    if delay is not None:
        while since and not since.exists() and child.is_alive():
            time.sleep(0.001)
        child.join(delay)
        child.kill()
    child.join()
    if child.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"{framework}, {out}: {log.read_text(errors='replace')[-2000:]}")
    return child.exitcode == 0


def _train(of: Recipe, framework: str, data: Path, out: Path, log: Path, place: DistEnv) -> None:
    """In the child."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    from parity.training.start import train as run

    run(of, framework, data, out, resume=True, workers=0, options=OPTIONS, env=place)
    sys.stdout.flush()
    os._exit(0)  # at once, and not after what the libraries do at the end


def different(one: Path, other: Path) -> list[str]:
    """Which files of two runs are not the same, but for times."""
    ours, theirs = (
        {p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.parent.name != CURVES}
        for root in (one, other)
    )
    apart = {Path("log.jsonl"), Path("environment.json")}
    wrong = [str(p) for p in sorted(ours ^ theirs)]
    both = sorted((ours & theirs) - apart)
    wrong += [str(p) for p in both if (one / p).read_bytes() != (other / p).read_bytes()]
    logs = [logger.read(folder / "log.jsonl", clock=False) for folder in (one, other)]
    return wrong + ["log.jsonl"] * (logs[0] != logs[1])


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.kill_training", description=__doc__)
    parser.add_argument("--framework", choices=("torch", "jax"), required=True)
    parser.add_argument("--kills", type=int, default=50, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--devices", type=int, default=1, metavar="N")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args(arguments)
    from parity.io import compilation_cache

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # more would only wait for each other
    compilation_cache.keep_compiled(compilation_cache.of_user())
    with tempfile.TemporaryDirectory(prefix="parity-kills-") as folder:
        where = (args.seed, Path(folder), args.precision, print, args.devices)
        found = endure(args.framework, args.kills, *where)
    head = ("framework", "precision", "devices", "kills", "before the first checkpoint")
    print(f"| {' | '.join(head)} | bitwise equal | seconds of a run |")
    print("|---" * 7 + "|")
    counts = (found.devices, found.killed, found.early, found.equal)
    cells = (found.framework, found.precision, *counts)
    print(f"| {' | '.join(map(str, cells))} | {found.seconds:.1f} |")
    print("\n".join(found.faults), file=sys.stderr)
    if args.json:
        Path(args.json).write_text(json.dumps(dataclasses.asdict(found), indent=1))
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main())
