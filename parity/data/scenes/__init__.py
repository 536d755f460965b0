"""Synthetic street scenes with labels, for a demo that needs no data set.

All random numbers come from `parity.spec.draw`, so a seed and an index determine a scene.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from parity.data.cityscapes import IMAGE, LABEL
from parity.data.scenes.street import draw_street
from parity.data.scenes.view import IDS, Light, View, mix, pick
from parity.io.files import make_folder, write_atomically
from parity.spec import draw

CITY = "demo"
FINER = 3  # pictures are drawn so many times finer, then averaged down
HOOD = 0.085  # of the height: the camera's own car, at the bottom

# Standard deviation of a class's texture, as a share of its brightness.
GRAIN = {"road": 0.03, "sidewalk": 0.035, "terrain": 0.09, "vegetation": 0.08, "building": 0.025}


def scene(
    seed: int, index: int, height: int = 128, width: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one street scene.

    Args:
        seed: Seed of a set of scenes.
        index: Index of the scene.
        height: In pixels.
        width: In pixels.

    Returns:
        The picture (H, W, 3) uint8, and its label map (H, W) uint8 of Cityscapes' ids.
    """
    rng = draw.generator(seed, "scene", index)
    light = daylight(rng)
    view = View(
        height * FINER,
        width * FINER,
        horizon=rng.uniform(0.42, 0.52),
        centre=rng.uniform(0.38, 0.62),
        eye=rng.uniform(1.5, 2.1),
        light=light,
    )
    sky(view, rng)
    draw_street(view, rng)
    hood(view)
    return photograph(view, rng, height, width)


def write(
    root: Path, seed: int, count: int, height: int = 128, width: int = 256, split: str = "val"
) -> None:
    """Write scenes 0 to count - 1 as a split of a data set in Cityscapes' layout.

    Raises:
        InputError: A file cannot be written.
    """
    for index in range(count):
        name = f"{CITY}_{index:06}_000019"
        for kind, suffix, pixels in zip(
            ("leftImg8bit", "gtFine"),
            (IMAGE, LABEL),
            scene(seed, index, height, width),
            strict=True,
        ):
            folder, buffer = root / kind / split / CITY, io.BytesIO()
            make_folder(folder)
            Image.fromarray(pixels).save(buffer, "PNG")
            write_atomically(folder / f"{name}{suffix}", buffer.getvalue())


def daylight(rng: np.random.Generator) -> Light:
    """Draw the light of a clear or a grey day, or of an evening."""
    zenith, horizon, tint, contrast = (
        ((84, 136, 204), (206, 222, 236), (1.04, 1.02, 0.98), 0.24),
        ((150, 160, 172), (206, 210, 214), (0.95, 0.97, 1.0), 0.06),
        ((104, 122, 164), (242, 206, 166), (1.06, 0.96, 0.86), 0.3),
    )[rng.choice(3, p=(0.5, 0.25, 0.25))]
    return Light(
        zenith=pick(rng, (zenith,)),
        horizon=pick(rng, (horizon,), 3),
        tint=tint,
        sun=int(rng.choice((-1, 1))),
        contrast=contrast,
        visibility=rng.uniform(90, 220),
    )


def sky(view: View, rng: np.random.Generator) -> None:
    """Draw a gradient from the zenith to the horizon, and clouds that flatten towards it."""
    width, height = (length // FINER for length in view.image.size)
    rows = np.clip(np.arange(height) * FINER / view.horizon, 0, 1)[:, None, None]
    pixels = np.asarray(view.light.zenith) * (1 - rows) + np.asarray(view.light.horizon) * rows
    billows = sum(
        smooth(rng, (n, n), height, width) / (1 + i) for i, n in enumerate((5, 10, 20, 40))
    )
    cover = np.clip(0.6 * (billows - rng.uniform(-0.6, 1.2)), 0, 1)[..., None]
    white = np.asarray(mix(view.light.horizon, (252, 252, 250), 0.6))
    pixels = pixels + 0.8 * cover * (white - pixels)
    view.image.paste(Image.fromarray(pixels.astype(np.uint8)).resize(view.image.size))


def smooth(rng: np.random.Generator, cells: tuple[int, int], height: int, width: int) -> np.ndarray:
    """Normal noise in (rows, columns) of cells, blended: (H, W) float32."""
    noise = rng.normal(0, 1, cells).astype(np.float32)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def hood(view: View) -> None:
    """Draw the camera's own car, along the bottom."""
    width, height = view.image.size
    top = height * (1 - HOOD)
    for drop, colour in ((0.0, (26, 28, 32)), (0.02, (40, 43, 48)), (0.05, (33, 35, 40))):
        y = top + drop * height
        box = (-0.12 * width, y, 1.12 * width, y + 0.5 * height)
        view.paint.ellipse(box, colour)
        view.annotate.ellipse(box, IDS["ego vehicle"])


def photograph(
    view: View, rng: np.random.Generator, height: int, width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Average the picture down, then add texture, uneven light and a sensor's noise."""
    half = FINER // 2
    labels = np.asarray(view.labels)[half::FINER, half::FINER].copy()
    image = view.image.resize((width, height), Image.Resampling.BOX)
    pixels = np.asarray(image, np.float32)
    grain = np.zeros(256, np.float32)
    for name, share in GRAIN.items():
        grain[IDS[name]] = share
    coarse = smooth(rng, (height // 3, width // 3), height, width)
    texture = 0.5 * rng.normal(0, 1, (height, width)) + 0.8 * coarse
    uneven = 1 + 0.05 * smooth(rng, (3, 5), height, width)
    pixels = pixels * ((1 + grain[labels] * texture) * uneven)[..., None]
    pixels = pixels * np.asarray(view.light.tint) * rng.uniform(0.85, 1.1)
    pixels = pixels + rng.normal(0, rng.uniform(1.5, 4), pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8), labels
