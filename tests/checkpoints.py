"""Small checkpoints, and how files are compared and refused, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from parity.spec.errors import InputError
from weights_convert import formats

SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.count": np.array(2**40)}


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether two sets of arrays have the same names, dtypes, shapes and bits."""

    def facts(arrays: dict[str, np.ndarray]) -> dict:
        return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}

    return facts(found) == facts(expected)


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        formats.read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)
    return str(caught.value)
