"""Data sets: their classes, with the ids and colours of the data sets' own programs.

`parity.data` reads the data sets' files.
"""

from __future__ import annotations

import dataclasses

Colour = tuple[int, int, int]

# Cityscapes: class, its id in the label files, its colour.
CITYSCAPES = (
    ("road", 7, (128, 64, 128)),
    ("sidewalk", 8, (244, 35, 232)),
    ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)),
    ("fence", 13, (190, 153, 153)),
    ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)),
    ("traffic sign", 20, (220, 220, 0)),
    ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)),
    ("sky", 23, (70, 130, 180)),
    ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)),
    ("car", 26, (0, 0, 142)),
    ("truck", 27, (0, 0, 70)),
    ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)),
    ("motorcycle", 32, (0, 0, 230)),
    ("bicycle", 33, (119, 11, 32)),
)

# CamVid, as the SegNet tutorial has it: class, its colour. The id in the label files is its
# position.
CAMVID = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign_symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)

CIFAR10 = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


BLACK: Colour = (0, 0, 0)
LEAST, MOST = 2, 255  # classes of a data set: labels and void are numbers of 8 bits


@dataclasses.dataclass(frozen=True)
class DataSet:
    """What a network's outputs and predictions mean.

    Attributes:
        name: The data set's name.
        classes: Names of the classes, without void, in the order of their trainIds.
        palette: RGB of each class, and of void after them; empty for whole images.
        ids: The id in the data set's label files of each class, and of void after them where there
            is one; empty for whole images, and where label files hold colours, not ids.
        pixels: Whether each pixel has a class, not the image.
        mean: Mean of each channel of pixels in [0, 1], to be subtracted; that of the network's
            published code if None.
        std: Standard deviation of each channel, to divide by; likewise.

    Raises:
        ValueError: The classes are too few or too many, or the palette is not theirs.
    """

    name: str
    classes: tuple[str, ...]
    palette: tuple[Colour, ...] = ()
    ids: tuple[int, ...] = ()
    pixels: bool = True
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        count = len(self.classes)
        if not LEAST <= count <= MOST:
            raise ValueError(f"{count} classes, expected {LEAST} to {MOST}")
        if len(self.palette) != (count + 1 if self.pixels else 0):
            raise ValueError(f"{len(self.palette)} colours for {count} classes and void")

    def same(self, other: DataSet) -> bool:
        """Return whether a network of one is a network of the other: the same classes in order."""
        return (self.classes, self.pixels) == (other.classes, other.pixels)


BUILT_IN = {
    data.name: data
    for data in (
        DataSet(
            "cityscapes",
            classes=tuple(name for name, _, _ in CITYSCAPES),
            palette=(*(colour for _, _, colour in CITYSCAPES), BLACK),
            ids=(*(label_id for _, label_id, _ in CITYSCAPES), 0),
        ),
        DataSet(
            "camvid",
            classes=tuple(name for name, _ in CAMVID),
            palette=(*(colour for _, colour in CAMVID), BLACK),
            ids=tuple(range(len(CAMVID) + 1)),
        ),
        DataSet("cifar10", CIFAR10, pixels=False),
    )
}
