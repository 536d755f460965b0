"""Data sets: their classes and how they are read. Needs NumPy and Pillow only."""

from __future__ import annotations

from pathlib import Path

from parity.data import records
from parity.data.camvid import CAMVID
from parity.data.cityscapes import CITYSCAPES
from parity.data.own import description, masks
from parity.data.segmentation import Sample, Segmentation, require_folder
from parity.spec.errors import InputError, listed

__all__ = ["DATASETS", "Sample", "Segmentation", "dataset"]

DATASETS = {data.name: data for data in (CITYSCAPES, CAMVID)}


def dataset(root: Path, name: str | None = None) -> Segmentation:
    """Return the data set of this name, or the one whose layout a folder has.

    Args:
        root: The folder; or the TOML file of a data set of the user's.
        name: A key of `DATASETS`; detected from the layout if not given.

    Raises:
        InputError: An unknown name, no folder, a folder of no known layout or of packed files, or a
            data set whose images have one class each.
    """
    if name is not None:
        if name not in DATASETS:
            raise InputError(f"unknown data set {name!r}, expected {' or '.join(DATASETS)}")
        return DATASETS[name]
    if (found := description.find(root)) is not None:
        return masks.segmentation(found)
    require_folder(root)
    for data in DATASETS.values():
        if data.recognises(root):
            return data
    if packed := sorted(path.name for path in root.glob(f"*{records.SUFFIX}")):
        raise InputError(
            f"{root} holds {listed(packed)}, expected the folder that was packed: images are named"
            " by their files here"
        )
    layouts = "; ".join(f"{data.name}: {data.layout}" for data in DATASETS.values())
    raise InputError(f"{root}: no known layout, expected {layouts}; or a {description.FILE}")
