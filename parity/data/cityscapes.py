"""Cityscapes in its official layout; ids, trainIds and colours of the data set's own scripts."""

from __future__ import annotations

from pathlib import Path

from parity.data import segmentation
from parity.spec import datasets

IMAGE = "_leftImg8bit.png"
LABEL = "_gtFine_labelIds.png"
# Other files that the official archives put next to the labels.
BESIDE = ("_color.png", "_instanceIds.png", "_labelTrainIds.png", "_instanceTrainIds.png")

CLASSES = datasets.CITYSCAPES
DATA = datasets.BUILT_IN["cityscapes"]
LABEL_IDS = 34  # 0 to 33; no file holds the licence plates' -1
TRAIN_IDS = {label_id: train_id for train_id, (_, label_id, _) in enumerate(CLASSES)}


def recognises(root: Path) -> bool:
    return (root / "leftImg8bit").is_dir()


def find(root: Path, split: str) -> segmentation.Files:
    """Files of `leftImg8bit/SPLIT/CITY/` and `gtFine/SPLIT/CITY/`, keyed `CITY/NAME`."""
    images = root / "leftImg8bit"
    segmentation.require_split(images, split, (p.name for p in segmentation.folders(images)))
    pictures = segmentation.visible((images / split).glob("*/*.png"))
    labels = segmentation.visible((root / "gtFine" / split).glob("*/*.png"))
    named = [p for p in labels if p.name.endswith(LABEL)]
    strangers = [p for p in pictures if not p.name.endswith(IMAGE)]
    strangers += [p for p in labels if not p.name.endswith((LABEL, *BESIDE))]
    return segmentation.Files(
        {_key(p, IMAGE): p for p in pictures if p.name.endswith(IMAGE)},
        {_key(p, LABEL): p for p in named},
        tuple(strangers),
    )


def _key(path: Path, suffix: str) -> str:
    return f"{path.parent.name}/{path.name.removesuffix(suffix)}"


CITYSCAPES = segmentation.Segmentation(
    name=DATA.name,
    classes=DATA.classes,
    palette=DATA.palette,
    train_ids=tuple(TRAIN_IDS.get(i, len(CLASSES)) for i in range(LABEL_IDS)),
    layout=f"leftImg8bit/SPLIT/CITY/*{IMAGE} and gtFine/SPLIT/CITY/*{LABEL}",
    recognises=recognises,
    find=find,
)
