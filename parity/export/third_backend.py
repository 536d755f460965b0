"""ONNX Runtime as a third backend: comparing an ONNX file's outputs with the network's.

The reference in float64 is the oracle, and the rule is that of every other whole network in the
working precision (`parity.ladder.tolerances`): the file may be no less exact than the reference in
float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from parity.export.build import FRAMEWORKS, network, outputs_of
from parity.export.reading import Network, open_network
from parity.ladder import tolerances, verdicts
from parity.ladder.noise import without_overflows
from parity.ladder.tolerances import STRUCTURE_FORWARD, Difference, Measurement, difference
from parity.report.quantity import Kind, Mode, Quantity
from parity.report.report import ONNX, Check, Report
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import Config
from weights_convert import Manifest
from weights_convert.assumptions import pixels_said

if TYPE_CHECKING:
    from parity.export.stablehlo import Program

Arrays = Mapping[str, np.ndarray]

PRECISION = "float32"


def add(
    report: Report,
    files: Sequence[str | Path],
    config: Config,
    arrays: Arrays,
    seed: int = 0,
    said: Manifest | None = None,
) -> None:
    """Add the comparison of ONNX files to a report.

    Args:
        report: The ladder's report.
        files: The files to compare.
        config: The network they should compute.
        arrays: Its weights, published key -> array.
        seed: Seed of the images.
        said: The manifest of the weights' checkpoint.

    Raises:
        InputError: A file cannot be opened.
    """
    start = time.perf_counter()
    for path in files:
        made = checks(Path(path), config, arrays, seed)
        known, overflows = without_overflows(made)
        report.checks += known
        report.left_out += overflows
        report.notes += notes(open_network(path), arrays, said) + renamed(Path(path), made)
    report.seconds[ONNX] = time.perf_counter() - start


def made(folder: str | Path, config: Config, arrays: Arrays, size: tuple[int, int]) -> list[str]:
    """Write ONNX files of both sides, for any number of images; return their paths.

    Args:
        folder: The folder to write to.
        config: The network's configuration.
        arrays: Its weights, published key -> array.
        size: Height and width of the images.
    """
    paths = [Path(folder) / f"{framework}.onnx" for framework in FRAMEWORKS]
    for path in paths:
        path.write_bytes(network(config, arrays, path.stem, size, None).SerializeToString())
    return [str(path) for path in paths]


def checks(path: Path, config: Config, arrays: Arrays, seed: int = 0) -> list[Check]:
    """Compare every output of a file with the network's.

    Args:
        path: The file; images are of its size.
        config: The network it should compute.
        arrays: Its weights, published key -> array.
        seed: Seed of the images.

    Raises:
        InputError: The file cannot be opened, or the network takes no images of its size.
    """
    file = open_network(path)

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(file.outputs, file(images), strict=True))

    return compared(path, config, arrays, (file.size, file.batch), run, seed)


def of_program(program: Program, config: Config, arrays: Arrays, seed: int = 0) -> list[Check]:
    """Compare every output of a StableHLO file, in order, with the network's.

    Raises:
        InputError: It takes other images than the network.
    """
    dtype, shape = program.inputs[0] if len(program.inputs) == 1 else ("", ())
    size = [n for n in shape[1:3] if isinstance(n, int)]
    if dtype != PRECISION or len(shape) != 4 or shape[3] != 3 or len(size) != 2:
        raise InputError(f"{program.path}: expected one input, (N, H, W, 3) of float32")
    batch = shape[0] if isinstance(shape[0], int) else None

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        found = [
            o.transpose(0, 3, 1, 2) if o.ndim == 4 else o
            for o in program(images.transpose(0, 2, 3, 1))
        ]
        names = outputs_of(config)
        spare = [f"output {i}" for i in range(len(names), len(found))]
        return dict(zip((*names, *spare), found, strict=False))

    return compared(program.path, config, arrays, ((size[0], size[1]), batch), run, seed)


def compared(
    path: Path,
    config: Config,
    arrays: Arrays,
    images_of: tuple[tuple[int, int], int | None],
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    seed: int = 0,
) -> list[Check]:
    """Compare every output of a file, however it is run, with the network's.

    Args:
        path: For messages.
        config: The network it should compute.
        arrays: Its weights, published key -> array.
        images_of: Size and number of the images that it takes; None: any number.
        run: Maps images (N, 3, H, W) to outputs by name, (N, C, H', W') or (N, C).
        seed: Seed of the images.

    Raises:
        InputError: The network takes no images of this size, or the file cannot be run.
    """
    names, (size, batch) = outputs_of(config), images_of
    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    # More than one where that is possible, so that a mixed up batch shows.
    images = draw.generator(seed, "check/onnx").random((batch or 2, 3, *size), np.float32)
    oracle = reference(config, arrays, "float64", images)
    plain = reference(config, arrays, PRECISION, images)
    disturbed = tolerances.disturb(
        images, tolerances.input_disturbance(PRECISION), draw.generator(seed, "stir", 0)
    )
    moved = reference(config, arrays, "float64", disturbed)
    found = run(images)
    paired = answers({n: oracle[n].shape for n in names}, {n: a.shape for n, a in found.items()})
    measured = [
        Measurement(
            layer=f"{path.name}: {paired.get(name, name)}",
            reference=name,
            quantity=Quantity(Kind.OUTPUT, mode=Mode.EVAL),
            group=name,
            limit=STRUCTURE_FORWARD,
            elements=oracle[name].size,
            norm=tolerances.norm(oracle[name]),
            structure=Difference(0.0),  # ONNX Runtime does not convolve in float64
            numerics=difference(found.get(paired.get(name, "")), oracle[name], PRECISION),
            reference_distance=difference(plain[name], oracle[name], PRECISION).distance,
            sensitivity=difference(moved[name], oracle[name]).distance,
        )
        for name in names
    ]
    judged = [c for c in verdicts.judge(ONNX, measured, PRECISION) if c.kind == "numerics"]
    spare = [name for name in found if name not in paired.values()]
    return judged + [_unknown(path, name) for name in spare]


def answers(
    names: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]
) -> dict[str, str]:
    """Match a file's outputs with the network's.

    A single output matches a single output, whatever its name. Several are matched by name, and the
    rest by shape where that is unique.

    Args:
        names: The network's outputs, name -> shape.
        found: The file's outputs, name -> shape.

    Returns:
        The network's name -> the file's name.
    """
    if len(names) == len(found) == 1:
        return dict(zip(names, found, strict=True))
    paired = {name: name for name in names if name in found}
    left = [name for name in found if name not in paired]
    for name, shape in names.items():
        alike = [n for n in left if found[n] == shape]
        rivals = [n for n in names if n not in found and names[n] == shape]
        if name not in paired and len(alike) == len(rivals) == 1:
            paired[name] = alike[0]
    return paired


def reference(
    config: Config, arrays: Arrays, dtype: str, images: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the outputs of the PyTorch network by name, (N, classes, H', W') or (N, classes)."""
    import torch

    import torch_impl.state

    network = torch_impl.state.build(config, arrays, dtype).eval()
    with torch.inference_mode():
        outputs = network(torch.from_numpy(images.astype(dtype)))
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return {n: o.numpy() for n, o in zip(outputs_of(config), outputs, strict=True)}


def renamed(path: Path, checks: Sequence[Check]) -> list[str]:
    """Return lines on outputs that were matched under different names."""
    pairs = [(c.layer.removeprefix(f"{path.name}: "), c.reference) for c in checks]
    return [
        f"{path}: output {found!r} is taken for {name}, by its place or shape"
        for found, name in pairs
        if found != name
    ]


def notes(file: Network, arrays: Arrays, said: Manifest | None = None) -> list[str]:
    """Return lines on contradictions between a file's manifest, the weights and their manifest."""
    from weights_convert.hashes import tensor_sha256s

    if file.manifest is None:
        return []
    found = []
    if file.manifest.tensors != tensor_sha256s(arrays):
        found.append(f"{file.path} says that it was made of other weights than these")
    if said is not None:
        pairs = (
            ("labels", file.manifest.labels, said.labels),
            ("images", *(pixels_said(m.preprocessing) for m in (file.manifest, said))),
        )
        found += [
            f"{file.path} says {what} {theirs}, the weights' manifest {ours}"
            for what, theirs, ours in pairs
            if theirs != ours
        ]
    return found


def _unknown(path: Path, name: str) -> Check:
    layer = f"{path.name}: {name}"
    return Check(
        ONNX,
        "numerics",
        layer,
        name,
        Quantity(Kind.OUTPUT),
        np.inf,
        0.0,
        note="the network has none",
    )
