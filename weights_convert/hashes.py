"""Hashes of files and of tensors. Imports no framework."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from weights_convert.memory import as_bytes, each


def file_sha256(path: Path, without: str = "") -> str:
    """Return the hash of a file; of a directory: of its files' names and hashes, in sorted order.

    Args:
        path: A file or directory.
        without: The name of a file in the directory that does not count.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p != path / without)
        lines = [
            f"{p.relative_to(path).as_posix()} {_inside_sha256(p)}\n"
            for p in files
            if p.is_symlink() or p.is_file()
        ]
        return text_sha256("".join(lines))
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _inside_sha256(path: Path) -> str:
    """Return a file's hash; for a link, that of its target's path, which is not opened."""
    return text_sha256(os.readlink(path)) if path.is_symlink() else file_sha256(path)


def text_sha256(text: str) -> str:
    """Return the hash of a text in UTF-8; a file's name may be none."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def tensor_sha256s(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Name -> hash of the dtype, the shape and the values in C order.

    Given published names and PyTorch's shapes, it is the same in every format and naming scheme.
    """
    return dict(zip(arrays, each(_tensor_sha256, arrays.values()), strict=True))


def whole_sha256(tensors: Mapping[str, str]) -> str:
    """Return one hash of all tensors' names and hashes, in their order."""
    return text_sha256("".join(f"{name} {digest}\n" for name, digest in tensors.items()))


def begun(dtype: str, shape: tuple[int, ...]) -> hashlib._Hash:
    """Return the hash of a tensor before its values, to be updated with them in C order."""
    return hashlib.sha256(f"{dtype} {shape}\n".encode())


def _tensor_sha256(array: np.ndarray) -> str:
    digest = begun(array.dtype.name, array.shape)
    digest.update(as_bytes(array).data)  # NumPy cannot lend out a bfloat16
    return digest.hexdigest()
