"""A small CIFAR-10 on disk, for tests: random pixels, known labels."""

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
        (folder / name).write_bytes(cifar10.batch_bytes(*arrays(i, count), name))
    return root
