"""What the runs of a study reached: read from their logs and records."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from parity.io.files import read_json
from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import differences, plain, recipe_of
from parity.study import claims
from parity.study.plan import Plan, StudyRun, read_state
from parity.study.running import claim_of
from parity.training import logger
from parity.training.folder import ENVIRONMENT

FINISHED, FAILED, BEGUN, MISSING = "finished", "failed", "half done", "not begun"
THEN = " then "  # between what one start and the next say
Curve = list[tuple[int, float]]


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast a run was; NaN where its log is too short to say.

    Attributes:
        images_per_second: In training: the median of the epochs of the last stage that was trained,
            without the first step of each start, which may compile.
        step: Seconds of a step of training, from the same numbers.
        validation: Images per second of that stage's validations, reading included: their median.
        hours: In training and validation together.
    """

    images_per_second: float = math.nan
    step: float = math.nan
    validation: float = math.nan
    hours: float = 0.0


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What one run reached, in percent.

    Attributes:
        run: The run.
        status: `FINISHED`, `FAILED`, `BEGUN` or `MISSING`.
        note: A line on what is wrong or missing; empty of a finished run.
        best: The best validation's score, of the last stage that was trained.
        last: The last one's.
        classes: Class -> score at the validation that the recipe keeps; None where absent.
        curve: (Batches trained on, score) of each validation, of all stages.
        images: Number of images of a validation; 0 if there was none.
        speed: How fast it was.
        versions: Package -> version; several with "then" between, where the run went on under
            another one.
        machine: Processor and devices, likewise.
        data: Where its data were, of every start.
        content: Hash of its log without times: equal of two runs that computed alike.
    """

    run: StudyRun
    status: str
    note: str = ""
    best: float = math.nan
    last: float = math.nan
    classes: dict[str, float | None] = dataclasses.field(default_factory=dict)
    curve: Curve = dataclasses.field(default_factory=list)
    images: int = 0
    speed: Speed = Speed()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    machine: str = ""
    data: tuple[str, ...] = ()
    content: str = ""

    def score(self, keep: str) -> float:
        """Return the best or the last score."""
        return self.best if keep == "best" else self.last

    @property
    def finished(self) -> bool:
        return self.status == FINISHED

    @property
    def scored(self) -> bool:
        """Return whether both scores are numbers."""
        return not (math.isnan(self.best) or math.isnan(self.last))

    @property
    def software(self) -> str:
        """Return the versions of the framework's packages, such as `torch 2.13.0`."""
        names = ("jax", "flax") if self.run.framework == "jax" else ("torch",)
        return " ".join(f"{name} {self.versions.get(name, '?')}" for name in names)


def read(plan: Plan, run: StudyRun, out: Path) -> RunResult:
    """Read one run.

    Raises:
        InputError: Its log or record is damaged, or it is of another recipe.
    """
    folder = out / run.name
    state = read_state(out, run)
    lines = _lines(folder / "log.jsonl")
    validations = [line for line in lines if line["kind"] == "validation"]
    epochs = sum(line["kind"] == "epoch" for line in lines)
    status, note = _status(plan, run, out, state, epochs)
    facts: dict[str, Any] = {}
    try:
        if validations:
            facts = _scores(validations, plan.recipe.keep)
        facts["speed"] = _speed(lines, plan.recipe_for(run).on(plan.devices))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"{folder / 'log.jsonl'}: not the log of a run") from error
    if (folder / ENVIRONMENT).exists():
        facts |= _environment(folder / ENVIRONMENT, run, plan.recipe_for(run))
    bare = [{k: v for k, v in line.items() if k != logger.CLOCK} for line in lines]
    facts["content"] = hashlib.sha256(json.dumps(bare).encode()).hexdigest()
    if status == FINISHED and not validations:
        status, note = FAILED, f"{run.words}: finished, but its log has no validation"
    return RunResult(run, status, note, **facts)


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        lines = logger.read(path)
        if all(isinstance(line["kind"], str) for line in lines):
            return lines
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise InputError(f"{path}: not the log of a run")


def _status(
    plan: Plan, run: StudyRun, out: Path, state: dict[str, Any], epochs: int
) -> tuple[str, str]:
    if state.get("status") == "finished":
        return FINISHED, ""
    if state:
        return FAILED, f"{run.words}: failed, and is in no number below: {state.get('why')}"
    holder = claims.holder(claim_of(out, run))
    now = f" (trained now by {holder})" if holder else ""
    if epochs or (out / run.name).is_dir():
        return BEGUN, f"{run.words}: {epochs} of {plan.epochs} epochs are done{now}"
    return MISSING, f"{run.words}: not begun{now}"


def _scores(validations: list[dict[str, Any]], keep: str) -> dict[str, Any]:
    percent = [_percent(line["score"]) for line in validations]
    curve = [(int(line["batches"]), p) for line, p in zip(validations, percent, strict=True)]
    # An encoder's score, at an eighth of the size, is not that of the whole network.
    stage = validations[-1].get("stage")
    pairs = zip(percent, validations, strict=True)
    own = [(p, line) for p, line in pairs if line.get("stage") == stage]
    best = max(own, key=lambda pair: (not math.isnan(pair[0]), pair[0]))
    kept = best[1] if keep == "best" else validations[-1]
    shares = kept.get("iou_class") or kept.get("accuracy_class") or {}
    classes = {k: None if v is None else 100 * float(v) for k, v in shares.items()}
    found = {"best": best[0], "last": percent[-1], "classes": classes, "curve": curve}
    return found | {"images": int(kept["images"])}


def _percent(score: float | None) -> float:
    return math.nan if score is None else 100 * float(score)


def _speed(lines: list[dict[str, Any]], recipe: Recipe) -> Speed:
    timed = [line for line in lines if line["kind"] in ("epoch", "validation")]
    hours = sum(float(line[logger.CLOCK]["seconds"]) for line in timed) / 3600
    name = timed[-1].get("stage") if timed else None  # an encoder's speed is not the whole's
    own = [line for line in timed if line.get("stage") == name]
    speeds = [float(x[logger.CLOCK]["images_per_second"]) for x in own if x["kind"] == "epoch"]
    checks = [line for line in own if line["kind"] == "validation"]
    rates = [line["images"] / max(line[logger.CLOCK]["seconds"], 1e-3) for line in checks]
    trained = statistics.median(speeds) if speeds else math.nan
    validation = statistics.median(rates) if rates else math.nan
    batch = next((s.batch for s in recipe.stages if s.name == name), recipe.stages[-1].batch)
    step = batch / trained if trained > 0 else math.nan
    return Speed(trained, step, validation, hours)


def _environment(path: Path, run: StudyRun, recipe: Recipe) -> dict[str, Any]:
    found = read_json(path)
    try:
        starts = found["starts"]
        for start in starts:
            if not isinstance(start.get("data", ""), str):
                raise TypeError
            if start["framework"] != run.framework:
                raise InputError(f"{path}: trained by {start['framework']}, not by {run.framework}")
        own = recipe_of(starts[-1]["recipe"], f"the recipe in {path}")
        if changed := differences(plain(own), plain(recipe)):
            key, (there, here) = next(iter(changed.items()))
            raise InputError(f"{path}: trained with {key} {there}, the study has {here}")
        packages = dict.fromkeys(name for start in starts for name in start["versions"])
        versions = {p: _then(s["versions"].get(p, "?") for s in starts) for p in packages}
        machine = _then(f"{s['hardware']['processor']}; {', '.join(s['devices'])}" for s in starts)
        places = tuple(dict.fromkeys(s["data"] for s in starts if "data" in s))
        return {"versions": versions, "machine": machine, "data": places}
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{path}: not the record of a run's starts") from error


def _then(values: Iterable[str]) -> str:
    """Join what one start after the other says, each once."""
    return THEN.join(dict.fromkeys(values))
