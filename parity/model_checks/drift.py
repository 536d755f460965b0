"""How fast both sides diverge in float32, compared with how fast one diverges from itself.

Rounding differs between two frameworks in every operation, and training makes any difference grow.
One side whose every image is changed by a unit in the last place diverges from itself as well. A
port that is as exact as its reference diverges from it no faster than K times that, with the K of
`parity.ladder.tolerances`.

Where training is unstable a distance grows twentyfold and more in a step, once rounding has turned
over a first maximum or ReLU, and when it does so is chance: of two JAX runs of ICNet, their images
changed otherwise, one was 4e-6 from the unchanged run after four steps, the other 2e-3. So each
side is changed several times, and what counts is how far it can diverge from itself.

All are trained on images with noise. The drawn scenes have even areas, on which max-pooling finds
its maximum many times and takes the first; to move these by a unit would let it take any, which is
no rounding: an ENet diverged from itself by 3e-4 in its first step, where rounding makes 9e-9.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from parity.ladder.tolerances import K, norm
from parity.model_checks.recipes.scaled_down import scaled_down
from parity.model_checks.recipes.side import TrainedSide
from parity.report.plot import Line
from parity.spec import draw
from parity.spec.training.recipe import Recipe
from parity.spec.training.trainer import Arrays, Batch

Progress = Callable[[str], None]
NOISE = 2.0**-9
SIDES = ("torch", "jax")
BETWEEN = "torch and jax"
COLOURS = {BETWEEN: "#d9822b", "torch": "#4c7fd0", "jax": "#2f9e6e"}


@dataclasses.dataclass(frozen=True)
class Drift:
    """Distances after every step, relative to the size of all weights.

    Attributes:
        recipe: Its name.
        between: The two sides.
        within: Side -> from itself, the largest over several changes.
    """

    recipe: str
    between: np.ndarray
    within: Mapping[str, np.ndarray]

    @property
    def ratios(self) -> np.ndarray:
        """Return, per step, the sides' distance over the larger distance from themselves."""
        return self.between / np.maximum(*self.within.values())

    @property
    def ok(self) -> bool:
        return bool((self.ratios <= K).all())

    def lines(self) -> list[Line]:
        """Return the curves of a plot over the steps."""
        found = []
        for name, distances in {BETWEEN: self.between, **self.within}.items():
            label = name if name == BETWEEN else f"{name} from itself, images changed by 1 ulp"
            points = [(i, float(d), f"step {i}: {d:.2g}") for i, d in enumerate(distances, 1)]
            found.append(Line(label, COLOURS[name], points, dashed=name != BETWEEN))
        return found

    def rows(self, every: int = 10) -> list[tuple[int, float, float, float, float]]:
        """Step, the sides' distance, torch's and jax's from themselves, and the ratio."""
        last = len(self.between)
        steps = [1, *range(every, last, every), last]
        theirs, ours = (self.within[side] for side in SIDES)
        return [
            (n, *(float(a[n - 1]) for a in (self.between, theirs, ours, self.ratios)))
            for n in steps
        ]

    def to_dict(self) -> dict[str, object]:
        """Return the values as a dict for JSON."""
        return {
            "recipe": self.recipe,
            "ok": self.ok,
            "limit": K,
            "largest ratio": float(self.ratios.max()),
            "between": self.between.tolist(),
            "within": {side: a.tolist() for side, a in self.within.items()},
        }


def measure(
    recipe: Recipe, steps: int, changes: int = 2, progress: Progress = lambda _: None
) -> Drift:
    """Train both sides on a scaled-down recipe in float32, and each again on changed images.

    Args:
        recipe: A published one.
        steps: Number of steps of each run.
        changes: Number of repetitions of each side, on changed images.
        progress: Called with the name of the next run.
    """
    made = scaled_down(recipe, steps, "fp32")

    def weights(side: str, change: Callable[[Batch], Batch] = lambda b: b) -> list[np.ndarray]:
        trained = TrainedSide(side, made, change=lambda batch: change(noisy(batch)), quickly=False)
        return [joined(after.arrays) for after in trained.steps(steps)]

    plain = {}
    for side in SIDES:
        progress(f"{recipe.name}: {side}")
        plain[side] = weights(side)
    within = {}
    for side in SIDES:
        found = []
        for i in range(changes):
            progress(f"{recipe.name}: {side}, images changed {i + 1}/{changes}")
            found.append(distances(weights(side, Ulp(i)), plain[side]))
        within[side] = np.max(found, axis=0)
    return Drift(recipe.name, distances(plain["jax"], plain["torch"]), within)


class Ulp:
    """Moves every pixel to one of its neighbours in float32, drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, batch: Batch) -> Batch:
        rng = draw.generator(self.seed, "ulp", *map(int, batch.samples[:1]))
        ends = rng.choice(np.array([-np.inf, np.inf], np.float32), batch.images.shape)
        return batch._replace(images=np.nextafter(batch.images, ends))


def noisy(batch: Batch) -> Batch:
    """Add noise of up to half a grey level, so that no two pixels are equal."""
    rng = draw.generator(0, "noise", *map(int, batch.samples[:1]))
    noise = rng.uniform(-NOISE, NOISE, batch.images.shape).astype(np.float32)
    return batch._replace(images=batch.images + noise)


def joined(arrays: Arrays) -> np.ndarray:
    """Concatenate all parameters and statistics, without counters, to one vector."""
    return np.concatenate([np.ravel(a) for _, a in sorted(arrays.items()) if a.dtype.kind == "f"])


def distances(one: list[np.ndarray], other: list[np.ndarray]) -> np.ndarray:
    """Return each step's relative distance; stages may train networks of other sizes."""
    pairs = zip(one, other, strict=True)
    return np.array([norm(a.astype(np.float64) - b) / norm(b) for a, b in pairs])
