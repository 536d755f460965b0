"""ONNX files from anywhere, opened only after it is clear that they stand alone.

A tensor's values may lie in another file, which ONNX Runtime would open wherever the path leads; so
a file with such a tensor is refused, wherever in it that is. ONNX Runtime then gets the bytes that
were looked at, not the path.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message

from parity.spec.errors import InputError
from weights_convert import Manifest
from weights_convert import manifest as manifests

MOST = 2**31 - 1  # bytes of a protobuf message


@dataclasses.dataclass(frozen=True)
class Network:
    """An ONNX file of a network of images, open.

    Attributes:
        path: The file.
        manifest: What it says of itself; none if it says nothing.
        size: Height and width of its input.
        batch: Images that it takes; None: any number.
        outputs: Names of its outputs.
    """

    path: Path
    manifest: Manifest | None
    size: tuple[int, int]
    batch: int | None
    outputs: tuple[str, ...]
    _session: Any

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Its outputs for images (N, 3, H, W) float32.

        Raises:
            InputError: ONNX Runtime refuses.
        """
        name = self._session.get_inputs()[0].name
        try:
            return self._session.run(None, {name: images})
        except Exception as error:
            raise InputError(f"{self.path}: ONNX Runtime: {_line(error)}") from error


def open_network(path: str | Path, threads: int = 0) -> Network:
    """Open an ONNX file whose one input is images (N, 3, H, W) float32.

    Args:
        path: The file.
        threads: Of ONNX Runtime; 0: as many as it likes.

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
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise InputError(f"{path}: ONNX Runtime: {_line(error)}") from error
    inputs = session.get_inputs()
    shape = list(inputs[0].shape) if len(inputs) == 1 else []
    fixed = [isinstance(n, int) for n in shape]
    if len(shape) != 4 or inputs[0].type != "tensor(float)" or fixed[1:] != [True] * 3:
        found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs) or "none"
        raise InputError(f"{path}: inputs {found}, expected one of float32 (N, 3, H, W)")
    if shape[1] != 3:
        raise InputError(f"{path}: images of {shape[1]} channels, expected 3")
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
    """An ONNX file's bytes, and what they say.

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
        model.ParseFromString(data)
    except DecodeError as error:
        raise InputError(f"{path}: not an ONNX file, or a damaged one") from error
    if not model.graph.node or not model.ir_version:
        raise InputError(f"{path}: not an ONNX file: it holds no graph")
    for tensor in tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise InputError(
                f"{path}: tensor {tensor.name!r} lies in another file, {where!r}: external data is"
                " refused"
            )
    return data, model


def tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor in a message, however deep: of subgraphs, functions, sparse ones, attributes."""
    waiting = [message]
    while waiting:
        found = waiting.pop()
        if isinstance(found, onnx.TensorProto):
            yield found
            continue
        for field, value in found.ListFields():
            if field.message_type is not None:
                waiting += value if hasattr(value, "__len__") else [value]


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
