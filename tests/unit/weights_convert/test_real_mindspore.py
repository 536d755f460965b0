"""MindSpore itself reads what we write, and we read what it writes; in an environment of its own.

It needs NumPy 1, so it cannot be installed beside JAX. `pytest -m mindspore` makes the environment,
400 MB, once, where `parity.io.compilation_cache` keeps what can be made again.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from parity.spec.draw import weights
from parity.spec.models import MODELS
from tests.mindspore_environment import mindspore_python
from weights_convert import convert, formats, load, naming

pytestmark = pytest.mark.mindspore

SIDE = Path(__file__).parents[2] / "mindspore_side.py"


@pytest.fixture(scope="session")
def python() -> Path:
    """The Python of an environment with MindSpore."""
    return mindspore_python()


def ask(python: Path, *arguments: str | Path) -> None:
    command = [python, SIDE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode < 0:  # MindSpore itself ended by SIGBUS, once in some hundred starts
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def facts(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    return {
        name: [array.dtype.name, list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in arrays.items()
    }


def every_dtype() -> dict[str, np.ndarray]:
    """Signs of zero, infinities, a scalar, numbers that float32 cannot hold."""
    base = np.array([[0.0, -0.0, 1.5], [np.inf, -np.inf, -2.0]])
    arrays = {f"x.{name}": base.astype(name) for name in ("float64", "float32", "float16")}
    arrays |= {"x.int64": np.array([-(2**62), 2**40 + 1]), "x.int32": np.array([7], np.int32)}
    return arrays | {"x.bool": np.array([True, False]), "x.scalar": np.array(2**33 + 1)}


@pytest.mark.parametrize(
    "model", ["enet-mindspore", "erfnet-mindspore", "erfnet-mindspore-encoder", None]
)
def test_mindspore_reads_what_we_write(python: Path, model: str | None, tmp_path: Path) -> None:
    """Catches a message, name, dtype, shape or byte that MindSpore understands otherwise."""
    if model:
        config = MODELS[model]
        arrays = naming.to_naming_scheme(config, weights(config, 0), "mindspore")
    else:
        arrays = every_dtype()
        arrays["x.bfloat16"] = np.array([1.5, -0.0, 2.0**100]).astype(ml_dtypes.bfloat16)
    formats.write(tmp_path / "x.ckpt", "mindspore", arrays, {})
    ask(python, "read", tmp_path / "x.ckpt", tmp_path / "facts.json")
    assert json.loads((tmp_path / "facts.json").read_text()) == facts(arrays)


def test_mindspore_reads_slices(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a large tensor cut otherwise than MindSpore joins it."""
    monkeypatch.setattr("weights_convert.formats.mindspore_file.SLICE", 1000)
    arrays = {"a": np.arange(1500, dtype=np.float32).reshape(3, 500), "b": np.zeros(2, np.int32)}
    formats.write(tmp_path / "x.ckpt", "mindspore", arrays, {})
    ask(python, "read", tmp_path / "x.ckpt", tmp_path / "facts.json")
    assert json.loads((tmp_path / "facts.json").read_text()) == facts(arrays)


def test_we_read_what_mindspore_writes(python: Path, tmp_path: Path) -> None:
    """Catches a message, dtype or trailer of MindSpore's that we do not understand."""
    arrays = every_dtype()
    np.savez(tmp_path / "x.npz", **arrays, **{"x.bfloat16": np.array([1.5, -2.0], np.float32)})
    ask(python, "write", tmp_path / "x.npz", tmp_path / "x.ckpt")
    expected = facts(arrays | {"x.bfloat16": np.array([1.5, -2.0]).astype(ml_dtypes.bfloat16)})
    assert facts(formats.read(tmp_path / "x.ckpt").arrays) == expected


def test_a_network_there_and_back(python: Path, tmp_path: Path) -> None:
    """Catches a network that MindSpore's own writing changes, or that we refuse afterwards."""
    config = MODELS["enet-mindspore"]
    named = naming.to_naming_scheme(config, weights(config, 0), "mindspore")
    formats.write(tmp_path / "x.npz", "npz", named, {})
    ask(python, "write", tmp_path / "x.npz", tmp_path / "x.ckpt")
    found = load(tmp_path / "x.ckpt")
    assert found.config == config
    convert(tmp_path / "x.ckpt", tmp_path / "back.ckpt")
    assert facts(formats.read(tmp_path / "back.ckpt").arrays) == facts(named)


def test_adam_goes_on(python: Path, tmp_path: Path) -> None:
    """Catches MindSpore's Adam whose step 21 is another one after its state was carried.

    Through PyTorch's file, and through JAX's names in two formats, and back. Without the powers of
    its betas that step is twice too long.
    """
    config = MODELS["erfnet-mindspore-encoder"]
    named = naming.to_naming_scheme(config, weights(config, 0), "mindspore")
    np.savez(tmp_path / "x.npz", **named)
    arrays = tmp_path / "x.npz"
    ask(python, "train", arrays, "new", "1", "20", tmp_path / "20.ckpt")
    ask(python, "train", arrays, "new", "1", "21", tmp_path / "21.ckpt")
    expected = facts(formats.read(tmp_path / "21.ckpt").arrays)
    for middle, to in (("a.pth", "torch"), ("a.npz", "jax"), ("a.safetensors", "jax")):
        convert(tmp_path / "20.ckpt", tmp_path / middle, to=to)
        convert(tmp_path / middle, tmp_path / "back.ckpt")
        ask(python, "train", arrays, tmp_path / "back.ckpt", "21", "21", tmp_path / "on.ckpt")
        assert facts(formats.read(tmp_path / "on.ckpt").arrays) == expected, middle
