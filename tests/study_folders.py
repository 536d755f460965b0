"""Studies whose runs nobody trained, or this process: logs, records and environments, for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.spec.training.written import plain
from parity.study.plan import Plan, StudyRun, state_of
from parity.study.running import NOT_FINITE, Ended
from parity.training import overrides
from parity.training.dist_env import asked
from parity.training.progress_bar import Silent
from parity.training.run import Options
from parity.training.start import train

CLASSES = ("road", "car")
FIRST = (0.50, 0.52, 0.51, 0.53)
SECOND = (0.54, 0.561, 0.549, 0.572)  # 4 points more, within 0.2


def plan(out: Path, epochs: int = 2, name: str = "enet-camvid") -> Plan:
    """A plan, written into a folder."""
    made = Plan.of(overrides.find(name), epochs, 1, "data")
    made.write(out)
    return made


def write_run(
    plan: Plan,
    run: StudyRun,
    out: Path,
    scores: Sequence[float | None],
    classes: Mapping[str, float | None] | None = None,
    state: Mapping[str, Any] | None = None,
    images_per_second: float | Sequence[float] = 20.0,
    images: int = 90,
    stages: Sequence[str] = (),
    starts: Sequence[Mapping[str, Any]] = ({},),
) -> None:
    """Write a run's folder as training leaves it.

    Args:
        plan: The study.
        run: The run.
        out: The study's folder.
        scores: Of each epoch's validation, in [0, 1].
        classes: Class -> IoU at every validation; the score of each if not given.
        state: How it ended; a finished one if not given, none if empty.
        images_per_second: Of each epoch, or of all.
        images: Of each validation.
        stages: Name of each epoch's stage; all of one if not given.
        starts: What is different in the record of each start.
    """
    folder = out / run.name
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for i, score in enumerate(scores, 1):
        speed = images_per_second
        speed = speed if isinstance(speed, float) else speed[i - 1]
        clock = {"seconds": 18.0, "images_per_second": speed, "time": 100.0 * i}
        stage = stages[i - 1] if stages else "whole"
        line: dict[str, Any] = {"kind": "epoch", "stage": stage, "epoch": i, "batches": 10 * i}
        lines.append(line | {"loss": 1.0, "clock": clock})
        shares = dict.fromkeys(CLASSES, score) if classes is None else dict(classes)
        line = {"kind": "validation", "batches": 10 * i, "score": score, "mean_loss": 1.0}
        line |= {
            "stage": stage,
            "images": images,
            "iou_class": shares,
            "clock": {"seconds": 3.0, "time": 101.0 * i},
        }
        lines.append(line)
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    start = {
        "framework": run.framework,
        "recipe": plain(plan.recipe_for(run)),
        "versions": {"torch": "2.13.0", "jax": "0.10.2", "flax": "0.12.8"},
        "hardware": {"processor": "a processor", "host": "a machine"},
        "devices": ["cpu: 2 threads"],
        "data": "/data",
    }
    entries = {"starts": [start | dict(more) for more in starts]}
    (folder / "environment.json").write_text(json.dumps(entries))
    ended = {"status": "finished", "why": "", "epochs": plan.epochs} if state is None else state
    if ended:
        state_of(out, run).write_text(json.dumps(ended))


def whole(out: Path, second: tuple[float, ...] = SECOND) -> Plan:
    """A study of both sides; the best validation is the first."""
    made = plan(out)
    for seed, (a, b) in enumerate(zip(FIRST, second, strict=True), 1):
        write_run(made, StudyRun((), seed, 1, "torch"), out, [a, a - 0.01])
        write_run(made, StudyRun((), seed, 1, "jax"), out, [b, b - 0.02], images_per_second=10.0)
    return made


def in_process(plan: Plan, run: StudyRun, out: Path) -> Ended:
    """Train a run in this process: nothing has to be imported again."""
    try:
        done = train(
            plan.recipe_for(run),
            run.framework,
            plan.data,
            out / run.name,
            resume=True,
            workers=0,
            options=Options(pictures=0, epochs=plan.epochs),
            display=Silent(),
            env=asked(run.framework, plan.devices),
        )
    except FloatingPointError as error:
        return Ended(NOT_FINITE, str(error))
    return Ended(done.status)
