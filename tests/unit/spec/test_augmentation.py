"""Augmentation: what each operation does to pixels and labels, and what decides its draws."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image, ImageFilter, ImageOps

from parity.spec import draw
from parity.spec.augmentation import (
    Blur,
    Crop,
    Example,
    Flip,
    Operation,
    PadCrop,
    RatioCrop,
    Resize,
    Shift,
    ShortSide,
    augment,
    shifted,
)
from parity.spec.recipes import RECIPES

VOID = 19
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(1, 256, (24, 40, 3), np.uint8)
LABEL = RNG.integers(1, 19, (24, 40), np.uint8)
EXAMPLE = Example(IMAGE, LABEL)


def many(operation: Operation, example: Example = EXAMPLE, count: int = 400) -> list[Example]:
    """What comes out for so many samples."""
    return [augment((operation,), example, VOID, (7, 0, 0, i)) for i in range(count)]


def place(part: np.ndarray, whole: np.ndarray) -> tuple[int, int]:
    """Where a part was cut out; there is one such place."""
    views = np.lib.stride_tricks.sliding_window_view(whole, part.shape, axis=(0, 1))
    (found,) = np.argwhere((views == part).all((-2, -1)))
    return int(found[0]), int(found[1])


def test_resize_is_pillows() -> None:
    """Catches interpolated labels, and images that are not antialiased."""
    (image, label), *_ = many(Resize((9, 20)), count=1)
    expected = Image.fromarray(IMAGE).resize((20, 9), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(image, np.asarray(expected))
    nearest = Image.fromarray(LABEL).resize((20, 9), Image.Resampling.NEAREST)
    np.testing.assert_array_equal(label, np.asarray(nearest))
    same = many(Resize((24, 40)), count=1)[0]
    np.testing.assert_array_equal(same.image, IMAGE)


def test_flip_turns_half_of_both() -> None:
    """Catches an image flipped without its label, upside down, always or never."""
    turned = 0
    for image, label in many(Flip()):
        flipped = (image == IMAGE[:, ::-1]).all()
        assert flipped or (image == IMAGE).all()
        np.testing.assert_array_equal(label, LABEL[:, ::-1] if flipped else LABEL)
        turned += flipped
    assert 160 < turned < 240
    assert all((x.image == IMAGE).all() for x in many(Flip(0.0), count=20))
    assert all((x.image == IMAGE[:, ::-1]).all() for x in many(Flip(1.0), count=20))


@pytest.mark.parametrize(("right", "down"), list(itertools.product(range(-2, 3), repeat=2)))
def test_shift_is_that_of_the_published_code(right: int, down: int) -> None:
    """Catches a fill by void where the published code has 0, which is road, and 0 where void."""
    expected = []
    for pixels, fill in ((IMAGE, 0), (LABEL, VOID)):
        wide = ImageOps.expand(Image.fromarray(pixels), border=(right, down, 0, 0), fill=fill)
        expected.append(np.asarray(wide.crop((0, 0, wide.width - right, wide.height - down))))
    np.testing.assert_array_equal(shifted(IMAGE, down, right, 0), expected[0])
    np.testing.assert_array_equal(shifted(LABEL, down, right, VOID), expected[1])


@pytest.mark.parametrize(("right", "down"), [(-99, 0), (99, 0), (3, -99), (3, 99)])
def test_a_shift_out_of_sight_leaves_the_fill(right: int, down: int) -> None:
    """Catches a shift by more than the image has pixels that wraps around or cannot be done."""
    moved = shifted(LABEL, down, right, VOID)
    gone = right < 0 or down < 0
    expected = np.full_like(LABEL, 0 if gone else VOID)
    np.testing.assert_array_equal(moved, expected)


def test_shift_draws_every_step() -> None:
    """Catches a range without its end, rows taken for columns, and labels that stay behind."""
    moves = set()
    for image, label in many(Shift(2)):
        inside = place(image[2:-2, 2:-2, 0], np.pad(IMAGE[..., 0], 2))
        assert inside == place(label[2:-2, 2:-2], np.pad(LABEL, 2))
        moves.add((4 - inside[0], 4 - inside[1]))
    assert moves == set(itertools.product(range(-2, 3), repeat=2))


def test_ratio_crop() -> None:
    """Catches a side of another length, a place that is always a corner, and labels left behind."""
    fixed = many(RatioCrop(1.2, 1.2))
    sizes = [x.image.shape[:2] for x in fixed]
    assert set(sizes) == {(24, 40), (20, 33)}
    assert 160 < sizes.count((20, 33)) < 240
    places = [place(x.image[..., 0], IMAGE[..., 0]) for x in fixed if x.image.shape[:2] == (20, 33)]
    assert {p[0] for p in places} == set(range(4))
    assert {p[1] for p in places} == set(range(7))
    (image, label), *_ = [x for x in fixed if x.image.shape[0] == 20]
    assert place(label, LABEL) == place(image[..., 0], IMAGE[..., 0])
    ratios = {24 / x.image.shape[0] for x in many(RatioCrop(1.0, 1.3, p=1.0))}
    assert min(ratios) < 1.06
    assert 1.25 < max(ratios) <= 24 / 18
    for x in many(RatioCrop(1.0, 1.3, p=1.0), count=50):  # either side by the same ratio
        assert abs(x.image.shape[0] / 24 - x.image.shape[1] / 40) < 1 / 24 + 1 / 40


def test_short_side_and_crop() -> None:
    """Catches a scale by the longer side, labels interpolated, and padding that is a class."""
    scaled = many(ShortSide(12, 48))
    heights = {x.image.shape[0] for x in scaled}
    assert heights == set(range(12, 49))
    for image, label in scaled[:40]:
        height = image.shape[0]
        assert image.shape[:2] == label.shape == (height, int(40 * height / 24))
        nearest = Image.fromarray(LABEL).resize(label.shape[::-1], Image.Resampling.NEAREST)
        np.testing.assert_array_equal(label, np.asarray(nearest))
    upright = Example(IMAGE.swapaxes(0, 1).copy(), LABEL.T.copy())
    assert {x.image.shape[1] for x in many(ShortSide(12, 14), upright, 60)} == {12, 13, 14}

    cropped = many(Crop((30, 16)))
    for image, label in cropped:
        assert image.shape == (30, 16, 3)
        assert label.shape == (30, 16)
        assert not image[24:].any()
        assert (label[24:] == VOID).all()
        assert place(image[:24, :, 0], IMAGE[..., 0]) == place(label[:24], LABEL)
    assert {place(x.label[:24], LABEL)[1] for x in cropped} == set(range(25))


def test_pad_crop() -> None:
    """Catches a crop that reaches only one side, and a fill that is not 0."""
    example = Example(IMAGE[:24, :24], None)
    around = np.pad(IMAGE[:24, :24, 0], 4)
    places = set()
    for image, label in many(PadCrop(4), example, 1200):
        assert image.shape == (24, 24, 3)
        assert label is None
        places.add(place(image[..., 0], around))
    assert places == set(itertools.product(range(9), repeat=2))


def test_blur() -> None:
    """Catches labels that are blurred, a radius that is fixed, and one beyond its range."""
    blurred = many(Blur(0.5, 2.0), count=200)
    changed = [x.image for x in blurred if (x.image != IMAGE).any()]
    assert 70 < len(changed) < 130
    assert all((x.label == LABEL).all() for x in blurred)
    sharpness = [np.abs(np.diff(x.astype(int), axis=1)).mean() for x in changed]
    picture = Image.fromarray(IMAGE)
    ends = [np.asarray(picture.filter(ImageFilter.GaussianBlur(r)), int) for r in (2.0, 0.5)]
    low, high = (np.abs(np.diff(x, axis=1)).mean() for x in ends)
    assert low <= min(sharpness) < low + (high - low) / 10
    assert high - (high - low) / 10 < max(sharpness) <= high
    assert all((x.image != IMAGE).any() for x in many(Blur(0.5, 1.0, p=1.0), count=20))


@pytest.mark.parametrize("name", RECIPES)
def test_draws_depend_on_their_key_only(name: str) -> None:
    """Catches a draw from a generator that others use, and a part of the key that is not read."""
    operations = [
        Crop((16, 16)) if isinstance(x, Crop) else Resize((24, 40)) if isinstance(x, Resize) else x
        for x in RECIPES[name].stages[0].augmentation
        if not isinstance(x, ShortSide)
    ]
    key = (1, 2, 3, 4)
    first = augment(operations, EXAMPLE, VOID, key)
    for i in range(30):  # what others draw in between
        augment(operations, EXAMPLE, VOID, (i, 0, 0, 0))
    again = augment(operations, EXAMPLE, VOID, key)
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    if len(operations) > 1:  # ENet's are not random
        for k in range(4):
            others = [
                augment(operations, EXAMPLE, VOID, (*key[:k], i, *key[k + 1 :])).image
                for i in range(10, 30)
            ]
            assert any(x.shape != first.image.shape or (x != first.image).any() for x in others)


def test_operations_draw_apart_from_each_other() -> None:
    """Catches an operation whose draws change when another is taken out before or after it."""
    one = [
        augment((Blur(p=0.0), Flip()), EXAMPLE, VOID, (0, 0, 0, i)).image[0, 0] for i in range(40)
    ]
    two = [
        augment((Resize((24, 40)), Flip(), Shift(0)), EXAMPLE, VOID, (0, 0, 0, i)).image[0, 0]
        for i in range(40)
    ]
    np.testing.assert_array_equal(one, two)
    flips = [draw.generator(0, f"augmentation/{k}", 0, 0, 1).random() for k in range(3)]
    assert len(set(flips)) == 3
