"""Time a forward pass or a training step of both sides, float32, in one process and in turn.

`plain` is the PyTorch network as it is read: NCHW, eager, batch norm not folded. `torch` and `jax`
are what `parity miou` runs: PyTorch eager with its arrays in channels-last order, JAX compiled.
With --onnx also what each side exports, in ONNX Runtime: `torch.onnx` and `jax.onnx`.

With --train a step of training instead, as `parity train` makes it: forward, backward, update.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections.abc import Callable

from parity.commands.arguments import parse_size
from parity.export import FRAMEWORKS as SIDES
from parity.files import check_writable, write_atomically
from parity.spec.errors import InputError
from parity.spec.models import MODELS

# Height, width and number of the images of each family; those not named here have `USUAL`.
USUAL = ("512x1024", 1)
TIMED = {"genet": ("32x32", 32), "erfnet-imagenet": ("224x224", 8)}
SIZES = f"(default: {USUAL[0]}; {', '.join(f'{name} {size}' for name, (size, _) in TIMED.items())})"
BATCHES = f"(default: {USUAL[1]}; {', '.join(f'{name} {n}' for name, (_, n) in TIMED.items())})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="enet", help="the network (default: %(default)s)")
    parser.add_argument("--size", metavar="HxW", help=SIZES)
    parser.add_argument("--batch", type=int, help=f"images {BATCHES}")
    parser.add_argument("--threads", type=int, default=2, help="PyTorch's (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=15, help="of each (default: %(default)s)")
    parser.add_argument("--onnx", action="store_true", help="also what both sides export")
    parser.add_argument("--train", action="store_true", help="one step of training of both sides")
    parser.add_argument("--json", metavar="FILE", help="write the times to this file")


def run(args: argparse.Namespace) -> int:
    import json
    import statistics

    from rich.table import Table

    from parity.console import standard_output

    if args.model not in MODELS:
        raise InputError(f"model {args.model!r}, expected one of {', '.join(MODELS)}")
    config = MODELS[args.model]
    usual = TIMED.get(config.family, USUAL)
    size = parse_size(args.size or usual[0])
    batch = usual[1] if args.batch is None else args.batch
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(str(error)) from None
    for name, value in (("threads", args.threads), ("runs", args.runs), ("batch", batch)):
        if value < 1:
            raise InputError(f"{name} {value}, expected 1 or more")
    if args.json is not None:
        check_writable(args.json)

    if args.train and args.onnx:
        raise InputError("--train with --onnx: an exported network does not train")
    timed = trainers if args.train else networks
    forwards = timed(args.model, size, batch, args.threads)
    if args.onnx:
        forwards |= exported(args.model, size, batch, args.threads)
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for turn in range(args.runs + 2):  # two to warm up, not counted
        for name, forward in forwards.items():
            start = time.perf_counter()
            forward()
            if turn >= 2:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in seconds.items()}

    images = f"{batch} image{'s' if batch > 1 else ''} of {size[0]}x{size[1]}"
    what = ", a step of training" if args.train else ""
    table = Table(title=f"{args.model}, {images}, float32, {args.threads} threads{what}")
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
    import numpy as np
    import torch

    import jax_impl.train
    import torch_impl.train
    from parity.networks import TASKS
    from parity.spec import draw
    from parity.spec.training.losses import Loss
    from parity.spec.training.optimizers import Optimizer
    from parity.spec.training.trainer import Batch, Trainer
    from weights_convert import to_jax

    torch.set_num_threads(threads)
    config = MODELS[model]
    arrays, rng = draw.weights(config, 0), draw.generator(0, "bench")
    images = rng.random((batch, *size, 3), np.float32)
    targets = TASKS[config.family](config, rng, images.shape[:3])[1]
    icnet = config.family == "icnet"
    targets = targets if icnet else targets[:1]  # without class weights
    masks = draw.dropout_masks(config, size, 0, 0, 0, range(batch))
    given = Batch(images, tuple(t.astype("int32") for t in targets), masks, np.arange(batch))
    options = (Optimizer("adam", 5e-4, 2e-4), Loss("icnet" if icnet else "cross_entropy"))
    sides: dict[str, Trainer] = {
        "torch": torch_impl.train.Trainer(config, *options, arrays),
        "jax": jax_impl.train.Trainer(config, *options, to_jax(config, arrays)),
    }
    return {name: functools.partial(trainer.step, given, 5e-4) for name, trainer in sides.items()}


def exported(
    model: str, size: tuple[int, int], batch: int, threads: int
) -> dict[str, Callable[[], object]]:
    """The same of what each side exports, in ONNX Runtime."""
    import tempfile

    import numpy as np

    from parity import witness
    from parity.export.reading import open_network
    from parity.spec import draw

    config = MODELS[model]
    images = draw.generator(0, "bench").random((batch, 3, *size), np.float32)
    with tempfile.TemporaryDirectory() as folder:
        files = witness.made(folder, config, draw.weights(config, 0), size)
        opened = {
            f"{name}.onnx": open_network(f, threads) for name, f in zip(SIDES, files, strict=True)
        }
    return {name: functools.partial(network, images) for name, network in opened.items()}
