"""Whole networks in memory: compared bit by bit and laid out, however their arrays lie."""

from __future__ import annotations

import threading

import ml_dtypes
import numpy as np
import pytest

from weights_convert.memory import BLOCK, ahead, contiguous, different

DTYPES = ("float64", "float32", "float16", ml_dtypes.bfloat16, "int64", "int32", "bool")


def numbers(shape: tuple[int, ...], dtype: object = "float32") -> np.ndarray:
    return (np.arange(int(np.prod(shape))) % 7).reshape(shape).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0, 3), (5,), (2, 3, 4, 5)])
def test_the_same_bits_are_equal(dtype: object, shape: tuple[int, ...]) -> None:
    """Catches an array called different from its copy, of any dtype and shape."""
    array = numbers(shape, dtype)
    assert different({"a": array}, {"a": array.copy()}) == []
    assert different({"a": array.T}, {"a": np.array(array.T, order="C")}) == []


@pytest.mark.parametrize(
    "shape", [(3 * BLOCK + 5,), (2, BLOCK + 1), (1, 1, 2 * BLOCK), (3, 3, 300, 200)]
)
@pytest.mark.parametrize("place", [0, 1, -1, -2])
def test_one_bit_anywhere_is_seen(shape: tuple[int, ...], place: int) -> None:
    """Catches a block that is left out where an array is compared block by block."""
    array = numbers(shape)
    other = array.copy()
    other.reshape(-1).view(np.uint32)[place] ^= 1
    assert different({"a": array}, {"a": other}) == ["a"]
    strided = np.array(array.T, order="C").T  # the same numbers, laid out otherwise
    assert different({"a": strided}, {"a": array}) == []
    assert different({"a": strided}, {"a": other}) == ["a"]


def test_bits_and_not_numbers_are_compared() -> None:
    """Catches -0 taken for 0, a NaN for none, and another dtype or shape for the same."""
    zero, nan = np.zeros(3, np.float32), np.full(3, np.nan, np.float32)
    assert different({"a": zero, "b": nan}, {"a": -zero, "b": nan.copy()}) == ["a"]
    assert different({"a": zero}, {"a": zero.view(np.int32)}) == ["a"]
    assert different({"a": zero}, {"a": zero[None]}) == ["a"]
    assert different({"a": zero}, {"b": zero}) == ["a", "b"]


def test_ahead_keeps_the_order_and_runs_on() -> None:
    """Catches items out of order, lost at the end, or made only when they are asked for."""
    begun = threading.Event()

    def function(item: int) -> int:
        if item:
            begun.set()
        return item * item

    made = ahead(function, range(10))
    assert next(made) == 0
    assert begun.wait(10)  # the next is made although nobody has asked
    assert [0, *made] == [i * i for i in range(10)]


def test_ahead_raises_what_went_wrong() -> None:
    """Catches an error in a thread that nobody hears of."""
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 // item, [1, 0, 1]))


def test_contiguous_copies_only_what_it_must() -> None:
    """Catches a second copy in memory of what lies in order already."""
    array = numbers((2, 3))
    made = contiguous({"a": array, "b": array.T})
    assert made["a"] is array
    assert made["b"].flags.c_contiguous
    assert (made["b"] == array.T).all()
