"""From every format to every other, under every network's every name: bit by bit."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from tests.checkpoints import equal
from tests.fuzz.result import FuzzRow, Job
from tests.fuzz.samples import SUFFIXES
from weights_convert import convert, formats, load, naming
from weights_convert.paths import MINDSPORE

# Format -> the dtypes that it cannot hold.
CANNOT = {"npz": ("bfloat16",)}


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


def endure(job: Job, case: tuple[str, str, str], config: Config) -> FuzzRow:
    """Carry one network from each format to each.

    Args:
        job: Where files are made.
        case: Network, naming scheme and dtype.
        config: Of the network: as it is, or a narrower one.
    """
    name, naming_scheme, dtype = case
    own = job.folder / "pairs"
    own.mkdir()
    what = f"{name}, {naming_scheme} names, {dtype}"
    row = FuzzRow("pairs", what)
    arrays = {k: np.asarray(a) for k, a in weights(config, 1).items()}
    cast = formats.base.numpy_dtype(dtype)
    arrays = {k: a.astype(cast) if a.dtype.kind == "f" else a for k, a in arrays.items()}
    expected = naming.carried(config, arrays, naming_scheme)
    without = sum(bool(a.any() and not expected[k].any()) for k, a in arrays.items())
    model = name if config == MODELS[name] else MODELS[name].family
    for start in formats.FORMATS:
        if dtype in CANNOT.get(start, ()):
            row.tried += len(formats.FORMATS)
            row.refused += len(formats.FORMATS)
            continue
        source = own / f"from{SUFFIXES[start]}"
        formats.write(source, start, naming.to_naming_scheme(config, arrays, naming_scheme), {})
        for end in formats.FORMATS:
            job.progress(f"pairs, {what}: {start} to {end}")
            target = own / f"to{SUFFIXES[end]}"
            row.tried += 1
            try:
                convert(source, target, model, naming_scheme)
                found = load(target, model).arrays
                same = list(found) == list(expected) and equal(found, expected)
            except InputError as error:
                allowed = dtype in CANNOT.get(end, ()) and "cannot hold" in str(error)
                row.refused += allowed
                if not allowed:
                    row.faults.append(f"{start} to {end}: {error}")
                continue
            row.loaded += same
            if not same:
                row.faults.append(f"{start} to {end}: other numbers")
    shutil.rmtree(own)
    row.note = f"{sum(a.size for a in arrays.values()):,} numbers, bitwise"
    row.note += f"; {without} tensors have no name there" if without else ""
    row.note += "; .npz holds no bfloat16" if row.refused else ""
    return row
