"""A picture and its label map, drawn at once through one camera.

Lengths are metres: x to the right of the camera, y above the ground, z ahead of it. A class is
named as Cityscapes names it; without one only the picture changes (lane marks, windows, shadows).
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw

from parity.data.cityscapes import CLASSES

Colour = tuple[float, float, float]
Point = tuple[float, float, float]

# Ids of Cityscapes that do not count: the camera's own car, and things put down.
VOID = {"ego vehicle": 1, "static": 4}
IDS = {name: label_id for name, label_id, _ in CLASSES} | VOID

NEAR = 1.0  # nothing nearer than this is seen


@dataclasses.dataclass(frozen=True)
class Light:
    """The hour of the day.

    Attributes:
        zenith: The sky's colour above.
        horizon: The sky's colour below, to which everything fades with distance.
        tint: Factor of the picture's colours.
        sun: The side the sun is on: -1 left, 1 right.
        contrast: How much brighter than a face of no side a sunlit one is.
        visibility: Distance at which a colour has faded to 37 %.
    """

    zenith: Colour
    horizon: Colour
    tint: Colour
    sun: int
    contrast: float
    visibility: float

    def on(self, side: int) -> float:
        """Brightness of a wall on this side of the street."""
        return 1 - self.contrast * side * self.sun


class View:
    """A picture and a label map, drawn as the camera sees them.

    Args:
        height: Height of the picture in pixels.
        width: Width of the picture in pixels.
        horizon: Its row, as a share of the height.
        centre: Column of the vanishing point, as a share of the width.
        eye: Height of the camera above the ground.
        light: The hour of the day.
    """

    def __init__(
        self, height: int, width: int, horizon: float, centre: float, eye: float, light: Light
    ) -> None:
        self.image = Image.new("RGB", (width, height))
        self.labels = Image.new("L", (width, height), IDS["sky"])
        self.paint, self.annotate = ImageDraw.Draw(self.image), ImageDraw.Draw(self.labels)
        self.centre, self.horizon = centre * width, horizon * height
        self.focal = 0.72 * width
        self.eye = eye
        self.light = light

    def pixel(self, x: float, y: float, z: float) -> tuple[float, float]:
        """Column and row of a point; one nearer than `NEAR` is moved there."""
        scale = self.focal / max(z, NEAR)
        return self.centre + x * scale, self.horizon - (y - self.eye) * scale

    def face(self, points: Iterable[Point], colour: Colour, name: str | None = None) -> None:
        """Draw a polygon in space, of one colour."""
        points = list(points)
        if all(z < NEAR for _, _, z in points):
            return
        corners = [self.pixel(*p) for p in points]
        z = sum(max(p[2], NEAR) for p in points) / len(points)
        self.paint.polygon(corners, self._faded(colour, z))
        if name:
            self.annotate.polygon(corners, IDS[name])

    def disc(
        self, centre: Point, rx: float, ry: float, colour: Colour, name: str | None = None
    ) -> None:
        """Draw an ellipse that faces the camera."""
        x, y, z = centre
        box = (*self.pixel(x - rx, y + ry, z), *self.pixel(x + rx, y - ry, z))
        self.paint.ellipse(box, self._faded(colour, z))
        if name:
            self.annotate.ellipse(box, IDS[name])

    def board(
        self,
        at: tuple[float, float],
        corners: Sequence[tuple[float, float]],
        colour: Colour,
        name: str | None = None,
    ) -> None:
        """Draw a polygon that faces the camera, at (x, z); its corners are (right of x, up)."""
        x, z = at
        self.face([(x + dx, y, z) for dx, y in corners], colour, name)

    def plate(
        self,
        at: tuple[float, float],
        y: float,
        half: tuple[float, float],
        colour: Colour,
        name: str | None = None,
    ) -> None:
        """Draw a rectangle that faces the camera, about (x, y, z), by half its width and height."""
        w, h = half
        self.board(at, [(-w, y - h), (w, y - h), (w, y + h), (-w, y + h)], colour, name)

    def wall(
        self,
        x: float,
        z: tuple[float, float],
        y: tuple[float, float],
        colour: Colour,
        name: str | None = None,
    ) -> None:
        """Draw a rectangle that stands along the street."""
        corners = ((y[0], z[0]), (y[0], z[1]), (y[1], z[1]), (y[1], z[0]))
        self.face([(x, up, ahead) for up, ahead in corners], colour, name)

    def strip(
        self,
        x: tuple[float, float],
        z: tuple[float, float],
        colour: Colour,
        name: str | None = None,
    ) -> None:
        """Draw a rectangle on the ground, in pieces, so that it fades with distance."""
        edges = np.geomspace(z[0], z[1], 2 + int(4 * math.log(z[1] / z[0])))
        for near, far in itertools.pairwise(edges):
            points = [(x[0], 0, near), (x[1], 0, near), (x[1], 0, far), (x[0], 0, far)]
            self.face(points, colour, name)

    def shadow(self, points: Iterable[Point], darkness: float) -> None:
        """Darken what is there."""
        corners = np.array([self.pixel(*p) for p in points])
        low = np.clip(corners.min(axis=0).astype(int), 0, self.image.size)
        high = np.clip(corners.max(axis=0).astype(int) + 1, 0, self.image.size)
        if (low >= high).any():
            return
        mask = Image.new("L", tuple(high - low))
        ImageDraw.Draw(mask).polygon([*map(tuple, corners - low)], round(255 * darkness))
        self.image.paste((14, 18, 32), tuple(low), mask=mask)

    def _faded(self, colour: Colour, z: float) -> tuple[int, int, int]:
        kept = math.exp(-z / self.light.visibility)
        (r, g, b), (hr, hg, hb) = colour, self.light.horizon
        return int(hr + kept * (r - hr)), int(hg + kept * (g - hg)), int(hb + kept * (b - hb))


def mix(a: Colour, b: Colour, share: float) -> Colour:
    """Return a colour between two: `a` at share 0, `b` at 1."""
    return clip(*(p + share * (q - p) for p, q in zip(a, b, strict=True)))


def lit(colour: Colour, brightness: float) -> Colour:
    r, g, b = colour
    return clip(r * brightness, g * brightness, b * brightness)


def clip(r: float, g: float, b: float) -> Colour:
    return min(255.0, max(0.0, r)), min(255.0, max(0.0, g)), min(255.0, max(0.0, b))


def pick(rng: np.random.Generator, options: Sequence[Colour], spread: float = 4) -> Colour:
    """Pick one of these colours, and vary its brightness, with nearly the same hue."""
    colour = np.asarray(options[int(rng.integers(len(options)))])
    return clip(*(colour + rng.normal(0, 2 * spread) + rng.normal(0, spread, 3)))
