"""What is done to images and labels, held against torchvision, and published ranges of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from parity.data import cityscapes
from parity.spec import augmentation, recipes
from parity.spec.augmentation import (
    Blur,
    Crop,
    Example,
    Flip,
    PadCrop,
    RatioCrop,
    Resize,
    Shift,
    ShortSide,
)
from parity.spec.models import MODELS
from parity.spec.preprocessing import published
from tests.torchvision_import import torchvision

VOID = 19
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (26, 40, 3), np.uint8)
LABEL = RNG.integers(0, 19, (26, 40), np.uint8)
EXAMPLE = Example(IMAGE, LABEL)
HALF = (512, 1024)

# What each program does to a sample, in its order: operations, ranges and probabilities.
OPERATIONS: dict[str, list[tuple[Any, ...]]] = {
    "enet-cityscapes": [(Resize(HALF),)],
    "enet-bench": [(Resize(HALF),)],
    "enet-camvid": [(Resize((360, 480)),)],
    "erfnet-cityscapes": [(Resize(HALF), Flip(0.5), Shift(2))] * 2,
    "erfnet-cityscapes-imagenet": [(Resize(HALF), Flip(0.5), Shift(2))],
    "enet-mindspore": [
        (Blur(0.0, 1.0, 1.0), RatioCrop(*ratios, 0.5), Resize(HALF), Flip(0.5))
        for ratios in ((1.2, 1.2), (1.0, 1.3), (1.0, 1.3))
    ],
    "erfnet-mindspore": [
        (Blur(0.0, 1.0, 1.0), RatioCrop(*ratios, 0.5), Resize(HALF), Flip(0.5))
        for ratios in ((1.2, 1.2), (1.0, 1.3), (1.0, 1.3), (1.0, 1.3))
    ],
    "icnet-cityscapes": [(Flip(0.5), ShortSide(512, 2048), Crop((960, 960)), Blur(0, 1, 0.5))],
    "icnet-cityscapes-corrected": [
        (Flip(0.5), ShortSide(512, 2048), Crop((960, 960)), Blur(0, 1, 0.5))
    ],
    "icnet-ascend": [(Flip(0.5), ShortSide(512, 2048), Crop((960, 960)), Blur(0, 1, 0.5))],
    "genet-cifar10": [(PadCrop(4), Flip(0.5))],
    "genet-cifar10-8p": [(PadCrop(4), Flip(0.5))],
}
SIZES = {"enet-camvid": (360, 480), "icnet": (1024, 2048), "genet": (32, 32)}


def test_operations_of_every_recipe() -> None:
    """Catches an operation left out, in another order, or with another range or probability."""
    found = {name: [s.augmentation for s in r.stages] for name, r in recipes.RECIPES.items()}
    assert found == OPERATIONS
    for name, recipe in recipes.RECIPES.items():
        size = next((size for start, size in SIZES.items() if name.startswith(start)), HALF)
        assert recipe.size == size, name


def functional() -> Any:
    return torchvision().transforms.functional


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.tensor(pixels).movedim(-1, 0) if pixels.ndim == 3 else torch.tensor(pixels)[None]


def pixels(found: torch.Tensor) -> np.ndarray:
    return found.movedim(0, -1).numpy() if len(found) == 3 else found[0].numpy()


def same(found: Example, image: torch.Tensor, label: torch.Tensor) -> None:
    np.testing.assert_array_equal(found.image, pixels(image))
    np.testing.assert_array_equal(found.label, pixels(label))


class Told(np.random.Generator):
    """A generator that gives what it is told."""

    def __init__(self, *values: Any) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def random(self, *args: Any) -> Any:  # type: ignore[override]  # few of its forms are called
        return self.values.pop(0)

    def integers(self, *args: Any) -> Any:  # type: ignore[override]  # few of its forms are called
        return np.asarray(self.values.pop(0))


def test_resize_is_torchvisions() -> None:
    """Catches labels that are interpolated, and images that are not antialiased."""
    f, found = functional(), augmentation.resized(EXAMPLE, (13, 20))
    near = torchvision().transforms.InterpolationMode.NEAREST
    picture = f.resize(Image.fromarray(IMAGE), [13, 20], antialias=True)
    np.testing.assert_array_equal(found.image, np.asarray(picture))
    label = f.resize(Image.fromarray(LABEL), [13, 20], interpolation=near)
    np.testing.assert_array_equal(found.label, np.asarray(label))
    # Its own kernels round once more, so that some pixels differ by one.
    close = f.resize(tensor(IMAGE), [13, 20], antialias=True)
    assert abs(found.image.astype(int) - pixels(close).astype(int)).max() <= 1


def test_flip_is_torchvisions() -> None:
    """Catches an image turned upside down, and one that is turned without its label."""
    f = functional()
    found = Flip(0.5)(EXAMPLE, Told(0.4), VOID)
    same(found, f.hflip(tensor(IMAGE)), f.hflip(tensor(LABEL)))
    same(Flip(0.5)(EXAMPLE, Told(0.5), VOID), tensor(IMAGE), tensor(LABEL))


@pytest.mark.parametrize("size", [(20, 30), (30, 48), (26, 50)])
def test_crop_is_torchvisions(size: tuple[int, int]) -> None:
    """Catches padding at the left or above, or by a class; rows taken for columns."""
    f, (height, width) = functional(), IMAGE.shape[:2]
    below, right = max(size[0] - height, 0), max(size[1] - width, 0)
    top, left = (min(3, max(height + below - size[0], 0)), min(5, max(width + right - size[1], 0)))
    found = Crop(size)(EXAMPLE, Told((top, left)), VOID)
    made = [
        f.crop(f.pad(tensor(x), [0, 0, right, below], fill=fill), top, left, *size)
        for x, fill in ((IMAGE, 0), (LABEL, VOID))
    ]
    same(found, *made)


def test_pad_crop_is_torchvisions() -> None:
    """Catches another padding than 4 pixels of 0 on all sides, before normalisation."""
    f, image = functional(), RNG.integers(0, 256, (32, 32, 3), np.uint8)
    for top, left in ((0, 0), (8, 8), (3, 7)):
        found = PadCrop(4)(Example(image, None), Told((top, left)), 0)
        expected = f.crop(f.pad(tensor(image), 4, fill=0), top, left, 32, 32)
        np.testing.assert_array_equal(found.image, pixels(expected))


def test_ratio_crop() -> None:
    """Catches a part of another size, and one that is not cut out of the same place of both."""
    f = functional()
    found = RatioCrop(1.2, 1.2)(EXAMPLE, Told(np.array([0.1, 0.7, 0.5, 0.25])), VOID)
    height, width = int(26 / 1.2), int(40 / 1.2)
    top, left = int(0.25 * (26 - height)), int(0.5 * (40 - width))
    made = [f.crop(tensor(x), top, left, height, width) for x in (IMAGE, LABEL)]
    same(found, *made)
    same(RatioCrop(1.2, 1.2)(EXAMPLE, Told(np.array([0.5, 0, 0, 0])), VOID), *map(tensor, EXAMPLE))
    free = RatioCrop(1.0, 1.3)(EXAMPLE, Told(np.array([0.1, 0.5, 0, 0])), VOID)
    assert free.image.shape[:2] == (int(26 / 1.15), int(40 / 1.15))


def test_short_side_is_torchvisions() -> None:
    """Catches a scale of the longer side."""
    f = functional()
    found = ShortSide(10, 20)(EXAMPLE, Told(13), VOID)
    picture = f.resize(Image.fromarray(IMAGE), [13], antialias=True)  # its shorter side
    np.testing.assert_array_equal(found.image, np.asarray(picture))
    tall = Example(np.rot90(IMAGE).copy(), np.rot90(LABEL).copy())
    made = ShortSide(10, 20)(tall, Told(13), VOID)
    assert made.image.shape[:2] == picture.size


def test_blur_is_gaussian() -> None:
    """Catches a radius taken for a variance, and labels that are blurred.

    Pillow makes a Gaussian of boxes; PyTorch's side of it is torchvision's kernel of that sigma.
    """
    smooth = np.kron(IMAGE[:6, :6], np.ones((6, 6, 1), np.uint8))
    example = Example(smooth, LABEL[:6, :6])
    found = Blur(0.0, 2.0)(example, Told(np.array([0.1, 0.75])), VOID)
    expected = functional().gaussian_blur(tensor(smooth), [13, 13], [1.5, 1.5])
    apart = abs(found.image.astype(float) - pixels(expected).astype(float))
    assert apart[8:-8, 8:-8].mean() < 2  # of 255
    other = functional().gaussian_blur(tensor(smooth), [13, 13], [0.75, 0.75])
    assert abs(pixels(other).astype(float) - found.image)[8:-8, 8:-8].mean() > 5
    np.testing.assert_array_equal(found.label, example.label)


def test_shift_fills_as_published() -> None:
    """Catches void where the published code has 0, which is road; and the reverse."""
    assert cityscapes.CITYSCAPES.classes[0] == "road"
    moved = Shift(2)(EXAMPLE, Told((2, 1)), VOID)
    assert (moved.label[:2] == VOID).all()
    assert (moved.label[:, :1] == VOID).all()
    np.testing.assert_array_equal(moved.label[2:, 1:], LABEL[:-2, :-1])
    back = Shift(2)(EXAMPLE, Told((-2, -1)), VOID)
    assert (back.label[-2:] == 0).all()
    assert (back.label[:, -1:] == 0).all()
    np.testing.assert_array_equal(back.image[:-2, :-1], IMAGE[2:, 1:])


@pytest.mark.parametrize("model", ["genet", "icnet", "erfnet-imagenet", "enet", "erfnet"])
def test_normalisation_is_torchvisions(model: str) -> None:
    """Catches a mean that is added, a deviation that multiplies, or 255 in the wrong place."""
    f, told = functional(), published(MODELS[model], None)
    image = f.convert_image_dtype(tensor(IMAGE), torch.float64)
    expected = f.normalize(image, list(told.mean), list(told.std))
    np.testing.assert_allclose(told(IMAGE, "float64"), pixels(expected), rtol=1e-12, atol=1e-15)
