"""Checks on an ONNX file before it is parsed, and before ONNX Runtime loads it.

A message of two bytes takes a hundred times as much in memory. ONNX Runtime looks at a tensor only
where a node needs it, makes sparse tensors dense, and writes out a function wherever it is called.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import onnx
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from onnx import TensorProto, helper

from weights_convert.formats.mindspore_file import BYTES, VARINT, DamagedError, varint

MOST_FIELDS = 200_000  # of all messages together: ICNet on ResNet-101 has 17,000
MOST_DIMS = 16
VERSIONS = range(1, 1000)

FIXED64, FIXED32 = 1, 5  # wire types, in addition to those of MindSpore's messages

# Fields other than `raw_data` that may hold a tensor's values -> dtypes stored there.
VALUES = {
    "float_data": (TensorProto.FLOAT,),
    "double_data": (TensorProto.DOUBLE,),
    "int64_data": (TensorProto.INT64,),
    "uint64_data": (TensorProto.UINT32, TensorProto.UINT64),
    "int32_data": (
        TensorProto.INT32,
        TensorProto.INT16,
        TensorProto.INT8,
        TensorProto.UINT16,
        TensorProto.UINT8,
        TensorProto.BOOL,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
    ),
}
DTYPES = {dtype for group in VALUES.values() for dtype in group}


def check_size(data: bytes) -> None:
    """Refuse a file of more fields than networks have, before it is parsed.

    Raises:
        ValueError: It has, or a field is longer than what is there.
    """
    waiting = [(memoryview(data), onnx.ModelProto.DESCRIPTOR)]
    count = 0
    while waiting:
        part, kind = waiting.pop()
        for number, content in _fields(part):
            count += 1
            if count > MOST_FIELDS:
                raise ValueError(f"it has more than {MOST_FIELDS:,} fields")
            field = kind.fields_by_number.get(number)
            inner: Descriptor | None = field.message_type if field else None
            if content is not None and inner is not None:
                waiting.append((content, inner))


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Number of each field of a message, and its content where it has a length.

    Raises:
        DamagedError: A field is longer than what is there, or of no known wire type.
    """
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            _, at = varint(data, at)
            yield number, None
            continue
        size = {FIXED64: 8, FIXED32: 4}.get(wire)
        if wire == BYTES:
            size, at = varint(data, at)
        if size is None:
            raise DamagedError(f"a field of wire type {wire}")
        if size > len(data) - at:
            raise DamagedError(f"a field of {size} bytes, of which {len(data) - at} are there")
        yield number, data[at : at + size] if wire == BYTES else None
        at += size


def messages(model: onnx.ModelProto) -> Iterator[Message]:
    """Yield every message in a model, at any depth, except those inside tensors."""
    waiting: list[Message] = [model]
    while waiting:
        found = waiting.pop()
        yield found
        if isinstance(found, TensorProto):
            continue
        for field, value in found.ListFields():
            if field.message_type is not None:
                waiting += value if hasattr(value, "__len__") else [value]


def check(model: onnx.ModelProto) -> None:
    """Refuse a model that is not all in its own file, or not what it looks like.

    Raises:
        ValueError: It names other files, has functions or sparse tensors, a tensor lies, or a text
            that is used is not UTF-8.
    """
    found = list(messages(model))
    tensors = [message for message in found if isinstance(message, TensorProto)]
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "?")
            raise ValueError(
                f"tensor {tensor.name!r} lies in another file, {where!r}: external data is refused"
            )
    if model.functions:
        raise ValueError(
            f"it has functions of its own, such as {model.functions[0].name!r}: write them out"
            " first, with onnx.inliner"
        )
    if any(isinstance(message, onnx.SparseTensorProto) for message in found):
        raise ValueError("it has sparse tensors, expected dense ones")
    for tensor in tensors:
        _check_tensor(tensor)
    values = [*model.graph.input, *model.graph.output, *model.graph.initializer]
    dims = [m.dim_param for m in found if isinstance(m, onnx.TensorShapeProto.Dimension)]
    metadata = [text for entry in model.metadata_props for text in (entry.key, entry.value)]
    used = [value.name for value in values] + [entry.domain for entry in model.opset_import]
    for text in (*used, *dims, *metadata):
        if isinstance(text, bytes):  # what protobuf returns for a text that cannot be decoded
            raise ValueError(f"it holds a text that is not UTF-8, {text!r}")
    if wrong := [value.name for value in values if not (value.name and value.name.isprintable())]:
        raise ValueError(f"it names a value {wrong[0]!r}")


def _check_tensor(tensor: TensorProto) -> None:
    """Check that a tensor's declared dtype and shape fit its data."""
    name, dtype = tensor.name, tensor.data_type
    if dtype not in DTYPES:
        raise ValueError(f"tensor {name!r} is of dtype {dtype}, expected numbers")
    if len(tensor.dims) > MOST_DIMS or min(tensor.dims, default=0) < 0:
        raise ValueError(f"tensor {name!r} has {len(tensor.dims)} dims, or negative ones")
    if max(tensor.dims, default=0) >= 2**31 or tensor.HasField("segment"):
        raise ValueError(f"tensor {name!r} is larger than a file can be")
    held = [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]
    place = held[0] if held else "raw_data"
    size = math.prod(tensor.dims)
    if place == "raw_data":
        size *= np.dtype(helper.tensor_dtype_to_np_dtype(dtype)).itemsize
    fits = place == "raw_data" or dtype in VALUES.get(place, ())
    if len(held) > 1 or not fits or len(getattr(tensor, place)) != size:
        shape = "x".join(map(str, tensor.dims)) or "a scalar"
        raise ValueError(f"tensor {name!r} is {shape}, but holds {' and '.join(held) or 'nothing'}")
