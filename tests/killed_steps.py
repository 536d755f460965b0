"""A run is killed before every change that it makes to the file system, one after the other.

Run by `test_training_loop.py`; prints how many changes there were.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import tempfile
from pathlib import Path

from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe
from parity.training.run import Options
from tests.fake_training import TINY, assert_same, recipe, run

OPTIONS = Options(log_every=1, keep_every=1)
STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")


def killed_before(step: int, out: Path) -> bool:
    """Run in a child that is killed before a change that it makes to the file system.

    Args:
        step: Which, counted from 1.
        out: Where the run writes.

    Returns:
        Whether it came to that.
    """
    child = os.fork()
    if not child:
        counted = [0]

        def hook(event: str, args: tuple) -> None:
            reads = event == "open" and not args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if event in STEPS and not reads:
                counted[0] += 1
                if counted[0] == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        run(out, short(), options=OPTIONS).go()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def short() -> Recipe:
    """Two epochs of two steps."""
    (stage,) = recipe().stages
    return recipe(dataclasses.replace(stage, epochs=2, drop_last=True))


def main(folder: Path) -> int:
    """How many changes a run makes; fails where one of the killed runs ends otherwise."""
    assert run(folder / "whole", short(), options=OPTIONS).go()
    step = 1
    while killed_before(step, folder / f"{step}"):
        assert run(folder / f"{step}", short(), options=OPTIONS).go()
        assert_same(folder / "whole", folder / f"{step}")
        step += 1
    return step - 1


if __name__ == "__main__":
    MODELS["tiny"] = TINY
    with tempfile.TemporaryDirectory() as root:
        print(main(Path(root)))
