"""Gradients through a weights function that sums or scales: compared along random directions.

Where the port's weights are w' = f(w), the gradient of one loss is g = J' g', with J the Jacobian
of f. For a direction v of the reference's weights, <g, v> = <g', J v>, and J v is what f makes of
w + v, less what it makes of w, if f is affine. A gradient that is wrong anywhere changes its
product with a random direction, with certainty.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from parity.capture.records import Arrays, is_float
from parity.ladder.elements import Converter, Watched
from parity.spec import draw

DIRECTIONS = 16  # as many numbers as are enough for a norm of their own; see `tolerances.FEW`
AFFINE = 1e-12  # relative deviation of f from a straight line that is rounding


@dataclasses.dataclass(frozen=True)
class Projection:
    """Tensors of the port and of the reference that a function ties together.

    Attributes:
        port: The port's names.
        reference: The reference's names.
        directions: Per direction, the reference's tensors -> the direction in each.
        images: Per direction, the port's tensors -> what the function makes of it.
    """

    port: tuple[str, ...]
    reference: tuple[str, ...]
    directions: tuple[Arrays, ...]
    images: tuple[Arrays, ...]

    def project(self, gradients: Arrays, ported: bool) -> np.ndarray | None:
        """Return the products of one side's gradients with the directions; None if it has none."""
        along = self.images if ported else self.directions
        if not any(name in gradients for name in along[0]):
            return None
        return np.array(
            [
                sum(
                    float((gradients[name].astype(np.float64) * v).sum())
                    for name, v in each.items()
                    if name in gradients
                )
                for each in along
            ]
        )


def projections(convert: Converter, source: Arrays, made: Sequence[str]) -> Iterator[Projection]:
    """Yield what ties tensors together that cannot be compared element by element.

    Args:
        convert: Maps the reference's arrays, in float64, to the port's.
        source: The reference's arrays.
        made: The port's names of those tensors.
    """
    before = _converted(convert, source)
    rng = draw.generator(0, "directions")
    floats = [name for name, array in source.items() if is_float(array.dtype) and array.size]
    if not all(name in before and before[name].dtype == np.float64 for name in made):
        return
    uses: dict[str, set[str]] = {name: set() for name in made}
    for key in floats:
        moved = _converted(convert, source | {key: source[key] + _drawn(source[key], rng)})
        for name in made:
            if name in moved and not np.array_equal(moved[name], before[name]):
                uses[name].add(key)
    for names, keys in _tied(uses):
        directions = [{k: _drawn(source[k], rng) for k in keys} for _ in range(DIRECTIONS)]
        images = [_image(convert, source, before, v) for v in directions]
        found = [image for image in images if image is not None]
        if len(found) == DIRECTIONS:
            yield Projection(names, keys, tuple(directions), tuple(found))


def _tied(uses: dict[str, set[str]]) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield the port's and the reference's tensors that hang together."""
    rest = {name: set(keys) for name, keys in uses.items() if keys}
    while rest:
        first, keys = next(iter(rest.items()))
        names = {first}
        while more := {n for n, k in rest.items() if k & keys} - names:
            names |= more
            keys = keys.union(*(rest[n] for n in more))
        rest = {n: k for n, k in rest.items() if n not in names}
        yield tuple(sorted(names)), tuple(sorted(keys))


def _image(
    convert: Converter,
    source: Arrays,
    before: Arrays,
    direction: Arrays,
) -> Arrays | None:
    """Return what the function makes of a direction; None if it is not affine."""
    once, twice = (
        _converted(convert, source | {k: source[k] + n * v for k, v in direction.items()})
        for n in (1, 2)
    )
    image: Arrays = {}
    for name, array in before.items():
        if not is_float(array.dtype) or np.array_equal(once.get(name, array), array):
            continue
        image[name] = once[name] - array
        scale = np.abs(array).max() + np.abs(image[name]).max()
        if np.abs(twice[name] - array - 2 * image[name]).max() > AFFINE * scale:
            return None
    return image


def _drawn(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal(array.shape)


def _converted(convert: Converter, source: Arrays) -> Arrays:
    """Apply the function; return nothing where it does not accept these values."""
    try:
        return {name: np.asarray(array) for name, array in convert(Watched(source)).items()}
    except Exception:  # it expects something of the values
        return {}
