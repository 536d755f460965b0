"""Starting or resuming a run: `parity train` as a Python call."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
from pathlib import Path

from parity.data.sources import for_data
from parity.spec.errors import InputError
from parity.spec.training.recipe import Recipe
from parity.spec.training.written import digest
from parity.training import checkpoints, environment
from parity.training.data_loader import DataLoader
from parity.training.dist_env import ALONE, DistEnv, started
from parity.training.folder import Folder
from parity.training.parts import ProcessGroup
from parity.training.progress import TrainProgress
from parity.training.progress_bar import Display, Lines, Silent
from parity.training.run import Options, TrainingRun
from parity.training.scores import Score
from parity.training.side import FRAMEWORKS, Side, check_compiled, slow
from parity.training.stage_start import StageStart
from parity.training.stopping import Stop
from weights_convert.wrapping import ANY, Choice

NOW = Options()


@dataclasses.dataclass(frozen=True)
class Trained:
    """The outcome of a run.

    Attributes:
        folder: The folder it wrote.
        progress: Its position.
        score: The score of this process's latest validation, if there was one.
        status: 0 if it finished, else the exit status for the signal that stopped it.
    """

    folder: Folder
    progress: TrainProgress
    score: Score | None
    status: int


def train(
    recipe: Recipe,
    framework: str,
    data: str | Path,
    out: str | Path,
    *,
    resume: bool | str | Path = False,
    start: str | Path | None = None,
    choice: Choice = ANY,
    from_stage: str | None = None,
    workers: int | None = None,
    options: Options = NOW,
    display: Display | None = None,
    env: DistEnv = ALONE,
    labels: str | None = None,
    compiled: bool = False,
) -> Trained:
    """Train a network by a recipe, or resume a run.

    Args:
        recipe: The recipe, which determines everything that is computed; with a data set of the
            user's, as `parity.spec.training.own_data` applies it.
        framework: `torch` or `jax`.
        data: The data set's folder, or its file from `parity pack`.
        out: The folder to write; see `parity.training.folder`.
        resume: Resume the run in `out`, from its beginning if it has no checkpoint yet; or from
            this checkpoint, of the same recipe in either framework, in a folder that holds no run.
        start: A checkpoint of weights to begin with.
        choice: Which of its tensors to read; see `weights_convert.load`.
        from_stage: Name of the stage that a new run begins with, from these weights.
        workers: Number of processes that load data; 0 loads in this one.
        options: Settings that do not affect the trained weights.
        display: Where progress is shown; lines on standard output if not given.
        env: Where this process and its devices are. All processes of a run are given the same;
            the first one writes.
        labels: Which output of `start` is void; overrides its manifest.
        compiled: Compile PyTorch's network by `torch.compile`. A run is then repeated, and resumed,
            bit for bit by runs that compile, too.

    Raises:
        InputError: Anything given cannot be used, or a file cannot be written; earlier checkpoints
            are as they were.
        FloatingPointError: A loss or a gradient is not finite; one line says where.
    """
    if framework not in FRAMEWORKS:
        raise InputError(f"framework {framework!r}, expected {' or '.join(FRAMEWORKS)}")
    display = (display or Lines()) if env.leads else Silent()
    check_compiled(compiled, [framework])
    side = Side(framework, env, display.say if compiled else None)
    recipe = for_data(recipe, data)
    side.check(recipe)
    if options.epochs is not None and not 1 <= options.epochs <= recipe.epochs:
        name = recipe.stages[-1].name
        raise InputError(
            f"--epochs {options.epochs}, expected 1 to {recipe.epochs}, which the recipe has;"
            f" --set stages.{name}.epochs=N makes it longer"
        )
    env.check(recipe)
    begin = StageStart(recipe, start, choice, labels, from_stage)
    skipped = sum(stage.epochs for stage in recipe.stages[: begin.first])
    if options.epochs is not None and options.epochs <= skipped:
        raise InputError(
            f"--epochs {options.epochs} ends before stage {from_stage} begins, after {skipped}"
            " epochs of the recipe"
        )
    folder, given = Folder(out), None if isinstance(resume, bool) else Path(resume)
    loader = DataLoader(recipe, data, workers, env=env)
    loader.open()
    found = checkpoints.read(given) if given is not None and env.leads else None
    inside = given is not None and given.resolve().parent == folder.checkpoints.resolve()
    if found:
        checkpoints.check_same(found, recipe, loader.samples, env.parts)
    elif env.leads and (resume is not True or not folder.last.exists()):
        for line in [*begin.check(), *begin.notes]:
            display.say(line)
    claim = folder.claimed(resume is True or inside) if env.leads else contextlib.nullcontext()
    with claim, Stop(answers=not started()).listening() as stop:
        group = side.meet()
        if env.parts > 1:
            display.say(_devices(env, environment.devices(framework)))
        if warning := slow(framework, recipe.precision):
            display.say(warning)
        if resume is True and env.leads and folder.last.exists():
            found = checkpoints.read(folder.last)
            checkpoints.check_same(found, recipe, loader.samples, env.parts)
        elif resume is True:
            display.say(f"{folder.path} holds no checkpoint: from the beginning")
        elif found and not inside:
            found = checkpoints.adopt(found, folder)
        if found and found.origin.progress.stage < begin.first:
            raise InputError(f"{found.path} is in stage {found.stage.name}, before {from_stage}")
        facts = _facts(recipe, loader, start, options) | {"--from-stage": from_stage}
        found = _agreed(group, env, found, facts)
        if env.leads:
            origin = found.path if found else None
            if found and (line := _compiled_otherwise(folder, framework, compiled)):
                display.say(line)
            start_of = (recipe, framework, Path(data), origin, env, compiled)
            folder.started(environment.facts(*start_of))
        parts = (recipe, side, loader, folder, begin, options, display, stop, found)
        run = TrainingRun(*parts, env=env, group=group, first=begin.first)
        done = run.go()
        side.leave()
        return Trained(folder, run.progress, run.score, 0 if done else stop.status)


def _compiled_otherwise(folder: Folder, framework: str, compiled: bool) -> str:
    """Return a line where the last start was compiled and this is not, or the reverse; else ""."""
    last = (folder.starts() or [{}])[-1]
    before = last.get("compiled", False)  # version 1.0 did not compile
    if last.get("framework") != framework or before == compiled:
        return ""
    was, now = ("", "without") if before else ("not ", "with")
    return f"this run was {was}compiled until now; {now} --compile it goes on, but not bit for bit"


def _devices(env: DistEnv, found: list[str]) -> str:
    """Describe the devices of a run on several devices."""
    text = f"{env.parts} devices in {env.processes} process{'es' * (env.processes > 1)}"
    if env.nodes > 1:
        text += f" on {env.nodes} machines"
    if found[0].startswith("cpu"):
        text += f", of the CPU, which has {os.cpu_count()} cores"
    return text


def _facts(
    recipe: Recipe, loader: DataLoader, start: str | Path | None, options: Options
) -> dict[str, object]:
    """Return values that must be equal in all processes, by their names in messages."""
    weights = None
    if start is not None and Path(start).is_file():  # else reading it raises the error
        weights = hashlib.sha256(Path(start).read_bytes()).hexdigest()
    return {
        "recipe": digest(recipe),
        "number of images": loader.samples,
        "--start": weights,
        "--epochs": options.epochs,
    }


def _agreed(
    group: ProcessGroup, env: DistEnv, found: checkpoints.Found | None, facts: dict[str, object]
) -> checkpoints.Found | None:
    """Share the checkpoint found by process 0; the others need no access to its folder.

    Raises:
        InputError: This process was given something else than process 0.
    """
    there, found = group.broadcast((facts, found))
    for name, value in facts.items():
        if there[name] != value:
            raise InputError(
                f"process {env.process} has another {name} than process 0: {value}, there"
                f" {there[name]}"
            )
    return found
