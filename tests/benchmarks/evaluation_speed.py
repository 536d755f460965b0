"""Images a second of evaluations, beside those of the network's bare forward pass.

    python -m tests.benchmarks.evaluation_speed --weights enet.pth --data DIR

`forward` is the network alone, on an image that is there and preprocessed; `predictor` takes it as
it was resized and gives classes; `read` reads and resizes an image and its label map; `miou` and
`eval` are what the commands do with the data set, from its files to the counts, compiled before.
All take turns, so that other load changes all alike. `CPU ms` is processor time of an image, over
all threads of this process, which other load changes less; processes that read are not counted.
`miou` predicts one image at a time. `eval` takes the recipe's batches and computes their loss; its
`forward` is that of a batch.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table

import weights_convert
from parity.bench import forward
from parity.cli.arguments import FRAMEWORKS, parse_size
from parity.data import dataset
from parity.data.makers import predicted_size
from parity.data.segmentation import Sample
from parity.evaluation.miou import SideRun, predictor
from parity.evaluation.result import Sizes
from parity.report.console import standard_output, working
from parity.spec.errors import InputError
from parity.spec.models import name_of
from parity.spec.preprocessing import published
from parity.spec.training.recipe import Recipe
from parity.training import overrides
from parity.training.data_loader import DataLoader
from parity.training.scores import Count, Task, measure
from parity.training.side import Side
from tests import program


@dataclasses.dataclass(frozen=True)
class Spent:
    """What some images took.

    Attributes:
        images: Their number.
        seconds: From the first to the last.
        cpu_seconds: Processor time of this process's threads.
    """

    images: int
    seconds: float
    cpu_seconds: float

    @classmethod
    def since(cls, start: tuple[float, float], images: int) -> Spent:
        """What so many images took since `now()` was `start`."""
        seconds, cpu_seconds = (after - before for before, after in zip(start, now(), strict=True))
        return cls(images, seconds, cpu_seconds)


Timed = Callable[[], Spent]


def now() -> tuple[float, float]:
    """Return a time, and the processor time so far of this process's threads, in seconds."""
    return time.perf_counter(), time.process_time()


@dataclasses.dataclass(frozen=True)
class Repeated:
    """A split, several times one after the other, so that a short one says how a long one fares."""

    source: Any
    times: int

    def __len__(self) -> int:
        return len(self.source) * self.times

    def __getitem__(self, i: int) -> Any:
        return self.source[i % len(self.source)]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("source", "times"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self.source, name)


def called(call: Callable[[], object], images: int, times: int) -> Spent:
    start = now()
    for _ in range(times):
        call()
    return Spent.since(start, images * times)


def of_miou(
    framework: str, checkpoint: Any, data: str, size: tuple[int, int], times: int, threads: int
) -> dict[str, Timed]:
    """Return what is timed of `parity miou`."""
    config = checkpoint.config
    source = dataset(Path(data))
    samples: list[Sample] = source.samples(Path(data), "val")
    predict = predictor(framework, checkpoint, "float32", published(config, None))
    predicted = predicted_size(config, size)
    sizes = Sizes(size, predicted, predicted)
    name, count = name_of(config), len(samples)
    bare = forward.networks((framework,), name, size, 1, threads)[framework]
    run = SideRun(source, "void-last", {framework: predict}, sizes, pictures=0)
    run.over(samples[:1])  # compiles
    image = run.read(samples[0]).image[None]
    bare()

    def whole() -> Spent:
        start = now()
        run.over(samples * times)
        return Spent.since(start, count * times)

    return {
        "forward": lambda: called(bare, 1, count * times),
        "predictor": lambda: called(lambda: predict(image), 1, count * times),
        "read": lambda: called(lambda: [run.read(sample) for sample in samples], count, times),
        "miou": whole,
    }


def of_eval(
    framework: str,
    checkpoint: Any,
    data: str,
    recipe: Recipe,
    times: int,
    threads: int,
    workers: int | None,
) -> dict[str, Timed]:
    """Return what is timed of `parity eval`."""
    stage = recipe.stages[-1]
    loader = DataLoader(recipe, data, workers)
    loader.measured = Repeated(loader.measured, times)  # type: ignore[assignment]  # a Source, too
    trainer: Any = Side(framework).trainer(recipe, stage, checkpoint.arrays, None)
    with contextlib.closing(loader.validation(stage)) as batches:
        batch = next(batches)
    size, images = batch.images.shape[1:3], len(batch.images)
    bare: Callable[[], object]
    if framework == "torch":
        import torch

        torch.set_num_threads(threads)

        def bare() -> object:
            with torch.inference_mode():
                return trainer._forward(batch, masks=False)
    else:
        bare = forward.networks(("jax",), name_of(stage.config), size, images, threads)["jax"]
    trainer.evaluate(batch)
    bare()

    def whole() -> Spent:
        count = Count(Task.of(recipe))
        with contextlib.closing(loader.validation(stage)) as batches:
            results = measure(trainer, batches, count)
            next(results)  # before it, processes start
            start, done = now(), 0
            for one, _ in results:
                done += len(one.samples)
            return Spent.since(start, done)

    return {
        "forward, a batch": lambda: called(bare, images, times),
        "predictor, a batch": lambda: called(lambda: trainer.evaluate(batch), images, times),
        "eval": whole,
    }


class Speed(NamedTuple):
    """A row of the table."""

    images_per_second: float
    cpu_ms_per_image: float


def measured(
    timed: dict[tuple[str, str], Timed], rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, str], Speed]:
    """Return speeds: medians of the rounds, in each of which all take turns."""
    found: dict[tuple[str, str], list[Spent]] = {key: [] for key in timed}
    for i in range(rounds):
        for key, call in timed.items():
            progress(f"{', '.join(key)}: round {i + 1} of {rounds}")
            found[key].append(call())
    return {
        key: Speed(
            statistics.median(one.images / one.seconds for one in spent),
            statistics.median(1e3 * one.cpu_seconds / one.images for one in spent),
        )
        for key, spent in found.items()
    }


def table(found: dict[tuple[str, str], Speed]) -> Table:
    """The speeds, beside those of the forward pass above them."""
    made = Table()
    for column in ("", "", "images/s", "of forward", "CPU ms"):
        made.add_column(column, justify="right" if column else "left")
    bare = 0.0
    for (framework, what), (speed, cpu) in found.items():
        bare = speed if what.startswith("forward") else bare
        made.add_row(framework, what, f"{speed:.2f}", f"{speed / bare:.2f}", f"{cpu:.0f}")
    return made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--weights", metavar="FILE", required=True, help="a checkpoint")
    add("--data", metavar="DIR", required=True, help="its data set, of which split val is taken")
    add("--recipe", default="enet-cityscapes", help="of eval (default: %(default)s)")
    add("--size", metavar="HxW", default="512x1024", help="of images (default: %(default)s)")
    add("--frameworks", metavar="LIST", default=",".join(FRAMEWORKS), help="(default: both)")
    add("--commands", metavar="LIST", default="miou,eval", help="(default: %(default)s)")
    add("--times", type=int, default=4, help="the split, in a row (default: %(default)s)")
    add("--rounds", type=int, default=5, help="(default: %(default)s)")
    add("--threads", type=int, default=2, help="PyTorch's (default: %(default)s)")
    add("--workers", type=int, help="of eval (default: as parity eval has it)")
    add("--json", metavar="FILE", help="write the speeds to this file")


def run(args: argparse.Namespace) -> int:
    for name in ("times", "rounds", "threads"):
        if getattr(args, name) < 1:
            raise InputError(f"{name} {getattr(args, name)}, expected 1 or more")
    wanted = {"frameworks": FRAMEWORKS, "commands": ("miou", "eval")}
    lists = {name: getattr(args, name).split(",") for name in wanted}
    for name, known in wanted.items():
        if unknown := [one for one in lists[name] if one not in known]:
            raise InputError(f"{name} {unknown[0]!r}, expected some of {','.join(known)}")
    size = parse_size(args.size)
    recipe = overrides.with_options(overrides.find(args.recipe), None, size)
    checkpoint = weights_convert.load(args.weights)
    timed: dict[tuple[str, str], Timed] = {}
    with working() as progress:
        for framework in lists["frameworks"]:
            progress(f"{framework}: compiling")
            how = (framework, checkpoint, args.data)
            calls: dict[str, Timed] = {}
            if "miou" in lists["commands"]:
                calls |= of_miou(*how, size, args.times, args.threads)
            if "eval" in lists["commands"]:
                calls |= of_eval(*how, recipe, args.times, args.threads, args.workers)
            timed |= {(framework, what): call for what, call in calls.items()}
        found = measured(timed, args.rounds, progress)
    standard_output().print(table(found))
    rows = [{"framework": f, "what": w, **s._asdict()} for (f, w), s in found.items()]
    program.save(args.json, rows)
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    return program.start("tests.benchmarks.evaluation_speed", add_arguments, run, argv)


if __name__ == "__main__":
    sys.exit(main())
