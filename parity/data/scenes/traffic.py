"""Drawing what moves in a street and what controls traffic: cars, persons, poles, signs, lights."""

from __future__ import annotations

import itertools
import math

import numpy as np

from parity.data.scenes.view import Colour, View, lit, mix, pick

PAINTS = ((196, 200, 204), (58, 62, 68), (150, 30, 32), (34, 60, 120), (226, 226, 222),
          (96, 104, 110), (38, 92, 84), (178, 150, 96), (30, 32, 36), (120, 130, 150))  # fmt: skip
CLOTHES = ((40, 44, 58), (148, 42, 44), (62, 92, 140), (188, 176, 150), (70, 96, 66),
           (214, 206, 200), (110, 72, 110), (202, 148, 56))  # fmt: skip
SKINS = ((222, 180, 150), (176, 128, 98), (112, 76, 58))
STEEL = ((96, 100, 100), (70, 74, 76), (128, 130, 128))
RED, AMBER, GREEN = (224, 44, 36), (236, 170, 40), (50, 206, 110)
WHITE = (238, 238, 232)

# A car's outline from the side: metres from its rear, and up.
PROFILE = ((0.0, 0.3), (0.0, 0.92), (0.12, 1.0), (0.7, 1.46), (2.5, 1.48), (3.2, 1.0), (4.15, 0.84),
           (4.25, 0.3))  # fmt: skip
SIDE_WINDOW = ((0.55, 1.02), (0.85, 1.36), (2.4, 1.38), (3.0, 1.02))
LENGTH, HALF = 4.25, 0.88
WHEELS = (0.85, 3.4)


def car(view: View, rng: np.random.Generator, x: float, z: float, oncoming: bool) -> None:
    """Draw a car whose nearer end is at z.

    Args:
        view: Where to draw.
        rng: Chooses its paint and size.
        x: Position of its middle.
        z: Position of its nearer end.
        oncoming: Whether it shows its front.
    """
    paint, scale = pick(rng, PAINTS), rng.uniform(0.94, 1.12)
    glass = mix((24, 28, 34), view.light.zenith, 0.25)

    def at(along: float) -> float:
        return z + (LENGTH - along if oncoming else along)

    view.shadow([(x + dx, 0, at(along)) for dx, along in
                 ((-1.05, -0.2), (1.05, -0.2), (1.05, 4.5), (-1.05, 4.5))], 0.55)  # fmt: skip
    outline = [(at(along), scale * up) for along, up in PROFILE]
    left, right, seen = x - HALF, x + HALF, x + (HALF if x < 0 else -HALF)
    far_side = left + right - seen
    view.face([(far_side, y, d) for d, y in outline], lit(paint, 0.6), "car")
    edges = list(itertools.pairwise(outline))
    for i in sorted(range(len(edges)), key=lambda i: -sum(d for d, _ in edges[i])):
        (d0, y0), (d1, y1) = edges[i]
        window = i in (2, 4)
        tone = 1.25 if abs(d0 - d1) > abs(y0 - y1) else 0.9
        inset = 0.1 if window else 0.0
        view.face([(left, y0, d0), (right, y0, d0), (right, y1, d1), (left, y1, d1)],
                  lit(paint, tone), "car")  # fmt: skip
        if window:
            view.face([(left + inset, y0, d0), (right - inset, y0, d0),
                       (right - 1.8 * inset, y1, d1), (left + 1.8 * inset, y1, d1)],
                      glass)  # fmt: skip
    side = lit(paint, view.light.on(1 if x > 0 else -1))
    view.face([(seen, y, d) for d, y in outline], side, "car")
    view.face([(seen, scale * up, at(along)) for along, up in SIDE_WINDOW], glass)
    for along in WHEELS:
        wheel(view, seen, at(along))
    _end(view, x, z, oncoming, 0.84 if oncoming else 0.92)


def wheel(view: View, x: float, z: float) -> None:
    for radius, colour in ((0.34, (18, 18, 20)), (0.2, (130, 132, 136))):
        turns = np.linspace(0, 2 * math.pi, 14)
        points = [(x, 0.34 + radius * math.sin(t), z + radius * math.cos(t)) for t in turns]
        view.face(points, colour, "car")


def _end(view: View, x: float, z: float, oncoming: bool, top: float) -> None:
    """Lamps, number plate, bumper and tyres of the end that faces the camera."""
    for side in (-1, 1):
        tyre = (x + side * 0.68, z)
        view.plate(tyre, 0.17, (0.12, 0.17), (16, 16, 18), "car")
        lamp = (246, 244, 220) if oncoming else (190, 26, 30)
        view.plate((x + side * 0.7, z), top - 0.16, (0.15, 0.09), lamp)
    view.plate((x, z), 0.4, (HALF, 0.1), (44, 46, 50))
    view.plate((x, z), 0.56, (0.27, 0.06), WHITE)


def person(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Somebody walking, 1.5 to 1.9 m tall."""
    tall, at = rng.uniform(1.5, 1.9) / 1.75, (x, z)
    coat, trousers = pick(rng, CLOTHES), lit(pick(rng, CLOTHES), 0.6)
    skin, hair = pick(rng, SKINS), pick(rng, ((40, 30, 24), (96, 70, 44), (150, 130, 100)))
    stride, turn = rng.uniform(0.04, 0.26), rng.choice([-1, 1])

    def part(corners: list[tuple[float, float]], colour: Colour) -> None:
        view.board(at, [(turn * dx * tall, y * tall) for dx, y in corners], colour, "person")

    view.shadow([(x + dx, 0, z + dz) for dx, dz in
                 ((-0.35, -0.2), (0.35, -0.2), (0.35, 0.3), (-0.35, 0.3))], 0.4)  # fmt: skip
    part([(-0.13, 0.88), (0.06, 0.88), (-stride + 0.06, 0), (-stride - 0.12, 0)], trousers)
    part([(-0.04, 0.88), (0.15, 0.88), (stride + 0.16, 0), (stride - 0.04, 0)], lit(trousers, 0.8))
    part([(-0.2, 1.4), (0.2, 1.4), (0.21, 0.8), (-0.21, 0.8)], coat)
    part([(-0.12, 1.5), (0.12, 1.5), (0.22, 1.36), (-0.22, 1.36)], coat)
    part([(0.1, 1.42), (0.22, 1.4), (0.3, 0.86), (0.2, 0.84)], lit(coat, 0.8))
    view.disc((x, 1.63 * tall, z), 0.115, 0.14, hair, "person")
    view.disc((x + 0.03 * turn, 1.6 * tall, z), 0.09, 0.11, skin, "person")


def pole(view: View, at: tuple[float, float], height: float, colour: Colour) -> None:
    view.plate(at, height / 2, (0.09, height / 2), colour, "pole")
    view.board(at, [(-0.09, 0), (-0.03, 0), (-0.03, height), (-0.09, height)], lit(colour, 1.4))


def lamp(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a street lamp whose arm reaches over the road."""
    steel, height, arm = pick(rng, STEEL), rng.uniform(5, 7), -math.copysign(1.6, x)
    pole(view, (x, z), height, steel)
    view.board((x, z), [(0, height), (arm, height + 0.3), (arm, height + 0.18), (0, height - 0.12)],
               steel, "pole")  # fmt: skip
    view.plate((x + arm, z), height + 0.2, (0.35, 0.09), lit(steel, 1.5), "pole")


def sign(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a round, a triangular or a square sign on its pole."""
    top, shape = rng.uniform(2.3, 2.9), rng.integers(3)
    pole(view, (x, z), top + 0.3, pick(rng, STEEL))
    name, blue = "traffic sign", (36, 84, 170)
    if shape == 0:
        view.disc((x, top, z), 0.42, 0.42, RED, name)
        view.disc((x, top, z), 0.29, 0.29, pick(rng, (WHITE, (40, 70, 150))))
    elif shape == 1:
        for size, colour in ((0.5, RED), (0.29, WHITE)):
            corners = [(-size, top - 0.55 * size), (size, top - 0.55 * size), (0, top + size)]
            view.board((x, z), corners, colour, name)
    else:
        view.plate((x, z), top, (0.4, 0.42), pick(rng, (blue, (232, 190, 40))), name)
        view.plate((x, z), top, (0.2, 0.24), WHITE)


def traffic_light(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    top = rng.uniform(2.9, 3.4)
    pole(view, (x, z), top, pick(rng, STEEL))
    view.plate((x, z), top, (0.25, 0.62), (22, 24, 26), "traffic light")
    shining = rng.integers(3)
    for i, colour in enumerate((RED, AMBER, GREEN)):
        glow = colour if i == shining else lit(colour, 0.22)
        view.disc((x, top + 0.4 - 0.4 * i, z), 0.16, 0.16, glow)


def dustbin(view: View, rng: np.random.Generator, x: float, z: float) -> None:
    """Draw a dustbin, which the data set calls static: void."""
    colour = pick(rng, ((70, 74, 72), (48, 76, 52), (60, 62, 90)))
    view.board((x, z), [(-0.28, 0), (0.28, 0), (0.33, 0.95), (-0.33, 0.95)], colour, "static")
    view.plate((x, z), 1.0, (0.36, 0.06), lit(colour, 0.7), "static")
