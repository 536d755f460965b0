"""Time a forward pass or a training step of both sides, float32, in one process and in turn.

`plain` is the PyTorch network as it is read: NCHW, eager, batch norm not folded. `torch` and `jax`
are what `parity miou` runs: PyTorch eager with its arrays in channels-last order, JAX compiled.
With --onnx also what each side exports, in ONNX Runtime: `torch.onnx` and `jax.onnx`. With --train
a step of training instead, as `parity train` makes it: forward, backward, update; with --devices
its steady speed where the batch is divided among so many devices. With --data and
--recipe instead how fast batches are made of a data set, and how long a training waits for them.
With --convert instead how long conversions of checkpoints take: 500 MB between PyTorch's format and
safetensors, in turn with `cp`, `sync` and `sha256sum`, and ICNet from every format to every format.
"""

from __future__ import annotations

import argparse
import functools
import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from parity.cli.arguments import BATCHES, SIZES, parse_devices, parse_size
from parity.export import FRAMEWORKS as SIDES
from parity.io.files import check_writable, write_atomically
from parity.spec.errors import InputError
from parity.spec.models import MODELS, usual_batch, usual_size

if TYPE_CHECKING:
    from parity.spec.training.trainer import Batch, Trainer

RUNS, CONVERSIONS, STEPS = 15, 5, 20  # of each, if nobody says otherwise
OF_FORWARDS = ("model", "size", "batch", "threads", "onnx", "train", "devices")  # of networks
WARM_UP = 2  # turns that are not counted: the first one compiles
OF_DATA = ("recipe", "workers", "consumers")  # options that nothing else has
CONSUMERS = ("nobody", *SIDES)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="the network (default: enet)")
    parser.add_argument("--size", metavar="HxW", help=SIZES)
    parser.add_argument("--batch", type=int, help=f"images {BATCHES}")
    parser.add_argument("--threads", type=int, help="PyTorch's (default: 2)")
    parser.add_argument(
        "--runs",
        type=int,
        help=f"of each (default: {RUNS}; with --convert {CONVERSIONS}; of batches {STEPS})",
    )
    parser.add_argument(
        "--onnx", action="store_true", default=None, help="also what both sides export"
    )
    parser.add_argument(
        "--train", action="store_true", default=None, help="instead, a step of training"
    )
    parser.add_argument(
        "--devices",
        metavar="LIST",
        help="of --train: divide the batch among so many devices (such as 1,2), processes of"
        " PyTorch or virtual devices of JAX, as `parity train --devices` does",
    )
    parser.add_argument("--convert", action="store_true", help="instead, conversions")
    parser.add_argument("--data", metavar="DIR", help="instead, batches of this data set")
    parser.add_argument("--recipe", help="of --data: which recipe's (a name or a TOML file)")
    parser.add_argument(
        "--workers", metavar="LIST", help="of --data: numbers of processes (default: 0,1)"
    )
    parser.add_argument(
        "--consumers",
        metavar="LIST",
        help=f"of --data: who takes the batches, some of {','.join(CONSUMERS)} (default: nobody)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the times to this file")


def run(args: argparse.Namespace) -> int:
    if args.data is not None:
        return loading(args)
    if given := [name for name in OF_DATA if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]} is for batches: --data DIR is missing")
    runs = args.runs or (CONVERSIONS if args.convert else RUNS)
    if args.runs is not None and args.runs < 1:
        raise InputError(f"runs {args.runs}, expected 1 or more")
    if args.json is not None:
        check_writable(args.json)
    return conversions(runs, args) if args.convert else forwards(runs, args)


def conversions(runs: int, args: argparse.Namespace) -> int:
    """Time them, print and write."""
    if given := [name for name in OF_FORWARDS if getattr(args, name) is not None]:
        raise InputError(f"--{given[0]} is for forward passes, not for --convert")

    from parity.report.console import standard_output, working
    from tests.benchmarks.conversion_speed import measure

    with working() as progress:
        found = measure(runs, progress)
    for table in found.tables():
        standard_output().print(table)
    if args.json is not None:
        write_atomically(args.json, json.dumps(found.to_dict(), indent=1).encode())
    return 0


def loading(args: argparse.Namespace) -> int:
    """Make batches, print and write."""
    import dataclasses

    from parity.data.sources import open_source
    from parity.report.console import standard_output, working
    from parity.training import overrides
    from tests.benchmarks.loading_speed import measure, table

    steps = STEPS if args.runs is None else args.runs
    if steps < 1:
        raise InputError(f"runs {args.runs}, expected 1 or more")
    others = (args.convert, args.model, args.onnx, args.threads, args.train, args.devices)
    if args.recipe is None or any(others):
        raise InputError("--data is for batches of a --recipe, expected one and no other network")
    workers = [parse_count(text) for text in (args.workers or "0,1").split(",")]
    consumers = (args.consumers or CONSUMERS[0]).split(",")
    if unknown := [name for name in consumers if name not in CONSUMERS]:
        raise InputError(f"consumer {unknown[0]!r}, expected some of {','.join(CONSUMERS)}")
    if args.json is not None:
        check_writable(args.json)
    size = None if args.size is None else parse_size(args.size)
    recipe = overrides.with_options(overrides.find(args.recipe), args.batch, size)
    source = open_source(recipe, args.data, recipe.train_split)
    with working() as progress:
        rows = measure(recipe, source, workers, consumers, steps, progress)
    standard_output().print(table(recipe, rows))
    if args.json is not None:
        entries = [dataclasses.asdict(row) | {"images_per_second": row.speed} for row in rows]
        write_atomically(args.json, json.dumps(entries, indent=1).encode())
    return 0


def parse_count(text: str) -> int:
    """A number of workers.

    Raises:
        InputError: It is none, or more than anybody has.
    """
    if not text.isascii() or not text.isdigit() or int(text) > 256:
        raise InputError(f"workers {text!r}, expected numbers of 0 to 256 with a comma between")
    return int(text)


def forwards(runs: int, args: argparse.Namespace) -> int:
    """Time forward passes, print and write."""
    import statistics

    from rich.table import Table

    from parity.report.console import standard_output, working

    model, threads = args.model or "enet", 2 if args.threads is None else args.threads
    if model not in MODELS:
        raise InputError(f"model {model!r}, expected one of {', '.join(MODELS)}")
    config = MODELS[model]
    size = usual_size(config) if args.size is None else parse_size(args.size)
    batch = usual_batch(config) if args.batch is None else args.batch
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(str(error)) from None
    for name, value in (("threads", threads), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} {value}, expected 1 or more")

    if args.train and args.onnx:
        raise InputError("--train with --onnx: an exported network does not train")
    if args.devices is not None:
        if not args.train or args.threads is not None:
            raise InputError("--devices is for --train, where each process has its own threads")
        return on_devices(model, size, batch, runs, args)
    with working() as progress:
        progress(f"building {model} on both sides")
        timed = (trainers if args.train else networks)(model, size, batch, threads)
        if args.onnx:
            progress("exporting what both sides run")
            timed |= exported(model, size, batch, threads)
        seconds = in_turn(timed, runs, progress)
    medians = {name: statistics.median(times) for name, times in seconds.items()}

    images = f"{batch} image{'s' if batch > 1 else ''} of {size[0]}x{size[1]}"
    what = ", a step of training" if args.train else ""
    table = Table(title=f"{model}, {images}, float32, {threads} threads{what}")
    beside = [name for name in ("plain", "torch") if name in medians]
    for column in ("", "median ms", "min", "max", *(f"x {name}" for name in beside)):
        table.add_column(column, justify="right" if column else "left")
    for name, times in seconds.items():
        figures = (medians[name], min(times), max(times))
        ratios = [medians[name] / medians[other] for other in beside]
        table.add_row(name, *(f"{1e3 * t:.0f}" for t in figures), *(f"{r:.2f}" for r in ratios))
    standard_output().print(table)
    if args.json is not None:
        write_atomically(args.json, json.dumps({"seconds": seconds, "median": medians}).encode())
    return 0


def on_devices(
    model: str, size: tuple[int, int], batch: int, runs: int, args: argparse.Namespace
) -> int:
    """Time steps of training on several devices, print and write."""
    from rich.table import Table

    from parity.report.console import standard_output, working
    from parity.training.scaling import Speed, speeds

    numbers = [parse_devices(text) for text in args.devices.split(",")]
    if bad := [n for n in numbers if batch % n]:
        raise InputError(f"--batch {batch} does not divide among {bad[0]} devices")
    with working() as progress:
        found: list[Speed] = speeds(model, size, batch, runs, numbers, progress)
    table = Table(title=f"{model}, {batch} images of {size[0]}x{size[1]} a step, float32, training")
    for column in ("", "devices", "by", "median ms", "min", "max", "images/s", "of each"):
        table.add_column(column, justify="left" if column in ("", "by") else "right")
    for row in found:
        figures = (row.median, min(row.seconds), max(row.seconds))
        speed = (f"{row.images:.2f}", f"{row.images / row.devices:.2f}")
        table.add_row(
            row.side, f"{row.devices}", row.way, *(f"{1e3 * t:.0f}" for t in figures), *speed
        )
    console = standard_output()
    console.print(table)
    console.print(
        f"Steady speed: {runs} steps each; the {WARM_UP} before them, in which all is compiled, are"
        " not counted."
    )
    if args.json is not None:
        rows = [row.to_dict() for row in found]
        write_atomically(args.json, json.dumps(rows, indent=1).encode())
    return 0


def in_turn(
    timed: dict[str, Callable[[], object]],
    runs: int,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, list[float]]:
    """Name -> seconds of each run."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(runs + WARM_UP):
        counted = turn >= WARM_UP
        first = "first run, in which all is compiled" if turn == 0 else "warming up"
        for name, forward in timed.items():
            progress(f"{name}: {f'run {turn + 1 - WARM_UP} of {runs}' if counted else first}")
            start = time.perf_counter()
            forward()
            if counted:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def networks(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """What is timed: each runs the whole network once and waits for the result."""
    import jax
    import numpy as np
    import torch
    from flax import nnx

    import jax_impl.state
    import torch_impl.state
    from parity.spec import draw
    from weights_convert import to_jax

    torch.set_num_threads(threads)
    config = MODELS[model]
    arrays = draw.weights(config, 0)
    image = draw.generator(0, "bench").random((batch, *size, 3), np.float32)
    nchw = torch.from_numpy(image.transpose(0, 3, 1, 2).copy())
    last = nchw.to(memory_format=torch.channels_last)
    plain = torch_impl.state.build(config, arrays).eval()
    fast = torch_impl.state.build(config, arrays).eval()
    fast = fast.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # no such stub

    port = jax_impl.state.build(config, to_jax(config, arrays))
    port.eval()
    graph, state = nnx.split(port)
    compiled = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
    x = jax.device_put(image)

    def in_torch(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            return module(x)

    return {
        "plain": lambda: in_torch(plain, nchw),
        "torch": lambda: in_torch(fast, last),
        "jax": lambda: jax.block_until_ready(compiled(state, x)),
    }


def trainers(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """What is timed with --train: each makes one step on the same batch."""
    import torch

    torch.set_num_threads(threads)
    given = batch_of(model, size, batch)
    sides: dict[str, Trainer] = {side: trainer(side, model) for side in ("torch", "jax")}
    return {name: functools.partial(side.step, given, 5e-4) for name, side in sides.items()}


def batch_of(model: str, size: tuple[int, int], batch: int) -> Batch:
    """Random images, labels and masks."""
    import numpy as np

    from parity.model_checks.networks import TASKS
    from parity.spec import draw
    from parity.spec.training.trainer import Batch

    config, rng = MODELS[model], draw.generator(0, "bench")
    images = rng.random((batch, *size, 3), np.float32)
    targets = TASKS[config.family](config, rng, images.shape[:3])[1]
    icnet = config.family == "icnet"
    targets = targets if icnet else targets[:1]  # without class weights
    masks = draw.dropout_masks(config, size, 0, 0, 0, range(batch))
    return Batch(images, tuple(t.astype("int32") for t in targets), masks, np.arange(batch))


def trainer(side: str, model: str, **options: Any) -> Trainer:
    """A side's; its options are `parallel` and `group`."""
    import importlib

    from parity.spec import draw
    from parity.spec.training.losses import Loss
    from parity.spec.training.optimizers import Optimizer
    from weights_convert import to_jax

    config = MODELS[model]
    arrays = draw.weights(config, 0)
    loss = Loss("icnet" if config.family == "icnet" else "cross_entropy")
    own = arrays if side == "torch" else to_jax(config, arrays)
    made: Any = importlib.import_module(f"{side}_impl.train").Trainer
    return made(config, Optimizer("adam", 5e-4, 2e-4), loss, own, **options)


def exported(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """The same of what each side exports, in ONNX Runtime."""
    import tempfile

    import numpy as np

    from parity.export import third_backend
    from parity.export.reading import open_network
    from parity.spec import draw

    config = MODELS[model]
    images = draw.generator(0, "bench").random((batch, 3, *size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = third_backend.made(folder, config, draw.weights(config, 0), size)
        opened = {
            f"{name}.onnx": open_network(f, threads) for name, f in zip(SIDES, files, strict=True)
        }
    return {name: functools.partial(network, images) for name, network in opened.items()}
