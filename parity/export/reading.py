"""Safe opening of ONNX files: files that refer to other files are refused.

A tensor's values may lie in another file, which ONNX Runtime would open wherever the path leads; so
a file with such a tensor is refused, wherever in it that is. ONNX Runtime then gets the checked
bytes, not the path.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from parity.export import guard
from parity.spec.errors import InputError, listed, one_line
from weights_convert import Manifest
from weights_convert import manifest as manifests
from weights_convert.formats.mindspore_file import DamagedError

MOST = 2**31 - 1  # bytes of a protobuf message
MOST_PIXELS, MOST_IMAGES = 2**26, 2**16  # of an image, at once

# ONNX Runtime would compute what depends on no image as soon as it opens a file, and keep it: a
# file of 300 bytes can ask for all memory so. Our exports leave it nothing to fold.
UNWANTED = ("ConstantFolding",)


@dataclasses.dataclass(frozen=True)
class Network:
    """An open ONNX file whose network takes images.

    Attributes:
        path: The file.
        manifest: Its manifest; None without one.
        size: Height and width of its input.
        batch: Number of images it takes; None for any number.
        outputs: Names of its outputs.
    """

    path: Path
    manifest: Manifest | None
    size: tuple[int, int]
    batch: int | None
    outputs: tuple[str, ...]
    _session: Any

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Return its outputs for images (N, 3, H, W) float32.

        Raises:
            InputError: ONNX Runtime refuses.
        """
        name = self._session.get_inputs()[0].name
        try:
            return self._session.run(None, {name: images})
        except Exception as error:
            raise InputError(f"{self.path}: ONNX Runtime: {one_line(error)}") from error


def open_network(path: str | Path, threads: int = 0) -> Network:
    """Open an ONNX file whose one input is images (N, 3, H, W) float32.

    Args:
        path: The file.
        threads: Threads of ONNX Runtime; 0 lets it choose.

    Raises:
        InputError: It is not there, damaged, not ONNX, names other files, or ONNX Runtime or this
            program cannot use it.
    """
    import onnxruntime

    path = Path(path)
    data, model = read(path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A thread that waits by spinning takes the core from whatever else the process computes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(
            data,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=UNWANTED,
            enable_fallback=False,  # to the same provider, after five lines on standard output
        )
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime: {one_line(error)}") from error
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    fixed = [isinstance(n, int) for n in shape]
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or fixed[1:] != [True] * 3:
        found = listed(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
        raise InputError(f"{path}: inputs {found}, expected one of float32 (N, 3, H, W)")
    if shape[1] != 3:
        raise InputError(f"{path}: images of {shape[1]} channels, expected 3")
    if not 1 <= shape[2] * shape[3] <= MOST_PIXELS or min(shape[2:]) < 1:
        raise InputError(
            f"{path}: images of {shape[2]}x{shape[3]}, expected 1 to {MOST_PIXELS:,} pixels"
        )
    if fixed[0] and not 1 <= shape[0] <= MOST_IMAGES:
        raise InputError(f"{path}: {shape[0]} images at once, expected 1 to {MOST_IMAGES:,}")
    if not session.get_outputs():
        raise InputError(f"{path}: no outputs, expected some")
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    return Network(
        path=path,
        manifest=manifests.parse(metadata, path),
        size=(shape[2], shape[3]),
        batch=shape[0] if fixed[0] else None,
        outputs=tuple(output.name for output in session.get_outputs()),
        _session=session,
    )


def read(path: Path) -> tuple[bytes, onnx.ModelProto]:
    """Read an ONNX file; return its bytes and the parsed model.

    Raises:
        InputError: It is not there, damaged, not ONNX, or names other files.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file" if not path.exists() else f"{path}: not a file")
    try:
        if path.stat().st_size > MOST:
            raise InputError(f"{path}: larger than an ONNX file can be, 2 GiB")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error
    model = onnx.ModelProto()
    try:
        guard.check_size(data)
        model.ParseFromString(data)
    except (DecodeError, DamagedError) as error:
        raise InputError(f"{path}: not an ONNX file, or a damaged one") from error
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    if not model.graph.node or model.ir_version not in guard.VERSIONS:
        raise InputError(f"{path}: not an ONNX file: it holds no graph")
    try:
        guard.check(model)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error
    return data, model
