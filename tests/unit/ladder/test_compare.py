"""The checker is checked: what it must not let pass."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from parity.capture.records import NETWORK
from parity.ladder.tolerances import (
    Difference,
    K,
    Measurement,
    difference,
    floor,
    spread_difference,
)
from parity.ladder.verdicts import judge
from parity.report.quantity import Kind, Quantity
from parity.spec import draw
from parity.spec.models import MODELS

ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("port", "reference", "note"),
    [
        (None, ONES, "missing in the port"),
        (ONES, None, "missing in the reference"),
        (ONES[:1], ONES, "shape"),  # would broadcast
        (ONES.astype(np.float32), ONES, "dtype"),  # float64 that fell back
        (ONES.astype(int), ONES, "dtype"),
        (np.ones((0, 3)), np.ones((0, 4)), "shape"),
        (np.full((2, 3), np.nan), np.full((2, 3), np.nan), "not finite"),
        (ONES, np.full((2, 3), np.inf), "reference are not finite"),
        (np.full((2, 3), np.inf), np.full((2, 3), np.inf), "not finite"),
    ],
)
def test_incomparable(port: np.ndarray, reference: np.ndarray, note: str) -> None:
    """Catches a comparison that lets pass what it cannot compare."""
    found = difference(port, reference)
    assert math.isinf(found.distance)
    assert note in found.note


def test_empty_arrays_are_equal_where_something_else_is_compared() -> None:
    """Catches a cache without tokens that fails a port, and a rung that compared no element."""
    empty = difference(np.ones((0, 3)), np.ones((0, 3)))
    assert empty == Difference(0.0)
    nothing = measured(elements=0, norm=0.0, structure=empty)
    assert all(c.ok for c in judge("L1", [measured(), nothing]))
    (alone,) = judge("L1", [nothing])
    assert not alone.ok
    assert "no elements" in alone.note
    # Statistics do not stand for a network that returned nothing.
    returned = dataclasses.replace(nothing, layer=NETWORK)
    assert [c.ok for c in judge("L2", [measured(), returned])] == [True, False]
    both = [returned, dataclasses.replace(measured(), layer=NETWORK)]
    assert all(c.ok for c in judge("L2", both))


def test_an_empty_array_is_no_repeated_row() -> None:
    """Catches an array without rows that is taken for one whose rows are all equal."""
    assert "shape" in spread_difference(np.ones((1, 3)), np.ones((0, 3))).note
    assert "shape" in spread_difference(np.ones((0, 3)), np.ones((1, 3))).note


def test_difference_is_located() -> None:
    """Catches a signed sum, where errors cancel, and an index into the wrong place."""
    port = ONES.copy()
    port[0, 1], port[1, 2] = 3.0, -2.0
    found = difference(port, ONES)
    assert found.distance == pytest.approx(math.sqrt(4 + 9))
    assert (found.index, found.reference, found.port) == ((1, 2), 1.0, -2.0)
    integers = difference(np.array([1, 2, 4]), np.array([1, 2, 3]))
    assert (integers.distance, integers.index) == (pytest.approx(1 / 3), (2,))


def gradient(path: str) -> Quantity:
    return Quantity(Kind.PARAMETER_GRADIENT, path)


def measured(**changes: object) -> Measurement:
    output = Quantity(Kind.OUTPUT, index=0)
    base = Measurement("l", "l", output, ("Conv2d", output), 1e-10, 100, 1.0, Difference(0.0))
    return dataclasses.replace(base, **changes)


def test_structure_has_a_fixed_limit() -> None:
    """Catches a limit that grows with the error."""
    good, bad = judge(
        "L1", [measured(structure=Difference(9e-11)), measured(structure=Difference(1.1e-10))]
    )
    assert good.ok
    assert not bad.ok
    assert not judge("L1", [measured(norm=0.0, structure=Difference(1e-30))])[0].ok


def test_numerics_follow_the_reference() -> None:
    """Catches a port that is less exact than K times what the reference and the data allow."""
    for factor, ok in ((0.99, True), (1.01, False)):
        m = measured(numerics=Difference(factor * (K * 3e-7 + floor("float32"))))
        m = dataclasses.replace(m, reference_distance=1e-7, sensitivity=2e-7)
        assert judge("L1", [m])[1].ok is ok


def test_a_lucky_number_condemns_nobody() -> None:
    """Catches a single number that nearly cancels being judged by itself."""
    peers = [measured(elements=1, norm=1.0, numerics=Difference(0.0), reference_distance=1e-6)] * 2
    lucky = measured(elements=1, norm=1e-9, numerics=Difference(1e-6))
    lucky = dataclasses.replace(lucky, structure=Difference(1e-15))
    assert all(check.ok for check in judge("L3", [*peers, lucky]))
    wrong = dataclasses.replace(lucky, numerics=Difference(1e-3), structure=Difference(1e-3))
    assert not any(check.ok for check in judge("L3", [*peers, wrong])[-2:])


def test_a_bias_before_a_norm_is_one_more_tap() -> None:
    """Catches rounding of a gradient that is zero being condemned, and a fault of it let pass."""
    kernel = measured(quantity=gradient("kernel"), elements=400, norm=2.0)
    for apart, ok in ((1e-17, True), (0.9e-10, True), (1.1e-10, False)):
        bias = measured(quantity=gradient("bias"), elements=100, norm=1e-17)
        bias = dataclasses.replace(bias, structure=Difference(apart))  # the limit is 1e-10
        assert judge("L3", [kernel, bias])[1].ok is ok
    norm = measured(quantity=gradient("scale"), elements=100, norm=2.0)
    assert not judge("L3", [norm, bias])[1].ok
    other = dataclasses.replace(kernel, layer="another")
    assert not judge("L3", [other, dataclasses.replace(bias, structure=Difference(1e-17))])[1].ok


SIZE = (72, 136)


def test_draws_depend_on_their_key_only() -> None:
    """Catches masks that change with the order or the company in which they are drawn."""
    config = MODELS["enet"]
    both = draw.dropout_masks(config, SIZE, 1, 2, 3, [7, 9])
    one = draw.dropout_masks(config, SIZE, 1, 2, 3, [9])
    for site, mask in both.items():
        np.testing.assert_array_equal(mask[1:], one[site])
    others = [
        draw.dropout_masks(config, SIZE, *key, [9]) for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0))
    ]
    site = "dilated2_2"
    assert all((one[site] != other[site]).any() for other in others)
    many = draw.dropout_masks(config, SIZE, 0, 0, 0, range(300))
    assert abs(many[site].mean() - 0.9) < 0.01
    assert abs(many["regular1_1"].mean() - 0.99) < 0.01
    assert draw.dropout_masks(config, SIZE, 0, 0, 0, [])[site].shape == (0, 128)
    with pytest.raises(ValueError, match="counters"):
        draw.generator(0, "x", 1, 2, 3, 4)


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.01, 0.3, 0.5, 0.999])
def test_masks_keep_their_share(p: float) -> None:
    """Catches a probability rounded to 16 bits, bits used twice, and an odd number of them."""
    shape = (1001, 999)
    masks = draw.kept(p, shape, 0, "share", [(0, 1), (0, 2)])
    assert (masks.shape, masks.dtype) == ((2, *shape), bool)
    assert 0 < p < 1e-3 or p == 0 or (masks[0] != masks[1]).any()
    deviation = (p * (1 - p) * masks.size) ** 0.5
    assert abs((~masks).sum() - p * masks.size) <= 4 * deviation
    np.testing.assert_array_equal(draw.kept(p, shape, 0, "share", [(0, 2)])[0], masks[1])


def test_undecided_bits_are_decided() -> None:
    """Catches a probability of which 16 bits alone decide: those below 2 ** -16 would be 0."""
    p = 2.0**-17
    dropped = (~draw.kept(p, (1 << 20,), 0, "share", [(i,) for i in range(16)])).sum()
    assert abs(dropped - 128) <= 4 * 128**0.5
