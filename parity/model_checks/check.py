"""Comparing one of the project's own networks with its port: `parity check MODEL` in Python."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from parity.diagnosis.check import check
from parity.export import third_backend
from parity.export.reading import open_network
from parity.ladder.bounds import Bounds
from parity.ladder.port import Port
from parity.model_checks import networks
from parity.model_checks.recipes import optimizers
from parity.model_checks.recipes import rungs as recipes
from parity.report.report import Report
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config, check_input, check_takes_images

if TYPE_CHECKING:
    import numpy as np

    from weights_convert import Checkpoint, Manifest

LEVELS = ("L0", "L1", "L2", "L3", "L4")  # by default
EXPORTED = ""  # of `onnx`, instead of a file: what both sides export
Progress = Callable[[str], None]


class Subject(NamedTuple):
    """The config and weights from which a port was made.

    Attributes:
        config: The network.
        arrays: Published key -> array.
        size: Height and width of the images, in pixels; or number of tokens.
        manifest: The checkpoint's manifest, if there is one.
    """

    config: Config
    arrays: Mapping[str, np.ndarray]
    size: tuple[int, ...]
    manifest: Manifest | None


def check_model(
    model: str,
    levels: Sequence[str] = LEVELS,
    precision: str = "float32",
    checkpoint: Checkpoint | None = None,
    size: tuple[int, ...] | None = None,
    batch: int = 2,
    seed: int = 0,
    onnx: Sequence[str | Path] = (),
    progress: Progress = lambda _: None,
    layers: str | Sequence[str] = (),
    sample: float | None = None,
    sample_seed: int = 0,
) -> Report:
    """Run the ladder for one of the project's own networks.

    L4 also compares the optimizer and everything else that the network's recipes use; L5 trains a
    scaled-down version of each recipe on both sides. For a network that no recipe trains they use
    AdamW and a few steps on one batch.

    Args:
        model: A key of `parity.spec.models.MODELS`.
        levels: Which rungs, of `L0` to `L5`.
        precision: The working precision: `float32`, `bfloat16` or `float16`.
        checkpoint: A checkpoint from `weights_convert.load`; weights are drawn if not given.
        size: Height and width of the images, in pixels, or the number of tokens; by default one
            that exercises every layer.
        batch: Number of images or sequences.
        seed: Seed of weights, inputs, labels and dropout masks.
        onnx: ONNX files to compare with the network, too; `EXPORTED` stands for both sides'
            exports.
        progress: Called with the name of a rung when it begins.
        layers: Which layers are compared; see `parity.check`. What is compared of recipes, and L5
            of networks that have one, is of small networks and is not bounded.
        sample: Of how many alike; see `parity.check`.
        sample_seed: Decides which ones.

    Returns:
        Everything that was compared; `report.ok` is the verdict.

    Raises:
        InputError: An unknown network, a size that it cannot process, no image, an ONNX file that
            cannot be opened, or bounds within which there is nothing.
        ValueError: An unknown rung or precision, or no rung.
    """
    if onnx and model in MODELS:
        check_takes_images(MODELS[model], "an ONNX file")
    files = [name for name in onnx if name != EXPORTED]
    for name in files:  # before minutes of work
        open_network(name)
    bounds = Bounds.of(layers, sample, sample_seed)
    port, subject = port_of(model, checkpoint, size, batch, seed)
    report = Report(port.name, precision)
    recipe = bool(recipes.of_model(model))
    # L5 of networks with a recipe is that of the recipe.
    rungs = [level for level in levels if level != "L5" or not recipe]
    if bounds and not rungs:
        raise InputError(f"{bounds.text}: L5 alone is of {model}'s recipe, which is not bounded")
    if rungs:
        report = check(port, rungs, precision, progress, bounds.layers, sample, sample_seed)
    if {"L4", "L5"} & set(levels):
        recipes.add(report, model, levels, progress)
    if onnx:
        progress("ONNX Runtime")
        with tempfile.TemporaryDirectory() as folder:
            if len(files) < len(onnx):
                height, width = subject.size  # of images, as checked above
                files += third_backend.made(folder, subject.config, subject.arrays, (height, width))
            third_backend.add(report, files, subject.config, subject.arrays, seed, subject.manifest)
    return report


def port_of(
    model: str,
    checkpoint: Checkpoint | None = None,
    size: tuple[int, ...] | None = None,
    batch: int = 2,
    seed: int = 0,
) -> tuple[Port, Subject]:
    """Return a network as a port, with the optimizer of its recipe; arguments as of `check_model`.

    Raises:
        InputError: An unknown network, a size that it cannot process, or no image.
    """
    check_name(model)
    config = MODELS[model] if checkpoint is None else checkpoint.config
    size = config.check_size if size is None else size
    if batch < 1:
        raise InputError(f"batch {batch}, expected 1 or more")
    try:
        check_input(config, size)
    except ValueError as error:
        raise InputError(str(error)) from None
    arrays = None if checkpoint is None else checkpoint.arrays
    port = networks.port(model, config, size, batch, seed, arrays)
    port = optimizers.trained(port, config, *optimizers.training_of(model))
    arrays = draw.weights(config, seed) if arrays is None else arrays
    return port, Subject(config, arrays, size, checkpoint.manifest if checkpoint else None)


def check_devices(
    model: str,
    counts: Sequence[int],
    levels: Sequence[str] | None = None,
    seed: int | None = None,
    progress: Progress = lambda _: None,
) -> Report:
    """Compare training on several devices with its predicted result, on both sides.

    Args:
        model: A key of `parity.spec.models.MODELS` that some recipe trains.
        counts: Numbers of devices.
        levels: Which rungs, of `L3` to `L5`; all if not given.
        seed: Seed of the recipe; its own if not given.
        progress: Called with a description of the next action.

    Raises:
        InputError: An unknown network, one without a recipe, or another rung.
    """
    from parity.model_checks.devices import ladder
    from parity.model_checks.devices.plan import planned

    check_name(model)
    levels = list(ladder.RUNGS) if levels is None else levels
    if unknown := [level for level in levels if level not in ladder.RUNGS]:
        known = ", ".join(ladder.RUNGS)
        raise InputError(f"rung {unknown[0]} with --devices, expected some of {known}")
    recipe = ladder.recipe_of(model)
    if seed is not None:
        recipe = dataclasses.replace(recipe, seed=seed)
    return ladder.check(planned(recipe, tuple(sorted(set(counts)))), levels, progress)


def check_name(model: str) -> None:
    """Refuse what is none of the project's networks.

    Raises:
        InputError: It lists them.
    """
    if model not in MODELS:
        raise InputError(
            f"model {model!r}, expected one of {', '.join(MODELS)}, or FILE.py:FUNCTION"
        )
