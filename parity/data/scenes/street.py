"""The layout of a street, drawn from the far end to the near one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np

from parity.data.scenes import houses, traffic
from parity.data.scenes.view import NEAR, View, lit, mix, pick

ASPHALT = ((88, 88, 92), (104, 102, 100), (76, 78, 84))
PAVING = ((150, 142, 136), (132, 130, 130), (164, 150, 138))
GRASS = ((96, 122, 60), (116, 124, 66), (84, 112, 58))
PAINT = (214, 214, 208)
END = 150.0  # metres; beyond it lies the skyline

Things = list[tuple[float, Callable[[], None]]]  # how far away, and what draws it


@dataclasses.dataclass(frozen=True)
class Plan:
    """Positions in a street, in metres; the same on both sides.

    Attributes:
        road: Half its width.
        paved: The pavement's outer edge, from the axis.
        line: The houses' fronts, from the axis.
        crossing: Where a side street begins and ends; beyond `END` if there is none.
        green: Whether grass grows between pavement and houses.
    """

    road: float
    paved: float
    line: float
    crossing: tuple[float, float]
    green: bool


def draw_street(view: View, rng: np.random.Generator) -> None:
    road = rng.uniform(3.6, 5.6)
    paved = road + rng.uniform(2.0, 3.6)
    begins = rng.uniform(13, 34) if rng.random() < 0.55 else 2 * END
    plan = Plan(
        road=road,
        paved=paved,
        line=paved + (rng.uniform(2.0, 7.0) if rng.random() < 0.6 else 0.0),
        crossing=(begins, begins + rng.uniform(6, 9)),
        green=bool(rng.random() < 0.75),
    )
    skyline(view, rng)
    surfaces(view, rng, plan)
    markings(view, rng, plan)
    shadows(view, rng, plan)
    behind: Things = []
    for side in (-1, 1):
        behind += row_of_houses(view, rng, plan, side)
    paint(behind)
    before: Things = []
    for part in (parked, moving, furniture, corner, persons):
        before += part(view, rng, plan)
    paint(before)


def paint(things: Things) -> None:
    for _, thing in sorted(things, key=lambda entry: -entry[0]):
        thing()


def skyline(view: View, rng: np.random.Generator) -> None:
    """Roofs and tree tops at the end of the street."""
    for x in np.arange(-160, 160, 9):
        at, half = (x + rng.normal(0, 3), END + 40), rng.uniform(4, 9)
        if rng.random() < 0.5:
            height = rng.uniform(8, 20)
            view.plate(at, height / 2, (half, height / 2), pick(rng, houses.PLASTER), "building")
        else:
            view.disc((at[0], 3, at[1]), half, rng.uniform(5, 11), pick(rng, houses.LEAVES),
                      "vegetation")  # fmt: skip


def surfaces(view: View, rng: np.random.Generator, plan: Plan) -> None:
    """Draw the ground: grass or paving, pavements, the road, a side street."""
    depth, asphalt, paving = (NEAR, 400.0), pick(rng, ASPHALT), pick(rng, PAVING)
    beyond = (pick(rng, GRASS), "terrain") if plan.green else (lit(paving, 0.94), "sidewalk")
    view.strip((-400, 400), depth, *beyond)
    view.strip((-plan.paved, plan.paved), depth, paving, "sidewalk")
    for side in (-1, 1):
        for z in np.geomspace(2.5, 60, 26):  # joints between the slabs
            view.strip((side * plan.road, side * plan.paved), (z, z * 1.006), lit(paving, 0.86))
    view.strip((-plan.road - 0.18, plan.road + 0.18), depth, mix(paving, (255, 255, 255), 0.25),
               "sidewalk")  # fmt: skip
    view.strip((-plan.road, plan.road), depth, asphalt, "road")
    if plan.crossing[0] < END:
        view.strip((-400, 400), plan.crossing, asphalt, "road")
    for _ in range(rng.integers(5)):  # where the road was mended
        x, z = rng.uniform(-plan.road, plan.road * 0.5), rng.uniform(4, 25)
        view.strip((x, x + rng.uniform(0.6, 1.6)), (z, z + rng.uniform(1, 6)), lit(asphalt, 0.88))


def markings(view: View, rng: np.random.Generator, plan: Plan) -> None:
    """White paint on the road."""
    begins, ends = plan.crossing
    worn = mix(PAINT, (110, 110, 112), rng.uniform(0, 0.5))
    start = rng.uniform(-3, 3)
    for z in np.arange(start, 110, 6.0):
        if z > NEAR and not begins - 4 < z < ends + 1:
            view.strip((-0.07, 0.07), (z, z + 3), worn)
    if rng.random() < 0.6:
        for side in (-1, 1):
            x = side * (plan.road - 2.2)
            for near, far in ((NEAR, min(begins, 110) - 3), (ends + 3, 110)):
                if near < far:
                    view.strip((x - 0.06, x + 0.06), (near, far), worn)
    if begins < END and rng.random() < 0.75:  # a zebra crossing
        for x in np.arange(-plan.road + 0.3, plan.road - 0.5, 1.0):
            view.strip((x, x + 0.5), (begins - 3, begins - 0.4), worn)


def shadows(view: View, rng: np.random.Generator, plan: Plan) -> None:
    """Draw the shadows of the houses on the sunny side, except under clouds."""
    if view.light.contrast < 0.1:
        return
    edge, tip = plan.line, plan.line - rng.uniform(4, 11)
    near = NEAR
    while near < 60:
        far = near + rng.uniform(8, 22)
        corners = ((edge, near), (edge, far), (tip, far), (tip, near))
        view.shadow([(view.light.sun * x, 0, z) for x, z in corners], 0.3)
        near = far + rng.uniform(1, 6)


def row_of_houses(view: View, rng: np.random.Generator, plan: Plan, side: int) -> Things:
    """Houses along one side, with gardens between them."""
    things: Things = []
    begins, ends = plan.crossing
    z = rng.uniform(-6, 2)
    while z < END:
        far = z + rng.uniform(7, 17)
        if z < begins:
            far = min(far, begins - 2)
        if far - z < 4 or begins - 3 < z < ends + 2:  # up to the corner, or past it
            z = ends + 2.5
        elif rng.random() < 0.3:
            things += garden(view, rng, plan, side, (z, far))
            z = far
        else:
            house = partial(houses.house, view, rng, side, plan.line, (z, far), rng.uniform(6, 16))
            things.append((max(z, 0.5), house))
            z = far + rng.choice((0.0, 0.0, rng.uniform(1, 4)))
    return things


def garden(
    view: View, rng: np.random.Generator, plan: Plan, side: int, z: tuple[float, float]
) -> Things:
    """Trees, and a hedge or a fence towards the pavement."""
    near, far = max(z[0], 2.0), z[1]
    if far - near < 2:
        return []
    things: Things = []
    for _ in range(2 + int((far - near) / 4)):
        x, at = side * (plan.line + rng.uniform(1, 9)), rng.uniform(near + 0.5, far)
        things.append((at, partial(houses.tree, view, rng, x, at, rng.uniform(4, 9))))
    border = houses.fence if rng.random() < 0.65 else houses.hedge
    things.append((near, partial(border, view, rng, side * plan.paved, (near, far))))
    return things


def parked(view: View, rng: np.random.Generator, plan: Plan) -> Things:
    """Cars along the kerb."""
    things: Things = []
    for side in (-1, 1):
        z, share = rng.uniform(3, 9), rng.choice((0.0, 0.35, 0.75))
        while z < 60:
            clear = plan.crossing[0] - 8 < z < plan.crossing[1] + 1
            if rng.random() < share and not clear:
                x = side * (plan.road - 1.1)
                things.append((z, partial(traffic.car, view, rng, x, z, side < 0)))
            z += rng.uniform(5, 8)
    return things


def moving(view: View, rng: np.random.Generator, plan: Plan) -> Things:
    """Return cars in their lanes: in the camera's direction on the right, oncoming on the left."""
    things: Things = []
    for side in (-1, 1):
        z = rng.uniform(7, 30)
        while z < 70:
            if rng.random() < 0.6:
                x = side * (plan.road / 2 - 0.4) + rng.normal(0, 0.2)
                things.append((z, partial(traffic.car, view, rng, x, z, side < 0)))
            z += rng.uniform(8, 30)
    return things


def furniture(view: View, rng: np.random.Generator, plan: Plan) -> Things:
    """Along the pavements: lamps, signs, trees, dustbins."""
    things: Things = []
    for side in (-1, 1):
        x, trees = side * (plan.road + 0.45), rng.random() < 0.4
        for z in np.arange(rng.uniform(4, 10), 45, rng.uniform(7, 12)):
            if plan.crossing[0] - 4 < z < plan.crossing[1] + 1:
                continue
            thing = traffic.sign if rng.random() < 0.55 else traffic.lamp
            things.append((z, partial(thing, view, rng, x, z)))
            if trees:
                at, height = z + 3.5, rng.uniform(4, 7)
                things.append((at, partial(houses.tree, view, rng, x, at, height)))
            if rng.random() < 0.25:
                at, inside = z + 1.5, side * (plan.paved - 0.4)
                things.append((at, partial(traffic.dustbin, view, rng, inside, at)))
    return things


def corner(view: View, rng: np.random.Generator, plan: Plan) -> Things:
    """Traffic lights where the side street crosses, and railings before it."""
    things: Things = []
    begins, ends = plan.crossing
    if begins > END:
        return things
    for side in (-1, 1):
        for z in (begins - 3.2, ends + 0.4):
            x = side * (plan.road + 0.45)
            things.append((z, partial(traffic.traffic_light, view, rng, x, z)))
        if rng.random() < 0.4:
            near, far = max(begins - 11, 3.0), begins - 4.5
            x = side * (plan.road + 0.2)
            things.append((near, partial(houses.fence, view, rng, x, (near, far))))
    return things


def persons(view: View, rng: np.random.Generator, plan: Plan) -> Things:
    """Return persons on the pavements, and some crossing the road."""
    things: Things = []
    for _ in range(rng.integers(4, 13)):
        side, z = rng.choice((-1, 1)), 5 * 10 ** rng.uniform(0, 0.75)
        x = side * rng.uniform(plan.road + 0.7, plan.paved - 0.3)
        things.append((z, partial(traffic.person, view, rng, x, z)))
    if plan.crossing[0] < END:
        for _ in range(rng.integers(5)):
            x, z = rng.uniform(-plan.road, plan.road), plan.crossing[0] - rng.uniform(0.6, 2.8)
            things.append((z, partial(traffic.person, view, rng, x, z)))
    return things
