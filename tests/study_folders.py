"""Folders of studies that nobody trained: logs, records and environments, for tests of reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.spec.training.written import plain
from parity.study.plan import Plan, Run, state_of
from parity.training import overrides

CLASSES = ("road", "car")


def plan(out: Path, epochs: int = 2, name: str = "enet-camvid") -> Plan:
    """A plan, written into a folder."""
    made = Plan.of(overrides.find(name), epochs, 1, "data")
    made.write(out)
    return made


def write_run(
    plan: Plan,
    run: Run,
    out: Path,
    scores: Sequence[float | None],
    classes: Mapping[str, float | None] | None = None,
    state: Mapping[str, Any] | None = None,
    images_per_second: float = 20.0,
    images: int = 90,
    stages: Sequence[str] = (),
) -> None:
    """Write a run's folder as training leaves it.

    Args:
        plan: The study.
        run: The run.
        out: The study's folder.
        scores: Of each epoch's validation, in [0, 1].
        classes: Class -> IoU at every validation; the score of each if not given.
        state: How it ended; a finished one if not given, none if empty.
        images_per_second: Of each epoch.
        images: Of each validation.
        stages: Name of each epoch's stage; all of one if not given.
    """
    folder = out / run.name
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = []
    for i, score in enumerate(scores, 1):
        clock = {"seconds": 18.0, "images_per_second": images_per_second, "time": 100.0 * i}
        lines.append({"kind": "epoch", "epoch": i, "batches": 10 * i, "loss": 1.0, "clock": clock})
        shares = dict.fromkeys(CLASSES, score) if classes is None else dict(classes)
        line = {"kind": "validation", "batches": 10 * i, "score": score, "mean_loss": 1.0}
        line |= {"stage": stages[i - 1] if stages else "whole"}
        line |= {
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
    }
    (folder / "environment.json").write_text(json.dumps({"starts": [start]}))
    ended = {"status": "finished", "why": "", "epochs": plan.epochs} if state is None else state
    if ended:
        state_of(out, run).write_text(json.dumps(ended))
