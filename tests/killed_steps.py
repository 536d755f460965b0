"""A run is killed before every change that it makes to the file system, one after the other.

Run by `test_training_loop.py`; prints how many changes there were.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path

from parity.spec.models import MODELS
from parity.spec.training.recipe import Recipe
from parity.training.run import Options
from tests.fake_training import TINY, assert_same, recipe, run
from tests.steps import Steps

OPTIONS = Options(log_every=1, keep_every=1)


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
        Steps(step)
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
