"""Orbax directories: what users of NNX save, what lacks a part, a full disk."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from tests.checkpoints import SMALL, equal, refusal
from weights_convert import formats


@pytest.fixture(scope="module")
def orbax_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orbax") / "small"
    formats.write(path, "orbax", SMALL, {"parity": "{}"})
    return path


@pytest.mark.parametrize("as_state", [False, True])
def test_what_nnx_users_save(tmp_path: Path, as_state: bool) -> None:
    """Catches arrays of JAX restored as JAX's, and an `nnx.State` saved as it is refused."""

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.kernel = nnx.Param(jnp.arange(6.0).reshape(2, 3))
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    state = nnx.state(Net())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state if as_state else nnx.to_pure_dict(state))
    found = formats.read(tmp_path / "x").arrays
    assert set(found) == {"kernel", "norm.bias", "norm.mean", "norm.scale", "norm.var"}
    assert all(type(array) is np.ndarray for array in found.values())
    np.testing.assert_array_equal(found["kernel"], np.arange(6.0).reshape(2, 3))


def test_orbax_reads_what_we_write(orbax_directory: Path) -> None:
    """Catches a directory that only we can read, or int64 halved where JAX holds none."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax_directory)
    assert tree.keys() == {"a"}
    assert equal({f"a.{k}": v for k, v in tree["a"].items()}, SMALL)


@pytest.mark.parametrize("lost", ["_METADATA", "manifest.ocdbt", "d"])
def test_damaged_orbax_directory(
    tmp_path: Path, orbax_directory: Path, lost: str, capfd: pytest.CaptureFixture
) -> None:
    """Catches a directory with a part missing read as whole, and pages printed about it."""
    path = tmp_path / "x"
    shutil.copytree(orbax_directory, path)
    shutil.rmtree(path / lost) if (path / lost).is_dir() else (path / lost).unlink()
    refusal(path)
    assert capfd.readouterr().err == ""


def test_reads_end_before_the_error_is_told(tmp_path: Path) -> None:
    """Catches reads that outlive the one that failed: most times each of them prints a page.

    They outlived another read of Orbax's same handler, and one of another handler.
    """
    noise = np.random.default_rng(0)
    arrays = {f"x.a{i}": noise.random(1000) for i in range(600)}
    formats.write(tmp_path / "x", "orbax", arrays, {})
    formats.write(tmp_path / "y", "orbax", dict(list(arrays.items())[:20]), {})
    largest = max((tmp_path / "x").rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size * 9 // 10)
    said = json.loads((tmp_path / "y" / "_METADATA").read_text())
    said["tree_metadata"]["('x', 'a0')"]["value_metadata"]["value_type"] = "string"
    (tmp_path / "y" / "_METADATA").write_text(json.dumps(said))
    code = (
        "import sys, pathlib, time; from weights_convert import formats\n"
        "for path in sys.argv[1:] * 4:\n"
        "    try: formats.read(pathlib.Path(path))\n"
        "    except ValueError as error: print(error)\n"
        "time.sleep(0.5)\n"  # a read that is late still finds somebody to tell
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x"), str(tmp_path / "y")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("x", "y"):
        assert process.stdout.count(f"{name} is not a readable Orbax checkpoint: ") == 4
    assert process.stderr == ""


def test_a_folder_of_checkpoints_names_them(tmp_path: Path, orbax_directory: Path) -> None:
    """Catches a user of CheckpointManager left to guess which folder to name."""
    shutil.copytree(orbax_directory, tmp_path / "run" / "7" / "default")
    assert f"but {tmp_path / 'run' / '7' / 'default'} is one" in refusal(tmp_path / "run")


def test_orbax_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Orbax left to find out, whose threads print pages."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left"):
        formats.write(tmp_path / "x", "orbax", SMALL, {})
    assert not os.listdir(tmp_path)
