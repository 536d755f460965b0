"""Export of either side's networks to ONNX files, verified with ONNX Runtime.

    exported = export("enet", "enet.pth", "enet.onnx", framework="jax")

Both sides' files are interchangeable: `input` is (N, 3, H, W) float32, RGB; the outputs are those
of `OUTPUTS`, (N, classes, H', W') or (N, classes).
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parity.export.build import FRAMEWORKS, network, outputs_of
from parity.spec.errors import InputError
from parity.spec.labels import ORDERS
from parity.spec.models import MODELS, check_takes_images, image_size
from weights_convert.assumptions import DEFAULT, Assumed, Assumptions, assume
from weights_convert.formats.sidecar import KEY, TOOL
from weights_convert.wrapping import ANY, Choice

if TYPE_CHECKING:
    import onnx

    from parity.report.report import Check
    from weights_convert import Checkpoint, Manifest

EXPORT_KEY = f"{KEY}.export"  # key of the metadata for facts that are not in the manifest

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        path: The file.
        source: The checkpoint.
        framework: The side whose network was exported.
        batch: Number of images it takes; None for any number.
        assumed: The assumptions on the checkpoint's inputs and outputs.
        outputs: Names of the outputs.
        bytes: Size of the file.
        checks: Comparisons of ONNX Runtime's outputs with the network's.
    """

    path: Path
    source: Checkpoint
    framework: str
    batch: int | None
    assumed: Assumptions
    outputs: tuple[str, ...]
    bytes: int
    checks: tuple[Check, ...]

    @property
    def size(self) -> Pair:
        """Height and width of the images."""
        return self.assumed.size.value


def export(
    model: str,
    weights: str | Path,
    target: str | Path,
    framework: str = "torch",
    size: Pair | None = None,
    dynamic_batch: bool = False,
    labels: str | None = None,
    choice: Choice = ANY,
) -> Exported:
    """Write a network as an ONNX file; it replaces the target only if its outputs are right.

    Args:
        model: A network's name.
        weights: A checkpoint, in any format that `weights_convert.load` reads.
        target: What to write, NAME.onnx; what is there is replaced.
        framework: The side to export, `torch` or `jax`.
        size: (H, W) of the images; what the checkpoint's manifest says if not given, else
            `parity.spec.models.usual_size`.
        dynamic_batch: Whether the file takes any number of images; else one.
        labels: Which output is void, for the manifest; the checkpoint's if not given.
        choice: Which of the checkpoint's tensors to read; see `weights_convert.load`.

    Raises:
        InputError: Anything given cannot be used, or what ONNX Runtime computes is not what the
            network does. Then nothing has changed.
    """
    from parity.export import third_backend
    from parity.io.replacing import replacing
    from weights_convert import load

    target = Path(target)
    check_arguments(model, Path(weights), target, framework, labels)
    checkpoint = load(weights, model, choice=choice)
    config = checkpoint.config
    assumed = assumptions(checkpoint, weights, labels, size)
    size, labels = assumed.size.value, assumed.labels.value
    batch = None if dynamic_batch else 1
    made = network(config, checkpoint.arrays, framework, size, batch)
    describe(made, checkpoint, framework, size, labels)
    data = made.SerializeToString()
    with replacing(target) as path:
        path.write_bytes(data)
        checks = third_backend.checks(path, config, checkpoint.arrays)
        if failed := [check for check in checks if not check.ok]:
            raise InputError(f"cannot write {target}: in ONNX Runtime {failed[0].sentence()}")
    names = outputs_of(config)
    facts = (target, checkpoint, framework, batch, assumed)
    return Exported(*facts, names, len(data), tuple(checks))


def assumptions(
    checkpoint: Checkpoint, weights: str | Path, labels: str | None, size: Pair | None
) -> Assumptions:
    """Return the assumptions on an exported network's inputs and outputs; see `export`."""
    return assume(
        checkpoint.config,
        checkpoint.manifest,
        weights,
        None,  # the file may be for any data set
        labels=labels,
        size=size,
        assumed_labels=Assumed(None, "not asked for"),
        assumed_size=Assumed(image_size(checkpoint.config), DEFAULT),
    )


def manifest_of(checkpoint: Checkpoint, framework: str, size: Pair, labels: str | None) -> Manifest:
    """Return the manifest of an exported file, which takes images of one size."""
    from weights_convert import writing

    made = writing.manifest_of(checkpoint, framework, checkpoint.arrays, None, labels, None)
    images = dataclasses.replace(made.preprocessing, size=size)
    return dataclasses.replace(made, preprocessing=images)


def describe(
    model: onnx.ModelProto, checkpoint: Checkpoint, framework: str, size: Pair, labels: str | None
) -> None:
    """Put into a model's metadata what it is: the manifest, and what was exported."""
    import importlib.metadata

    from onnx import helper

    manifest = manifest_of(checkpoint, framework, size, labels)
    model.producer_name = TOOL
    model.producer_version = manifest.tool_version
    facts: dict[str, Any] = {
        "framework": framework,
        "framework_version": importlib.metadata.version(framework),
        "outputs": list(outputs_of(checkpoint.config)),
        "input": "(N, 3, H, W) float32, as the manifest's preprocessing makes it",
    }
    helper.set_model_props(model, {KEY: manifest.to_json(), EXPORT_KEY: json.dumps(facts)})


def check_arguments(
    model: str,
    source: Path,
    target: Path,
    framework: str,
    labels: str | None,
    suffix: str = ".onnx",
) -> None:
    """Refuse what cannot be meant, before any work is done.

    Raises:
        InputError: It names the argument.
    """
    from parity.io.files import check_writable

    for name, value, known in (
        ("model", model, MODELS),
        ("framework", framework, FRAMEWORKS),
        ("labels", labels, (None, *ORDERS)),
    ):
        if value not in known:
            expected = ", ".join(k for k in known if k)
            raise InputError(f"{name} {value!r}, expected one of {expected}")
    check_takes_images(MODELS[model], "parity export")
    if target.suffix != suffix:
        raise InputError(f"{target}: expected the name of a file ending in {suffix}")
    check_writable(target)
    if target.exists() and not target.is_file():
        raise InputError(f"{target} exists and is not a regular file: not replaced")
    if os.path.realpath(source) == os.path.realpath(target):
        raise InputError(f"{source} and {target} are the same")
