"""CamVid in the layout of the SegNet tutorial: 11 classes, and 11 = unlabelled."""

from __future__ import annotations

from pathlib import Path

from parity.data import segmentation
from parity.spec import datasets
from parity.spec.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg")

DATA = datasets.BUILT_IN["camvid"]


def splits(root: Path) -> list[str]:
    return [p.name for p in segmentation.folders(root) if (root / f"{p.name}annot").is_dir()]


def recognises(root: Path) -> bool:
    return bool(splits(root))


def find(root: Path, split: str) -> segmentation.Files:
    """Files of `SPLIT/` and `SPLITannot/`, keyed by name without suffix.

    Raises:
        InputError: No such split, or two images of one name.
    """
    segmentation.require_split(root, split, splits(root))
    images: dict[str, Path] = {}
    for path in segmentation.visible((root / split).iterdir()):
        if path.suffix.lower() in IMAGES and images.setdefault(path.stem, path) != path:
            raise InputError(f"{path} and {images[path.stem].name}: two images of one name")
    labels = segmentation.visible((root / f"{split}annot").glob("*.png"))
    return segmentation.Files(images, {p.stem: p for p in labels})


CAMVID = segmentation.Segmentation(
    name=DATA.name,
    classes=DATA.classes,
    palette=DATA.palette,
    train_ids=DATA.ids,
    layout="SPLIT/NAME.png (or .jpg) and SPLITannot/NAME.png",
    recognises=recognises,
    find=find,
)
