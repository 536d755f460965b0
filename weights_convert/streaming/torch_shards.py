"""PyTorch files, read one tensor at a time. No code in them is ever executed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch

from parity.spec.errors import InputError
from weights_convert.formats import torch_file
from weights_convert.formats.torch_states import find
from weights_convert.streaming.plan import Tensor, describe, numpy_dtype

MAPPED = 1 << 28  # bytes that are read before the file is mapped anew, which frees them


class TorchShard:
    """A file whose tensors are memory-mapped; one of before PyTorch 1.6 is read whole.

    Attributes:
        tensors: Name -> shape and dtype; tied ones share an entry.
        beside: Names of other entries of the file.
    """

    def __init__(self, path: Path, flat: bool = False) -> None:
        """Open a file.

        Args:
            path: The file.
            flat: Whether the tensors must lie open, as in shards.
        """
        self._path, self._key = path, "" if flat else None
        self._lock = threading.Lock()
        self._seen = 0
        torch_file.check_bytes(path)
        self._state, self.beside = self._opened()
        self.tensors: dict[str, Tensor] = {}
        storages: dict[tuple, Tensor] = {}
        for name, value in self._state.items():
            made = describe(name, tuple(value.shape), torch_file.dtype_of(value), path)
            memory = (value.data_ptr(), value.stride(), made)
            self.tensors[name] = storages.setdefault(memory, made)

    def _opened(self) -> tuple[dict[str, torch.Tensor], tuple[str, ...]]:
        data = torch_file.load(self._path, mapped=not torch_file.is_legacy(self._path))
        found = find(data, self._path, self._key or None)
        if self._key == "" and found.key:
            raise InputError(f"{self._path} holds tensors under {found.key!r}, expected them open")
        return found.tensors, found.beside

    def load(self, name: str) -> np.ndarray:
        """Return a copy of a tensor."""
        with self._lock:
            array = as_array(self._state[name]).copy()
            self._seen += array.nbytes
            if self._seen >= MAPPED and not torch_file.is_legacy(self._path):
                # The pages that were read stay in memory until the file is no longer mapped.
                self._state, self._seen = {}, 0
                self._state = self._opened()[0]
            return array


def as_array(tensor: torch.Tensor) -> np.ndarray:
    """Return a tensor as a NumPy array with the same bits, also in dtypes that NumPy lacks."""
    name = str(tensor.dtype).removeprefix("torch.")
    value = tensor.detach()
    if name in ("bfloat16",) or name.startswith("float8"):
        bits = torch.int16 if value.element_size() == 2 else torch.uint8
        return value.contiguous().view(bits).numpy().view(numpy_dtype(name))
    return value.numpy()
