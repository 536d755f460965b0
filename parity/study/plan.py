"""What a study trains: sides, seeds, repeats, rows of a sweep; and where each run lies.

OUT/plan.json                         the recipe, and what every run is given
OUT/torch/seed-3/                     one run, as `parity train --out` leaves it
OUT/torch/seed-3-repeat-2/            the same seed once more
OUT/torch-deterministic/seed-3/       the same with deterministic algorithms
OUT/sweep/ROW/torch/seed-3/           one run of a row of a sweep
OUT/.../seed-3.state.json             how it ended
OUT/.../seed-3.claim                  who trains it now
OUT/.../seed-3.asked                  that a command asked for it: empty
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from parity.io.files import make_folder, read_json, write_once
from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import differences, plain, recipe_of
from parity.study.grid import full_key
from parity.training import overrides
from parity.training.side import FRAMEWORKS

STUDY = "plan.json"
VERSION = 1
MARGIN = 0.5  # points
SWEEP = "sweep"
DETERMINISTIC = "-deterministic"
LATER = ("margin", "images", "start")  # fields that older plans do not have
SEEDS_AT_ONCE = 1000  # that one option names
RUN = re.compile(r"seed-(\d+)(?:-repeat-(\d+))?")
MARKS = (".state.json", ".asked")  # files beside a run's folder that tell of it


@dataclasses.dataclass(frozen=True, order=True)
class StudyRun:
    """One run of a study.

    Attributes:
        row: Settings of its row of the sweep, `KEY=VALUE`, in order; empty where there is no sweep.
        seed: Its seed.
        repeat: From 1; how often this seed was trained before, plus one.
        side: A framework, with `-deterministic` after it where algorithms are.
    """

    row: tuple[str, ...]
    seed: int
    repeat: int
    side: str

    @property
    def framework(self) -> str:
        return self.side.removesuffix(DETERMINISTIC)

    @property
    def deterministic(self) -> bool:
        return self.side.endswith(DETERMINISTIC)

    @property
    def name(self) -> str:
        """Return the path of its folder in OUT."""
        last = f"seed-{self.seed}" + (f"-repeat-{self.repeat}" if self.repeat > 1 else "")
        return "/".join([*((SWEEP, row_name(self.row)) if self.row else ()), self.side, last])

    @property
    def words(self) -> str:
        """Return what a line of the report calls it."""
        again = f", repeat {self.repeat}" if self.repeat > 1 else ""
        return f"{' '.join((*self.row, self.side))} seed {self.seed}{again}"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What all runs of a study have in common; the contents of `plan.json`.

    Attributes:
        recipe: The recipe, with all changes; its seed is each run's.
        published: The recipe of this name that ships with the program; None where there is none.
        epochs: Number of epochs of the whole run after which each stops.
        devices: Number of devices of each run.
        data: The data set.
        margin: Of equivalence, in points, as it was chosen when the study began.
        images: Number of images that runs train on and are validated by; None if unknown.
        start: Hash of the file of weights that every run begins with; None where they are drawn.
    """

    recipe: Recipe
    published: Recipe | None
    epochs: int
    devices: int
    data: str
    margin: float = MARGIN
    images: tuple[int, int] | None = None
    start: str | None = None

    @classmethod
    def of(cls, recipe: Recipe, epochs: int | None, devices: int, data: str, **others: Any) -> Plan:
        """Make the plan of a recipe; other fields are given by their names.

        Raises:
            InputError: The recipe has fewer epochs.
        """
        from parity.spec.recipes import RECIPES

        if epochs is not None and not 1 <= epochs <= recipe.epochs:
            raise InputError(
                f"--epochs {epochs}, expected 1 to {recipe.epochs}, which recipe {recipe.name} has"
            )
        published = RECIPES.get(recipe.name) if recipe.own is None else None
        return cls(recipe, published, epochs or recipe.epochs, devices, data, **others)

    def recipe_for(self, run: StudyRun) -> Recipe:
        """Return the recipe of one run.

        Raises:
            InputError: A key or value of its row cannot be used.
        """
        settings = [full_key(setting) for setting in run.row]
        changed = overrides.with_settings(self.recipe, settings, "--grid")
        return dataclasses.replace(changed, seed=run.seed)

    def write(self, out: Path) -> None:
        """Write it into a folder, or compare it with what is there.

        Raises:
            InputError: The folder holds another study, or something else.
        """
        path = out / STUDY
        if path.exists():
            self._check_same(Plan.read(out), path)
            return
        make_folder(out)
        others = [p.name for p in out.iterdir() if not p.name.startswith(".parity-")]
        if others and not path.exists():  # which another process may have written in the meantime
            raise InputError(f"{out} is not empty: it holds {min(others)}, but no {STUDY}")
        entries = {"version": VERSION, "recipe": plain(self.recipe), "epochs": self.epochs}
        entries |= {name: getattr(self, name) for name in ("devices", "data", *LATER)}
        # Of several processes that begin at once, one writes it; the others compare theirs.
        if not write_once(path, json.dumps(entries, indent=1).encode()):
            self._check_same(Plan.read(out), path)

    @classmethod
    def read(cls, out: Path) -> Plan:
        """Read the plan of a study's folder.

        Raises:
            InputError: There is none, or it is damaged.
        """
        path = out / STUDY
        found = read_json(path)
        try:
            if found["version"] != VERSION:
                raise InputError(f"{path}: version {found['version']}, expected {VERSION}")
            recipe = recipe_of(found["recipe"], f"the recipe in {path}")
            if not 0 < float(found.get("margin", MARGIN)) < 100:
                raise ValueError
            images, start = found.get("images"), found.get("start")
            others: dict[str, Any] = {
                "margin": float(found.get("margin", MARGIN)),
                "images": None if images is None else (int(images[0]), int(images[1])),
                "start": None if start is None else str(start),
            }
            entries = (found["epochs"], found["devices"], str(found["data"]))
            return cls.of(recipe, *entries, **others)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: not the plan of a study") from error

    def _check_same(self, there: Plan, path: Path) -> None:
        if there.recipe.name != self.recipe.name:
            raise InputError(
                f"{path.parent} holds a study of recipe {there.recipe.name}, not of"
                f" {self.recipe.name}: another --out begins a new one"
            )
        pairs = {
            key: pair
            for key, pair in differences(plain(there.recipe), plain(self.recipe)).items()
            if key != "seed"
        }
        for key, one, other in (
            ("keep", there.recipe.keep, self.recipe.keep),
            ("validate_every", there.recipe.validate_every, self.recipe.validate_every),
            ("epochs", there.epochs, self.epochs),
            ("devices", there.devices, self.devices),
            ("images to train on, and to validate", there.images, self.images),
            ("weights to start with", there.start, self.start),
        ):
            if one != other and (key[:6] != "images" or (one and other)):
                pairs[key] = (_said(one), _said(other))
        if pairs:
            said = "; ".join(f"{key} {a}, not {b}" for key, (a, b) in pairs.items())
            raise InputError(f"{path.parent} holds a study with {said}")

    def found(self, out: Path) -> list[StudyRun]:
        """List the runs that were asked for, begun or ended in OUT, in order."""
        made = {}
        for part, row in rows(out):
            for side in sides():
                for path in sorted((part / side).glob("seed-*")):
                    name = path.name
                    for mark in MARKS:
                        name = name.removesuffix(mark)
                    if match := RUN.fullmatch(name):
                        run = StudyRun(row, int(match[1]), int(match[2] or 1), side)
                        made[run.name] = run
        return in_order(made.values())


def _said(value: object) -> str:
    if isinstance(value, tuple):
        return " and ".join(map(str, value))
    return "none" if value is None else str(value)[:12]


def in_order(runs: Iterable[StudyRun]) -> list[StudyRun]:
    """Sort runs; rows of a sweep by their values: 0.06 before 0.1, 32 before 128."""

    def key(run: StudyRun) -> tuple:
        values = sorted(full_key(setting).partition("=") for setting in run.row)
        row = [(k, *_magnitude(v)) for k, _, v in values]
        return row, run.seed, run.repeat, sides().index(run.side)

    return sorted(runs, key=key)


def _magnitude(value: str) -> tuple[float, str]:
    try:
        return float(value), value
    except ValueError:
        return math.inf, value


def with_twins(found: Iterable[StudyRun]) -> list[StudyRun]:
    """Add what is missing of a pair: the first run of a seed, if its framework has any run.

    That is the other framework's of the same seed, or the one that a repeat repeats. In order.
    """
    found = set(found)
    begun = {(run.row, run.side) for run in found}
    known = {(run.row, run.side, run.seed) for run in found if run.repeat == 1}
    twins = {
        StudyRun(run.row, run.seed, 1, side)
        for run in found
        for side in (name + DETERMINISTIC * run.deterministic for name in FRAMEWORKS)
        if (run.row, side) in begun and (run.row, side, run.seed) not in known
    }
    return in_order(found | twins)


def sides() -> list[str]:
    return [f"{framework}{end}" for end in ("", DETERMINISTIC) for framework in FRAMEWORKS]


def rows(out: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """Yield the folders that hold sides: OUT itself, and one per row of a sweep."""
    yield out, ()
    if (out / SWEEP).is_dir():
        for part in sorted((out / SWEEP).iterdir()):
            if part.is_dir() and "=" in part.name:
                yield part, tuple(part.name.split(","))


def row_name(row: Sequence[str]) -> str:
    return ",".join(row)


def runs_of(
    frameworks: Sequence[str],
    seeds: Sequence[int],
    repeats: int = 1,
    deterministic: bool = False,
    grid: Sequence[tuple[str, ...]] = ((),),
) -> list[StudyRun]:
    """List runs in the order in which they are trained: pairs of one seed beside each other."""
    end = DETERMINISTIC if deterministic else ""
    return [
        StudyRun(row, seed, repeat, framework + end)
        for repeat in range(1, repeats + 1)
        for seed in seeds
        for row in grid
        for framework in frameworks
    ]


def parse_seeds(text: str) -> list[int]:
    """Parse `5` (seeds 1 to 5), `3-7`, or `1,4,9-11`.

    Raises:
        InputError: Anything else, a seed that is named twice, or too many of them.
    """
    said = f"--seeds {text!r}"
    if not re.fullmatch(r"\d+", text, re.ASCII):
        return _ranges(text, said)
    if not text.strip("0"):
        raise InputError(f"{said} names no seed; 5 is seeds 1 to 5, 0-0 is seed 0 alone")
    return _ranges(f"1-{text.lstrip('0')}", said)


def _ranges(text: str, said: str) -> list[int]:
    """Parse `3-7` or `1,4,9-11`; `said` is what messages quote."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part, re.ASCII)
        if not match or int(match[2] or match[1]) < int(match[1]):
            raise InputError(f"{said}, expected a number such as 5, or 3-7, or 1,4,9-11")
        first, last = int(match[1]), int(match[2] or match[1])
        if len(found) + last - first >= SEEDS_AT_ONCE:
            raise InputError(f"{said}: more than {SEEDS_AT_ONCE:,} seeds")
        found += range(first, last + 1)
    if len(found) != len(set(found)):
        raise InputError(f"{said}: a seed is named twice")
    return found


def parse_only(text: str) -> tuple[str, list[int]]:
    """Parse `torch:3` or `jax:3-7`.

    Raises:
        InputError: Anything else.
    """
    framework, colon, seeds = text.partition(":")
    if framework not in FRAMEWORKS or not colon or not seeds:
        raise InputError(f"--only {text!r}, expected FRAMEWORK:SEEDS such as torch:3 or jax:3-7")
    return framework, _ranges(seeds, f"--only {text!r}")


def ask(out: Path, runs: Iterable[StudyRun]) -> None:
    """Record that runs are asked for, so that a report knows which are still to come.

    Raises:
        InputError: It cannot be written.
    """
    for run in runs:
        path = out / f"{run.name}.asked"
        if not path.exists():
            make_folder(path.parent)
            write_once(path, b"")


def state_of(out: Path, run: StudyRun) -> Path:
    """Return the path of the record of how a run ended."""
    return out / f"{run.name}.state.json"


def read_state(out: Path, run: StudyRun) -> dict[str, Any]:
    """Read how a run ended; empty where it did not, or where it is to be trained anew.

    That is a run whose folder was removed, and a finished one without a log, which has no score.

    Raises:
        InputError: The record is damaged.
    """
    path = state_of(out, run)
    if not path.exists():
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or found.get("status") not in ("finished", "failed"):
        raise InputError(f"{path}: not the record of a run's end")
    needed = out / run.name / ("log.jsonl" if found["status"] == "finished" else "")
    return found if needed.exists() else {}
