"""CIFAR-10's official files, written; and a small one on disk: random pixels, known labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parity.data import cifar10


def arrays(seed: int, count: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 32, 32, 3) and labels (N,)."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), np.arange(seed, seed + count) % 10


def cifar(root: Path, count: int = 6) -> Path:
    """The six files of the official layout, of so many images each."""
    folder = root / cifar10.FOLDER
    folder.mkdir(parents=True)
    for i, name in enumerate((*cifar10.SPLITS["train"], *cifar10.SPLITS["test"])):
        (folder / name).write_bytes(batch_bytes(*arrays(i, count), name))
    return root


def batch_bytes(images: np.ndarray, labels: np.ndarray, title: str) -> bytes:
    """Return a file as the official ones are: a pickle of Python 2, which any Python reads.

    Args:
        images: (N, 32, 32, 3) uint8.
        labels: (N,), 0 to 9.
        title: Such as `training batch 1 of 5`.
    """
    rows = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    names = b"".join(_string(b"%05d.png" % i) for i in range(len(images)))
    dtype = b"cnumpy\ndtype\n" + _string(b"u1") + b"K\x00K\x01\x87R(K\x03" + _string(b"|")
    dtype += b"NNN" + 2 * _int(-1) + b"K\x00tb"  # version 3, and what u1 has no use for
    empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
    shape = _int(rows.shape[0]) + _int(rows.shape[1]) + b"\x86"
    array = empty + _string(b"b") + b"\x87R(K\x01" + shape + dtype + b"\x89"
    items = (
        _string(b"batch_label") + _string(title.encode()),
        _string(b"labels") + b"](" + b"".join(map(_int, labels.tolist())) + b"e",
        _string(b"data") + array + _string(rows.tobytes()) + b"tb",
        _string(b"filenames") + b"](" + names + b"e",
    )
    return b"\x80\x02}(" + b"".join(items) + b"u."


def _string(text: bytes) -> bytes:
    return b"T" + len(text).to_bytes(4, "little") + text


def _int(value: int) -> bytes:
    return b"J" + value.to_bytes(4, "little", signed=True)
