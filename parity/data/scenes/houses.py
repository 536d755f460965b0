"""Drawing what lines a street: houses, trees, hedges, fences."""

from __future__ import annotations

import math

import numpy as np

from parity.data.scenes.view import IDS, NEAR, Colour, Point, View, lit, mix, pick

PLASTER = ((188, 172, 148), (160, 98, 82), (146, 146, 150), (206, 196, 176), (124, 106, 92),
           (170, 158, 166))  # fmt: skip
TILES = ((96, 60, 52), (70, 72, 80), (112, 78, 64))
AWNINGS = ((150, 44, 44), (40, 76, 110), (56, 96, 70), (196, 178, 140))
LEAVES = ((72, 104, 48), (56, 86, 46), (98, 116, 52), (126, 112, 48))
METAL = ((52, 58, 60), (150, 146, 140), (128, 96, 66))
DEPTH = 12.0  # of a house
SHARP = 70.0  # no window is drawn farther away


def house(
    view: View,
    rng: np.random.Generator,
    side: int,
    x: float,
    z: tuple[float, float],
    height: float,
) -> None:
    """Draw a house: its front, its gable, its roof.

    Args:
        view: Where to draw.
        rng: Chooses everything that is not given.
        side: -1 left, 1 right.
        x: How far its front is from the axis.
        z: Where it begins and ends, in metres ahead.
        height: Height of the eaves.
    """
    plaster = pick(rng, PLASTER, 6)
    front, gable = lit(plaster, view.light.on(side)), lit(plaster, 0.84)
    glass = mix((36, 44, 56), view.light.zenith, rng.uniform(0.05, 0.4))
    roof = lit(pick(rng, TILES), view.light.on(side))
    ridge, (near, far) = height + rng.uniform(0.5, 3.0), z
    x, middle, back = side * x, side * (x + DEPTH / 2), side * (x + DEPTH)
    view.face([(x, 0, near), (back, 0, near), (back, height, near), (middle, ridge, near),
               (x, height, near)], gable, "building")  # fmt: skip
    view.face([(x, height, near), (x, height, far), (middle, ridge, far), (middle, ridge, near)],
              roof, "building")  # fmt: skip
    view.wall(x, z, (0, height), front, "building")
    view.wall(x, z, (height - 0.35, height), lit(front, 0.78))
    if near > SHARP:
        return
    storeys = max(2, round(height / 3.1))
    facade(view, rng, x, z, height / storeys, storeys, front, glass)
    for i in range(1, 4):  # windows of the gable
        for floor in range(1, storeys):
            at = (x + side * DEPTH * i / 4, near)
            view.plate(at, height / storeys * (floor + 0.5), (0.5, 0.7), lit(glass, 0.9))


def facade(
    view: View,
    rng: np.random.Generator,
    x: float,
    z: tuple[float, float],
    rise: float,
    storeys: int,
    front: Colour,
    glass: Colour,
) -> None:
    """Windows by storey, shop windows below them; rise is the height of a storey."""
    bays = max(2, round((z[1] - z[0]) / rng.uniform(2.2, 3.2)))
    bay, frame = (z[1] - z[0]) / bays, lit(front, rng.choice([0.72, 1.22]))
    for i in range(bays):
        a, b = z[0] + bay * (i + 0.24), z[0] + bay * (i + 0.76)
        shop = lit(glass, rng.uniform(0.5, 1.1))
        view.wall(x, (a - 0.2, b + 0.2), (0.2, rise * 0.8), shop)
        for floor in range(1, storeys):
            low, high = rise * (floor + 0.22), rise * (floor + 0.78)
            view.wall(x, (a - 0.14, b + 0.14), (low - 0.14, high + 0.14), frame)
            view.wall(x, (a, b), (low, high), lit(glass, rng.uniform(0.7, 1.5)))
    if rng.random() < 0.4:
        view.wall(x, (z[0] + 0.4, z[1] - 0.4), (rise * 0.8, rise), pick(rng, AWNINGS))


def tree(view: View, rng: np.random.Generator, x: float, z: float, height: float) -> None:
    radius, w = height * rng.uniform(0.24, 0.34), 0.05 * height**0.8
    middle, bark = height - radius, pick(rng, ((78, 64, 52), (96, 86, 74)))
    view.board((x, z), [(-w, 0), (w, 0), (0.6 * w, middle), (-0.6 * w, middle)], bark, "vegetation")
    foliage(view, rng, (x, middle, z), (radius, radius), pick(rng, LEAVES), 60 if z < 25 else 25)


def hedge(view: View, rng: np.random.Generator, x: float, z: tuple[float, float]) -> None:
    """Bushes in a row along the street."""
    leaf = pick(rng, LEAVES[:3])
    for at in np.arange(z[1], max(z[0], 3.0), -0.9):
        foliage(view, rng, (x, 0.7, at), (0.9, 0.75), leaf, 14)


def foliage(
    view: View,
    rng: np.random.Generator,
    centre: Point,
    radii: tuple[float, float],
    leaf: Colour,
    count: int,
) -> None:
    """Leaves about a point; those away from the sun are drawn first, and darker."""
    (x, y, z), (rx, ry) = centre, radii
    angle, reach = rng.uniform(0, 2 * math.pi, count), np.sqrt(rng.uniform(0, 1, count))
    dx, dy = 0.8 * reach * np.cos(angle), 0.8 * reach * np.sin(angle)
    order = np.argsort(dy + 0.5 * dx * view.light.sun + rng.normal(0, 0.25, count))
    sizes, tones = rng.uniform(0.14, 0.34, count), rng.normal(0.5, 0.07, count)
    for step, i in enumerate(order):
        colour = lit(leaf, tones[i] + 0.75 * step / count)
        at = (x + dx[i] * rx, y + dy[i] * ry, z)
        view.disc(at, sizes[i] * rx, sizes[i] * ry, colour, "vegetation")


def fence(view: View, rng: np.random.Generator, x: float, z: tuple[float, float]) -> None:
    """Bars that one sees through; the label is solid, as the data set's annotators draw it."""
    near, far = max(z[0], NEAR), z[1]
    metal, top = pick(rng, METAL), rng.uniform(1.1, 1.7)
    corners = [(x, 0, near), (x, 0, far), (x, top, far), (x, top, near)]
    view.annotate.polygon([view.pixel(*c) for c in corners], IDS["fence"])
    view.shadow(corners, 0.3)
    for at in np.arange(far, near, -0.32):
        view.wall(x, (at, at + 0.13), (0, top), metal)
    for y in (0.15, top - 0.15):
        view.wall(x, (near, far), (y - 0.07, y + 0.07), lit(metal, 1.15))
