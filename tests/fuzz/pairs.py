"""From every format to every other, under every network's every name: bit by bit."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from tests.fuzz.samples import SUFFIXES
from weights_convert import convert, formats, load, naming
from weights_convert.paths import MINDSPORE

# Format -> the dtypes that it cannot hold.
CANNOT = {"npz": ("bfloat16",)}


@dataclasses.dataclass
class Pairs:
    """What became of one network's weights on the way from each format to each.

    Attributes:
        network: A key of `MODELS`.
        naming_scheme: Whose names the files carried.
        dtype: Of the weights.
        parameters: How many numbers the network has.
        tried: How many ordered pairs.
        equal: How many ended with the bits they began with.
        refused: How many were refused because a format cannot hold the dtype.
        without: How many tensors have no name in the naming scheme, and are not carried.
        faults: What else happened, a line each.
    """

    network: str
    naming_scheme: str
    dtype: str
    parameters: int = 0
    tried: int = 0
    equal: int = 0
    refused: int = 0
    without: int = 0
    faults: list[str] = dataclasses.field(default_factory=list)

    @property
    def ok(self) -> bool:
        return self.tried > 0 and self.equal + self.refused == self.tried and not self.faults


def smallest(name: str) -> Config:
    """A variant as it is, or narrower where files can say so: GENet and ICNet."""
    config: Any = MODELS[name]
    if config.family == "genet":
        return dataclasses.replace(config, depth=10, width=1)
    if config.family == "icnet":
        return dataclasses.replace(config, blocks=(1, 1, 1, 1), width=8)
    return config


def cases(whole: bool) -> Iterator[tuple[str, str, str]]:
    """Network, naming scheme and dtype of each case.

    Args:
        whole: Also dtypes of the networks as they are, not only of the narrow ones.
    """
    for name in MODELS:
        family = MODELS[name].family
        for naming_scheme in naming.NAMING_SCHEMES:
            if naming_scheme != "mindspore" or (family in MINDSPORE and "mindspore" in name):
                yield name, naming_scheme, "float32"
    for dtype in ("float64", "float16", "bfloat16"):
        for name in MODELS if whole else ("genet",):
            yield name, "torch", dtype


def endure(
    folder: Path,
    case: tuple[str, str, str],
    config: Config,
    progress: Callable[[str], None] = lambda _: None,
) -> Pairs:
    """Carry one network from each format to each.

    Args:
        folder: Where files are made.
        case: Network, naming scheme and dtype.
        config: Of the network: as it is, or a narrower one.
        progress: Called with what is done next.
    """
    name, naming_scheme, dtype = case
    own = folder / "pairs"
    own.mkdir()
    found = Pairs(*case)
    arrays = {k: _cast(np.asarray(a), dtype) for k, a in weights(config, 1).items()}
    found.parameters = sum(a.size for a in arrays.values())
    expected = naming.carried(config, arrays, naming_scheme)
    found.without = sum(bool(a.any() and not expected[k].any()) for k, a in arrays.items())
    model = name if config == MODELS[name] else MODELS[name].family
    for start in formats.FORMATS:
        if dtype in CANNOT.get(start, ()):
            found.tried += len(formats.FORMATS)
            found.refused += len(formats.FORMATS)
            continue
        source = own / f"from{SUFFIXES[start]}"
        formats.write(source, start, naming.to_naming_scheme(config, arrays, naming_scheme), {})
        for end in formats.FORMATS:
            progress(f"pairs, {name}, {naming_scheme} names, {dtype}: {start} to {end}")
            target = own / f"to{SUFFIXES[end]}"
            found.tried += 1
            try:
                convert(source, target, model, naming_scheme)
                same = _same(load(target, model).arrays, expected)
            except InputError as error:
                allowed = dtype in CANNOT.get(end, ()) and "cannot hold" in str(error)
                found.refused += allowed
                if not allowed:
                    found.faults.append(f"{start} to {end}: {error}")
                continue
            found.equal += same
            if not same:
                found.faults.append(f"{start} to {end}: other numbers")
    shutil.rmtree(own)
    return found


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(formats.base.numpy_dtype(dtype)) if array.dtype.kind == "f" else array


def _same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    return list(found) == list(expected) and all(
        found[k].dtype == a.dtype
        and found[k].shape == a.shape
        and found[k].tobytes() == a.tobytes()
        for k, a in expected.items()
    )
