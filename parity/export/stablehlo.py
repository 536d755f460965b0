"""Export to JAX's deployment format: serialized StableHLO, by `jax.export`.

    export("enet", "enet.pth", "enet.stablehlo")
    jax.export.deserialize(Path("enet.stablehlo").read_bytes()).call(images)

The weights are constants of the program, so that the file is all there is to deploy. It takes
images (N, H, W, 3) float32 and returns a tuple of the outputs, (N, H', W', C) or (N, C), in the
order of `outputs_of`; it is lowered for CPU, CUDA and TPU alike. The format is versioned by JAX,
which reads a file for at least three years after it was written. The manifest is a separate file
next to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from parity.export import (
    Exported,
    Pair,
    assumptions,
    check_arguments,
    manifest_of,
    outputs_of,
)
from parity.export.build import predicting
from parity.spec.errors import InputError, one_line
from parity.spec.models import Config
from weights_convert import Manifest
from weights_convert import manifest as manifests
from weights_convert.formats import sidecar
from weights_convert.wrapping import ANY, Choice

SUFFIX = ".stablehlo"
PLATFORMS = ("cpu", "cuda", "tpu")
MAGIC = b"StableHLO_v"  # within the file's first bytes there is the version of its program
LONGEST = 2**31  # bytes
IDENTIFIER = 4  # bytes of FlatBuffers' root offset; JAX's serialization begins with one


@dataclasses.dataclass(frozen=True)
class Program:
    """An open StableHLO file.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Its hash.
        version: Version of the calling convention, from which JAX knows whether it can run it.
        platforms: The platforms it was lowered for.
        inputs: Dtype and shape of each; an axis of no fixed length is a name.
        outputs: As `inputs`.
        manifest: The manifest next to it; None without one.
    """

    path: Path
    bytes: int
    sha256: str
    version: int
    platforms: tuple[str, ...]
    inputs: tuple[tuple[str, tuple[int | str, ...]], ...]
    outputs: tuple[tuple[str, tuple[int | str, ...]], ...]
    manifest: Manifest | None
    _exported: Any

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return its outputs for images (N, H, W, 3) float32.

        Raises:
            InputError: JAX refuses.
        """
        try:
            found = self._exported.call(images)
        except Exception as error:
            raise InputError(f"{self.path}: JAX: {one_line(error)}") from error
        return [np.asarray(output) for output in found]

    def to_dict(self) -> dict[str, Any]:
        """Return the values as a dict for JSON."""
        found = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        del found["_exported"]
        manifest = self.manifest.to_dict() if self.manifest else None
        return found | {"path": str(self.path), "format": "stablehlo", "manifest": manifest}


def export(
    model: str,
    weights: str | Path,
    target: str | Path,
    size: Pair | None = None,
    dynamic_batch: bool = False,
    labels: str | None = None,
    choice: Choice = ANY,
) -> Exported:
    """Write a network as a StableHLO file; it replaces the target only if its outputs are right.

    Args:
        model: A network's name.
        weights: A checkpoint, in any format that `weights_convert.load` reads.
        target: What to write, NAME.stablehlo; what is there is replaced, with its manifest.
        size: (H, W) of the images; see `parity.export.export`.
        dynamic_batch: Whether the file takes any number of images; else one.
        labels: Which output is void, for the manifest; the checkpoint's if not given.
        choice: Which of the checkpoint's tensors to read; see `weights_convert.load`.

    Raises:
        InputError: Anything given cannot be used, or what the file computes is not what the network
            does. Then nothing has changed.
    """
    from parity.export import third_backend
    from weights_convert import load
    from weights_convert.replacing import replacing

    target = Path(target)
    check_arguments(model, Path(weights), target, "jax", labels, SUFFIX)
    sidecar.check_replaceable(sidecar.beside(target))
    checkpoint = load(weights, model, choice=choice)
    config, batch = checkpoint.config, None if dynamic_batch else 1
    assumed = assumptions(checkpoint, weights, labels, size)
    size, labels = assumed.size.value, assumed.labels.value
    data = serialized(config, checkpoint.arrays, size, batch)
    manifest = manifest_of(checkpoint, "jax", size, labels)
    with replacing(target) as path:
        path.write_bytes(data)
        sidecar.write(path, {sidecar.KEY: manifest.to_json()})
        checks = third_backend.of_program(open_program(path), config, checkpoint.arrays)
        if failed := [check for check in checks if not check.ok]:
            found = failed[0].sentence().partition(": ")[2]  # without the rung
            raise InputError(f"cannot write {target}: read back and run, {found}")
    facts = (target, checkpoint, "jax", batch, assumed)
    return Exported(*facts, outputs_of(config), len(data), tuple(checks))


def serialized(config: Config, arrays: Any, size: Pair, batch: int | None) -> bytes:
    """Return a StableHLO file's bytes.

    Args:
        config: The network's configuration.
        arrays: Published key -> array.
        size: Height and width of the images.
        batch: Number of images; None leaves it open.

    Raises:
        InputError: The network cannot process images of this size.
    """
    import jax
    import jax.numpy as jnp
    from jax import export as jax_export

    import jax_impl.state
    from parity.export.batches import any_number
    from weights_convert import to_jax

    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(f"size: {error}") from None
    network = predicting(jax_impl.state.build(config, to_jax(config, arrays)))

    def run(images: jax.Array) -> tuple[jax.Array, ...]:
        outputs = network(images)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    n = jax_export.symbolic_shape("batch")[0] if batch is None else batch
    image = jax.ShapeDtypeStruct((n, *size, 3), jnp.float32)
    with any_number() if batch is None else contextlib.nullcontext():
        made = jax_export.export(jax.jit(run), platforms=PLATFORMS)(image)
    return bytes(made.serialize())


def is_program(path: Path) -> bool:
    """Return whether a path is a file with the suffix of StableHLO files."""
    return path.is_file() and path.suffix == SUFFIX


def open_program(path: str | Path) -> Program:
    """Open a file.

    Raises:
        InputError: It is not there, damaged, or none of these; its manifest is damaged, or of
            another file.
    """
    from jax import export as jax_export

    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    if path.stat().st_size > LONGEST:
        raise InputError(f"{path}: larger than {LONGEST:,} bytes")
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    manifest = manifests.parse(sidecar.read(path, sha256), path)
    if manifest is None:
        _check_whole(data, path)
    try:
        found = jax_export.deserialize(bytearray(data))
    except Exception as error:
        raise InputError(f"{path}: no program of jax.export's, or a damaged one") from error
    return Program(
        path=path,
        bytes=len(data),
        sha256=sha256,
        version=found.calling_convention_version,
        platforms=tuple(found.platforms),
        inputs=tuple(map(_shape, found.in_avals)),
        outputs=tuple(map(_shape, found.out_avals)),
        manifest=manifest,
        _exported=found,
    )


def _check_whole(data: bytes, path: Path) -> None:
    """Refuse what cannot be one of these before it is read by what trusts its input.

    Raises:
        InputError: It is none.
    """
    root = int.from_bytes(data[:IDENTIFIER], "little")
    if not (len(data) > 64 and IDENTIFIER <= root < len(data) and MAGIC in data):
        raise InputError(f"{path}: no program of jax.export's, or a damaged one")


def _shape(aval: Any) -> tuple[str, tuple[int | str, ...]]:
    shape = tuple(n if isinstance(n, int) else str(n) for n in aval.shape)
    return np.dtype(aval.dtype).name, shape
