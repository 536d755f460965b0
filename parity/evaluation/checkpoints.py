"""Evaluation of every checkpoint in a folder: `parity eval` as a Python call."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from parity.data.sources import for_data
from parity.io.files import write_atomically
from parity.spec.errors import InputError, listed
from parity.spec.labels import outputs
from parity.spec.training.recipe import Recipe, Stage
from parity.spec.training.written import recipe_of
from parity.training.data_loader import DataLoader, NotCountedError
from parity.training.dist_env import ALONE, DistEnv
from parity.training.folder import SUFFIX
from parity.training.parts import ProcessGroup, SingleProcess
from parity.training.progress import KEY, parse
from parity.training.scores import Count, Score, Task, measure
from parity.training.side import FRAMEWORKS, Side, check_compiled, slow
from weights_convert import Checkpoint, formats, notes
from weights_convert.assumptions import Assumed, Assumptions, Pair, assume
from weights_convert.checkpoint import described, understand
from weights_convert.wrapping import ANY, Choice

METRICS = ".metrics.txt"
Progress = Callable[[int, int, str], None]


@dataclasses.dataclass(frozen=True)
class Measured:
    """The evaluation of one checkpoint.

    Attributes:
        path: The file.
        sha256: The file's hash; files of equal content are evaluated once.
        framework: The side that evaluated it.
        stage: The stage of the recipe whose network it holds.
        epoch: Its epoch within the stage, where the file says so.
        score: The result.
        assumed: The assumptions on its inputs and outputs.
        count_size: Height and width at which predictions were counted, where it was asked for.
        notes: Remarks on the file; see `weights_convert.notes`.
        compiled: Whether `torch.compile` compiled the network.
    """

    path: Path
    sha256: str
    framework: str
    stage: str
    epoch: int | None
    score: Score
    assumed: Assumptions
    count_size: Pair | None = None
    notes: tuple[str, ...] = ()
    compiled: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        fields: dict[str, Any] = {"checkpoint": self.path.name, "sha256": self.sha256}
        fields |= {"framework": self.framework, "stage": self.stage, "epoch": self.epoch}
        fields |= self.assumed.to_dict()
        fields["compiled"] = self.compiled
        fields["count_size"] = None if self.count_size is None else list(self.count_size)
        return fields | self.score.to_dict()


@dataclasses.dataclass(frozen=True)
class Held:
    """A checkpoint file's contents, and the recipe and stage it is evaluated by."""

    recipe: Recipe
    stage: Stage
    framework: str
    epoch: int | None
    checkpoint: Checkpoint
    weights: np.ndarray | None

    def taken(self, assumed: Assumptions) -> Held:
        """Return a copy whose recipe and weights follow the assumptions on the checkpoint."""
        recipe, order = self.recipe, assumed.labels.value
        before = recipe.labels or "void-last"
        if order is None or order == before:
            return dataclasses.replace(
                self, recipe=dataclasses.replace(recipe, size=assumed.size.value)
            )
        count = len(recipe.dataset.classes)
        weights = self.weights
        if weights is not None:  # they are in the order of the outputs
            moved = np.empty_like(weights)
            moved[outputs(order, count)] = weights[outputs(before, count)]
            weights = moved
        recipe = dataclasses.replace(recipe, labels=order, size=assumed.size.value)
        return dataclasses.replace(self, recipe=recipe, weights=weights)


def evaluate(
    folder: str | Path,
    data: str | Path,
    framework: str | None = None,
    recipe: Recipe | None = None,
    split: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    env: DistEnv = ALONE,
    choice: Choice = ANY,
    *,
    labels: str | None = None,
    size: Pair | None = None,
    count_size: Pair | None = None,
    say: Callable[[Path, Assumptions], None] | None = None,
    compiled: bool = False,
    report: Callable[[str], object] = lambda line: None,
) -> list[Measured]:
    """Evaluate every checkpoint in a folder, or one, and write the results next to each.

    Args:
        folder: A folder with checkpoints, also in its subfolder `checkpoints`, or one checkpoint.
            Written there: `NAME.metrics.txt` and, for a folder, `metrics.json` with all results.
        data: The data set.
        framework: `torch` or `jax`; if not given, the one whose tensor names a checkpoint uses.
        recipe: The recipe of checkpoints that do not contain it, such as converted ones.
        split: The data set's split; the recipe's validation split if not given.
        workers: Number of processes that load data.
        progress: Called with (checkpoints done, checkpoints, what comes next).
        env: Where this process and its devices are; several need a framework. Every image is
            counted once, whatever their number; the first process writes.
        choice: Which of the checkpoints' tensors to read; see `weights_convert.load`.
        labels: Which output is void; if not given, as in the checkpoint's manifest, else as in the
            recipe.
        size: Height and width of the images; if not given, determined as for `labels`.
        count_size: Height and width to which predictions are enlarged (the nearest pixel of each
            place) before they are compared with labels of that size; not at all if not given.
        say: Called with each checkpoint before it is measured, and what is assumed of it.
        compiled: Compile PyTorch's networks by `torch.compile`; JAX's are compiled anyway.
        report: Told how long each took to compile, once it is.

    Raises:
        InputError: There is no checkpoint, or one cannot be read or belongs to no stage of the
            recipe.
        FloatingPointError: A loss is not finite.
    """
    if framework not in (None, *FRAMEWORKS):
        raise InputError(f"framework {framework!r}, expected {' or '.join(FRAMEWORKS)}")
    if framework is None and env.parts > 1:
        raise InputError("--devices needs --framework, which starts them")
    check_compiled(compiled, FRAMEWORKS if framework is None else [framework])
    sides = {name: Side(name, env, report if compiled else None) for name in FRAMEWORKS}
    recipe = None if recipe is None else for_data(recipe, data)
    paths, done, feeds = find(Path(folder)), list[Measured](), dict[str, DataLoader]()
    group = sides[framework].meet() if framework else SingleProcess()
    for i, path in enumerate(paths):
        if progress:
            progress(i, len(paths), path.name)
        held = read(path, recipe, framework, choice)
        side = sides[held.framework]
        side.check(held.recipe)
        for_data(held.recipe, data)  # refuses other classes than it was trained on
        assumed = assumptions(path, held, labels, size)
        if say and env.leads:
            say(path, assumed)
        held = held.taken(assumed)
        same = (held.checkpoint.sha256, assumed)
        known = [m for m in done if (m.sha256, m.assumed) == same]
        said = notes.lines(held.checkpoint)
        if known:
            score, said = known[0].score, list(known[0].notes)
        else:
            images = assumed.pixels.value
            key = repr((dataclasses.replace(held.recipe, stages=(held.stage,)), images))
            if key not in feeds:
                if env.leads and (warning := slow(held.framework, held.recipe.precision)):
                    print(warning, file=sys.stderr)
                feeds[key] = DataLoader(held.recipe, data, workers, split, env, images, count_size)
            score, note = _score(held, feeds[key], side, group)
            said += [note] if note else []
        name, sha256 = held.stage.name, held.checkpoint.sha256
        facts = (path, sha256, held.framework, name, held.epoch, score, assumed, count_size)
        done.append(Measured(*facts, tuple(said), side.compile_with is not None))
        if env.leads:
            write_atomically(metrics_of(path), score.to_text(path).encode())
    if env.leads and paths != [Path(folder)]:
        text = json.dumps([measured.to_dict() for measured in done], indent=1)
        write_atomically(paths[0].parent / "metrics.json", text.encode())
    if framework:
        sides[framework].leave()
    return done


def find(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, by name; or one, by its path.

    Raises:
        InputError: There is none.
    """
    if not folder.exists():
        raise InputError(f"{folder}: no such file, expected a checkpoint or a folder of them")
    suffixes = [suffix for suffix in formats.SUFFIXES if suffix]
    if not folder.is_dir() or folder.suffix in suffixes:
        return [folder]
    for inside in (folder, folder / "checkpoints"):
        paths = sorted(inside.iterdir()) if inside.is_dir() else []
        found = [p for p in paths if p.suffix in suffixes and not p.name.startswith(".")]
        if found:
            return found
    raise InputError(f"{folder}: no checkpoints, expected files such as last{SUFFIX}")


def read(path: Path, recipe: Recipe | None, framework: str | None, choice: Choice = ANY) -> Held:
    """Read a checkpoint, and determine the recipe and stage it is evaluated by.

    Raises:
        InputError: It cannot be read, its recipe is unknown, or it belongs to no stage of it.
    """
    contents = formats.read(path, key=choice.key, foreign=True)
    if recipe is None and KEY not in contents.metadata:
        raise InputError(f"{path} does not say its recipe: --recipe RECIPE")
    if KEY in contents.metadata and recipe is None:
        origin = parse(contents.metadata[KEY], path)
        own = recipe_of(origin.recipe, f"the recipe in {path}")
        stage = own.stages[origin.progress.stage]
        checkpoint = understand(contents, path, config=stage.config, choice=choice)
        side = framework or origin.framework
        return Held(own, stage, side, origin.progress.epoch, checkpoint, origin.weights)
    assert recipe
    checkpoint = understand(contents, path, choice=choice)
    free = checkpoint.assumed  # the recipe says them
    of = [
        s for s in recipe.stages if described(s.config, free) == described(checkpoint.config, free)
    ]
    if not of:
        raise InputError(
            f"{path} holds the network {checkpoint.network}, but recipe {recipe.name} trains"
            f" {_trained(recipe, checkpoint, free)}"
        )
    if free:
        checkpoint = understand(contents, path, config=of[-1].config)
    framework = framework or ("jax" if checkpoint.naming_scheme == "jax" else "torch")
    return Held(recipe, of[-1], framework, None, checkpoint, None)


def _trained(recipe: Recipe, checkpoint: Checkpoint, free: tuple[str, ...]) -> str:
    """Describe the networks of a recipe, and how they differ if they share a family."""
    said = dict[str, None]()
    for stage in recipe.stages:
        names = described(stage.config, free) | described(checkpoint.config, free)
        pairs = {k: [getattr(c, k, None) for c in (stage.config, checkpoint.config)] for k in names}
        differ = [f"{k} {wanted}, not {has}" for k, (wanted, has) in pairs.items() if wanted != has]
        same = stage.config.family == checkpoint.network
        said[f"{stage.model} ({listed(differ, '; ')})" if same else stage.model] = None
    return ", ".join(said)


def assumptions(
    path: Path, held: Held, labels: str | None = None, size: Pair | None = None
) -> Assumptions:
    """Return the assumptions on a checkpoint's inputs and outputs.

    Args:
        path: The checkpoint.
        held: Its contents, and the recipe it is evaluated by.
        labels: Which output is void, if the user specifies it.
        size: Height and width of the images, if the user specifies them.

    Raises:
        InputError: As for `weights_convert.assumptions.assume`.
    """
    recipe, config = held.recipe, held.stage.config
    whose = f"recipe {recipe.name}"
    return assume(
        config,
        held.checkpoint.manifest,
        path,
        recipe.dataset.classes,
        labels=labels,
        size=size,
        assumed_labels=Assumed(recipe.labels or "void-last", whose, firm=True),
        assumed_pixels=Assumed(recipe.preprocessing(config), whose, firm=True),
        assumed_size=Assumed(recipe.size, whose, firm=True),
    )


def metrics_of(path: Path) -> Path:
    """Return the path of the metrics: `last.safetensors` to `last.metrics.txt`.

    For other formats the whole name is kept.
    """
    return path.with_name(path.name.removesuffix(SUFFIX) + METRICS)


def _score(
    held: Held, loader: DataLoader, side: Side, group: ProcessGroup
) -> tuple[Score, str | None]:
    """Return the score, and why it has no loss, if so."""
    weights, note = held.weights, None
    if held.epoch is None:
        weights, note = group.broadcast(_weights(held, loader) if side.env.leads else None)
    trainer = side.trainer(held.recipe, held.stage, held.checkpoint.arrays, weights)
    own, count = Count(Task.of(held.recipe)), Count(Task.of(held.recipe))
    for _ in measure(trainer, loader.validation(held.stage), own):
        pass
    for part in group.all_gather(own):
        count.join(part)
    score = count.score()
    return dataclasses.replace(score, mean_loss=math.nan) if note else score, note


def _weights(held: Held, loader: DataLoader) -> tuple[np.ndarray | None, str | None]:
    """Return the loss's class weights, or None and why they are unknown.

    The scores of predictions do not depend on them.
    """
    try:
        return loader.class_weights(held.stage), None
    except NotCountedError as error:
        return None, f"mean loss: not computed: {error}"
