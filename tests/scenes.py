"""Small data sets on disk, for tests: random pixels, known labels; and weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

NAMES = ("aachen_000000_000019", "bonn_000000_000019", "bonn_000001_000019", "ulm_000000_000019")


def cityscapes(root: Path, height: int = 32, width: int = 64, split: str = "val") -> Path:
    """Four pairs in the official layout; the label maps hold every id."""
    for i, name in enumerate(NAMES):
        city = name.split("_")[0]
        image, label = scene(i, 34, height, width)
        save(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", image)
        save(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", label)
    return root


def camvid(root: Path, height: int = 32, width: int = 64, split: str = "val") -> Path:
    """Three pairs in SegNet's layout, one image of each format."""
    for i, file in enumerate(("a.jpg", "b.png", "c.JPEG")):
        image, label = scene(i, 12, height, width)
        save(root / split / file, image)
        save(root / f"{split}annot" / f"{file[0]}.png", label)
    return root


def scene(seed: int, ids: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Random (H, W, 3), and (H, W) of all ids in rectangles of 4x4 pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    blocks = np.resize(rng.permutation(ids), (-(-height // 4), -(-width // 4))).astype(np.uint8)
    return image, blocks.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def save_weights(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """A torch file of these arrays."""
    torch.save({k: torch.from_numpy(v) for k, v in arrays.items()}, path)
    return path
