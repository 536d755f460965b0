"""Train a network by a recipe, on either side.

RECIPE is a name of `parity recipes`, or a TOML file. OUT then holds the log (log.jsonl and
TensorBoard's), checkpoints (last, best, and one every so many epochs), pictures of the latest
validation, and environment.json. An interrupted or killed run is resumed with --resume, bit for
bit; so is one of the other framework. Its recipe is stored with it, so RECIPE and changes of it may
be left out. Exit status 1: a loss or gradient was not finite, 130: interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from typing import Any

from parity.cli.arguments import (
    FRAMEWORKS,
    add_choice,
    add_compile,
    check_compile,
    check_data,
    choice_of,
    no_folder,
    parse_size,
)
from parity.report.lines import say
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.spec.training.parallel import WAYS
from parity.spec.training.recipe import PRECISIONS, Recipe
from parity.training.dist_env import ALONE, TORCHRUN, DistEnv, asked, by_torchrun, started


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("recipe", nargs="?", metavar="RECIPE", help="its name, or a TOML file")
    add("--framework", choices=FRAMEWORKS, required=True, help="which side trains")
    add("--data", required=True, metavar="DIR", help="the data set's folder, or its TOML file")
    add("--out", required=True, metavar="DIR", help="the folder to write")
    add(
        "--resume",
        nargs="?",
        const=True,
        metavar="CHECKPOINT",
        help="go on with the run in OUT; or from this checkpoint, in a new OUT",
    )
    add("--start", metavar="CHECKPOINT", help="weights to begin with")
    add_choice(parser)
    add(
        "--from-stage",
        metavar="STAGE",
        help="the first to train, from what --start holds, such as an encoder trained elsewhere",
    )
    add(
        "--eval-all",
        action="store_true",
        help="then evaluate every checkpoint that was kept, as parity eval OUT does",
    )
    add_compile(parser)
    of = parser.add_argument_group("the recipe, changed")
    add = of.add_argument
    add("--recipe-file", metavar="FILE.toml", help="what is different in it")
    add(
        "--set",
        action="append",
        default=[],
        metavar="K=V",
        dest="settings",
        help="such as stages.whole.optimizer.lr=1e-3; may be given several times",
    )
    add("--batch-size", type=int, metavar="N", help="samples of a step, over all devices")
    add("--size", metavar="HxW", help="of validation images, and of every resize")
    add(
        "--labels",
        type=no_folder,
        choices=ORDERS,
        help="which output is void; also of --start, whatever it says",
    )
    add("--precision", choices=PRECISIONS)
    add("--loss-scale", metavar="N|dynamic|none")
    add("--seed", type=int, metavar="N")
    add = parser.add_argument_group("what changes nothing that is trained").add_argument
    add("--epochs", type=int, metavar="N", help="stop after so many of the recipe's epochs")
    add("--devices", type=int, metavar="N", help="of each machine (default: 1)")
    add("--nodes", type=int, default=1, metavar="M", help="machines (default: %(default)s)")
    add("--node-rank", type=int, default=0, metavar="R", help="which of them this one is, from 0")
    add("--coordinator", metavar="HOST:PORT", help="a free port of machine 0")
    add("--map", choices=WAYS, help="how JAX maps a step over its devices (default: pmap)")
    add("--workers", type=int, metavar="N", help="processes that load data")
    add(
        "--deterministic",
        action="store_true",
        help="deterministic algorithms, where the framework has them; slower on GPUs",
    )
    add("--log-every", type=int, default=10, metavar="N", help="steps (default: %(default)s)")
    add(
        "--save-every",
        type=int,
        default=500,
        metavar="N",
        help="steps between checkpoints inside of an epoch (default: %(default)s)",
    )
    add(
        "--keep-every",
        type=int,
        default=50,
        metavar="N",
        help="epochs between checkpoints that stay (default: %(default)s; 0: none)",
    )
    add("--pictures", type=int, default=4, metavar="N", help="(default: %(default)s)")


def run(args: argparse.Namespace) -> int:
    from parity.training import launch

    launch.tie_to_parent()
    check_data(args.data)
    recipe = recipe_of(args)
    least = {"log_every": 1, "save_every": 1, "keep_every": 0, "pictures": 0, "workers": 0}
    for name, smallest in least.items():
        value = getattr(args, name)
        if value is not None and value < smallest:
            raise InputError(f"--{name.replace('_', '-')} {value}, expected {smallest} or more")
    env = env_of(args)
    env.check(recipe)
    check_compile(args, env.parts)

    from parity.training.stopping import ANSWER

    if launch.needed(args.framework, env):
        words = launch.Words("train", "--resume goes on", ANSWER)
        return launch.run(args.invocation, args.framework, env, words)
    if not started():
        return train(args, recipe, env)
    parallel: Any = importlib.import_module(f"{args.framework}_impl.parallel")
    return launch.work(lambda: train(args, recipe, env), parallel.lost)


def train(args: argparse.Namespace, recipe: Recipe, env: DistEnv) -> int:
    """Train in this process, which may be one of several."""
    from parity.training.determinism import deterministic
    from parity.training.progress_bar import Silent, display
    from parity.training.run import Options
    from parity.training.start import train as start
    from parity.training.stopping import STOPPED

    options = Options(args.epochs, args.log_every, args.save_every, args.keep_every, args.pictures)
    try:
        with (
            display() as shown,
            deterministic(args.framework, shown.say if env.leads else Silent().say)
            if args.deterministic
            else contextlib.nullcontext(),
        ):
            done = start(
                recipe,
                args.framework,
                args.data,
                args.out,
                resume=args.resume or False,
                start=args.start,
                choice=choice_of(args),
                from_stage=args.from_stage,
                workers=args.workers,
                options=options,
                display=shown,
                env=env,
                labels=args.labels,
                compiled=args.compile,
            )
    except FloatingPointError as error:
        if env.leads:
            print(f"{STOPPED}{error}", file=sys.stderr)
        return 1
    if not env.leads:
        return done.status
    if done.status:
        last = done.folder.last
        on = f"goes on from {last}" if last.exists() else "begins again"
        say(
            f"parity train: stopped in epoch {done.progress.epoch + 1} after"
            f" {done.progress.step} steps; --resume {on}",
            sys.stderr,
        )
        return done.status
    print(f"done: {done.folder.last}", flush=True)
    if not args.eval_all:
        return 0
    from parity.cli.commands.eval import evaluated

    compiled, workers = args.compile, args.workers
    return evaluated(args.out, args.data, args.command, ALONE, workers=workers, compiled=compiled)


def env_of(args: argparse.Namespace) -> DistEnv:
    """Return this process's place among those that the command line or `torchrun` starts."""
    env = asked(
        args.framework, args.devices, args.nodes, args.node_rank, args.coordinator, args.map
    )
    if not started():
        return env
    if args.framework == "torch":
        return by_torchrun(env)
    if TORCHRUN in os.environ:
        raise InputError("torchrun starts PyTorch's processes; JAX needs --devices N alone")
    return env


def recipe_of(args: argparse.Namespace) -> Recipe:
    """Return the recipe asked for, with all changes applied.

    A resumed run has its own recipe: changes made when it began need not be repeated. Repeated ones
    must not contradict it; the code that reads the checkpoint checks that.
    """
    from parity.data.sources import for_data
    from parity.training import overrides

    own = of_run(args) if args.resume else None
    named = args.recipe is not None and not args.recipe.endswith(overrides.SUFFIX)

    def ours(recipe: Recipe) -> Recipe:
        return changed(for_data(recipe, args.data), args)

    if own and args.recipe_file is None and (args.recipe is None or named):
        if named:  # for an unknown name the usual error is raised
            overrides.find(args.recipe)
        if named and args.recipe != own.name:
            raise InputError(f"the run is of recipe {own.name}, not of {args.recipe}")
        return ours(own)
    return ours(overrides.find(args.recipe, args.recipe_file))


def of_run(args: argparse.Namespace) -> Recipe | None:
    """Return the recipe of the run to resume, from OUT or a checkpoint; None if it has none yet."""
    from pathlib import Path

    from parity.spec.training.written import recipe_of as written
    from parity.training import checkpoints
    from parity.training.folder import Folder

    if isinstance(args.resume, str):
        return checkpoints.read(Path(args.resume)).recipe
    folder = Folder(args.out)
    starts = folder.starts()
    if not starts:
        return None
    if not isinstance(entries := starts[-1].get("recipe"), dict):
        raise InputError(f"{folder.environment}: the last start has no recipe")
    return written(entries, f"the recipe in {folder.environment}")


def changed(recipe: Recipe, args: argparse.Namespace) -> Recipe:
    """A recipe with what the command line changes in it."""
    from parity.training import overrides

    scale = args.loss_scale
    if scale is not None and scale not in ("dynamic", "none"):
        try:
            scale = float(scale)
        except ValueError:
            raise InputError(
                f"--loss-scale {scale!r}, expected a number, dynamic or none"
            ) from None
    recipe = overrides.with_settings(recipe, args.settings)
    return overrides.with_options(
        recipe,
        batch=args.batch_size,
        size=None if args.size is None else parse_size(args.size),
        precision=args.precision,
        loss_scale=scale,
        seed=args.seed,
        labels=args.labels,
    )
