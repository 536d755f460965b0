"""Safetensors: a JSON header and raw bytes. Loads no framework."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from parity.spec.errors import InputError
from weights_convert.formats import Contents, check_dtypes, first_line, numpy_dtype
from weights_convert.memory import contiguous

# The format's name of a dtype -> ours; those not here pass under their own name and are refused.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "BOOL": "bool",
}


def read(path: Path) -> Contents:
    """Read a file.

    Raises:
        InputError: It is damaged, or a dtype is not supported.
        OSError: The file system refuses.
    """
    data = path.read_bytes()
    try:
        views = dict(deserialize(data))
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file: {first_line(error)}") from error
    dtypes = {name: DTYPES.get(view["dtype"], view["dtype"]) for name, view in views.items()}
    check_dtypes(dtypes, path)
    arrays = {
        name: np.frombuffer(view["data"], numpy_dtype(dtypes[name])).reshape(view["shape"])
        for name, view in views.items()
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return Contents("safetensors", arrays, header.get("__metadata__", {}))


def write(path: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write a file.

    Raises:
        OSError: The file system refuses.
    """
    # `save` takes the memory as it lies; `save_file` lets only the owner read.
    path.write_bytes(save(contiguous(arrays), metadata=dict(metadata)))
