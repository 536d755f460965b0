"""Checkpoints written from memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.preprocessing import Preprocessing
from weights_convert import load, save
from weights_convert.inspection import inspect
from weights_convert.naming import NAMING_SCHEMES
from weights_convert.numbering import parameters
from weights_convert.optimizer import Optimizer

CONFIG = dataclasses.replace(MODELS["genet"], depth=10, width=1)
ARRAYS = weights(CONFIG, 0)


def adam(step: int) -> Optimizer:
    """Moments that are all different, of every parameter but one."""
    keys = parameters(CONFIG)[1:]
    slots = {
        slot: {k: weights(CONFIG, seed)[k] for k in keys}
        for seed, slot in enumerate(("exp_avg", "exp_avg_sq"), start=1)
    }
    return Optimizer("adam", step, slots, {"lr": 0.5})


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz", ".msgpack", ""])
@pytest.mark.parametrize("naming_scheme", ["torch", "jax"])
def test_what_is_saved_is_loaded(suffix: str, naming_scheme: str, tmp_path: Path) -> None:
    """Catches a layout or a slot that is not brought back, and numbers that are rounded."""
    path, state = tmp_path / f"x{suffix}", adam(7)
    said = Preprocessing((8, 16), classes=tuple("abcdefghij"))
    save(path, CONFIG, ARRAYS, naming_scheme, optimizer=state, preprocessing=said)
    found = load(path)
    assert (found.config, found.naming_scheme) == (CONFIG, naming_scheme)
    assert found.manifest is not None
    assert found.manifest.preprocessing == said
    assert found.arrays.keys() == ARRAYS.keys()
    assert all(np.array_equal(found.arrays[k], ARRAYS[k]) for k in ARRAYS)
    assert found.optimizer is not None
    assert found.optimizer.describe(CONFIG) == state.describe(CONFIG)
    flat = state.flat()
    assert found.optimizer.flat().keys() == flat.keys()
    assert all(np.array_equal(found.optimizer.flat()[k], flat[k]) for k in flat)


def test_metadata_is_kept_where_there_is_room_and_refused_elsewhere(tmp_path: Path) -> None:
    """Catches a run's state that is dropped without a word."""
    save(tmp_path / "x.safetensors", CONFIG, ARRAYS, metadata={"run": "{}"})
    assert load(tmp_path / "x.safetensors").metadata == {"run": "{}"}
    assert inspect(tmp_path / "x.safetensors").metadata == {"run": "{}"}
    with pytest.raises(InputError, match="torch has no room for metadata"):
        save(tmp_path / "x.pth", CONFIG, ARRAYS, metadata={"run": "{}"})
    with pytest.raises(InputError, match="is the manifest's name"):
        save(tmp_path / "x.safetensors", CONFIG, ARRAYS, metadata={"parity": "{}"})
    assert [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_network_that_files_do_not_tell_is_loaded_by_its_config(tmp_path: Path) -> None:
    """Catches a checkpoint that can be written and not be read: the variant shows in no tensor."""
    enet = MODELS["enet"]
    small = dataclasses.replace(enet, blocks=enet.blocks[:2])
    arrays = weights(small, 3)
    save(tmp_path / "x.safetensors", small, arrays, "jax")
    found = load(tmp_path / "x.safetensors", config=small)
    assert found.config == small
    assert all(np.array_equal(found.arrays[k], arrays[k]) for k in arrays)
    with pytest.raises(InputError, match="is missing"):
        load(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match="do not match"):
        load(tmp_path / "x.safetensors", config=enet)


def test_arrays_of_another_network_are_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    """Catches a checkpoint that is overwritten before its successor is known to be whole."""
    path = tmp_path / "x.safetensors"
    save(path, CONFIG, ARRAYS)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"fc\.bias is missing"):
        save(path, CONFIG, {k: v for k, v in ARRAYS.items() if k != "fc.bias"})
    assert path.read_bytes() == before


@pytest.mark.parametrize("naming_scheme", NAMING_SCHEMES)
def test_every_naming_scheme_of_a_network_can_be_saved(naming_scheme: str, tmp_path: Path) -> None:
    """Catches a naming scheme whose names the writer does not know."""
    config = MODELS["enet-mindspore"]
    arrays = weights(config, 0)
    save(tmp_path / "x.safetensors", config, arrays, naming_scheme, labels="void-last")
    found = load(tmp_path / "x.safetensors", "enet-mindspore")
    assert found.labels == "void-last"
    assert all(np.array_equal(found.arrays[k], arrays[k]) for k in arrays if k not in found.filled)
