"""What `parity inspect` says of a file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from tests.scenes import save_weights
from weights_convert import convert, formats
from weights_convert.inspection import inspect


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "a.pth"
    arrays = weights(MODELS["enet-camvid"], 0)
    tensors = {f"module.{k}": torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    torch.save({"state_dict": tensors, "epoch": 3}, path)
    return path


def test_without_manifest(source: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Catches a fact that is wrong, left out, or that differs between the text and the JSON."""
    file = tmp_path / "facts.json"
    assert main(["inspect", str(source), "--json", str(file)]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert lines == {
        "file": f"{source}, {source.stat().st_size:,} bytes",
        "sha256": digest,
        "format": "torch, under the key 'state_dict'",
        "names": "torch, each after 'module.'",
        "network": "enet: num_classes 12, encoder_relu False, decoder_relu True",
        "outputs": "void unknown",
        "tensors": "622: 534 float32, 88 int64",
        "numbers": "359,348, of which 350,652 are parameters",
        "manifest": "none: unverified",
        "beside": "epoch",
    }
    found = json.loads(file.read_text())
    assert found["sha256"] == digest
    assert found["verified"] is False
    assert found["tensors"]["module.transposed_conv.weight"] == {
        "dtype": "float32",
        "shape": [16, 12, 3, 3],
    }


@pytest.mark.parametrize("suffix", ["safetensors", "orbax", "msgpack", "npz"])
def test_with_manifest(source: Path, suffix: str, tmp_path: Path) -> None:
    """Catches a manifest that is not verified, or that is but was not looked at."""
    target = tmp_path / f"b.{suffix}"
    convert(source, target, labels="void-first")
    found = inspect(target)
    assert (found.format, found.naming_scheme, found.prefix) == (suffix, "jax", "")
    assert found.verified
    assert found.checkpoint.labels == "void-first"
    assert found.parameters == 350_652


def test_another_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a stranger's file refused, or taken for one of ours."""
    metadata = {"by": "them\x1b[31m"}
    formats.write(tmp_path / "x", "safetensors", {"a.weight": np.zeros((2, 3))}, metadata)
    assert main(["inspect", str(tmp_path / "x"), "--tensors"]) == 0
    out = capsys.readouterr().out
    assert "network   unknown: has no name of a known network (enet, " in out
    assert "; it has a.weight\n" in out
    assert "a.weight  float64   2x3" in out
    assert "metadata  by: them\\x1b[31m" in out
    with pytest.raises(InputError, match="441 tensors of enet are missing, such as initial_"):
        inspect(tmp_path / "x", "enet")


def test_damaged(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a file described that is not what its manifest says, or that cannot be read."""
    target = tmp_path / "b.npz"
    convert(source, target)
    arrays = formats.read(target).arrays
    arrays["transposed_conv.kernel"][0, 0, 0, 0] += 1
    formats.write(target, "npz", arrays, formats.read(target).metadata)
    assert main(["inspect", str(target)]) == 2
    shown = capsys.readouterr()
    what = "does not hold the tensors its manifest was written for"
    assert f"{what}: damaged, or changed since" in shown.err
    assert "transposed_conv.weight" in shown.err
    assert not shown.out
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.endswith("nothing does not exist\n")


def test_json_over_the_checkpoint(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches the checkpoint, or its manifest, replaced by what is said of it."""
    convert(source, tmp_path / "x.npz")
    convert(source, tmp_path / "y.orbax")
    (tmp_path / "z.npz").symlink_to("x.npz")
    inside = tmp_path / "y.orbax" / "parity.json"
    manifest = tmp_path / "x.npz.manifest.json"
    for file, target in [
        ("x.npz", tmp_path / "x.npz"),
        ("x.npz", manifest),
        ("x.npz", tmp_path / "z.npz"),
        ("z.npz", tmp_path / "x.npz"),
        ("z.npz", manifest),
        ("y.orbax", inside),
    ]:
        before = target.read_bytes()
        assert main(["inspect", str(tmp_path / file), "--json", str(target)]) == 2
        assert f"{target}: belongs to" in capsys.readouterr().err
        assert target.read_bytes() == before


def test_an_optimizer_left_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a state that cannot be carried, of which nothing is said."""
    config = MODELS["enet-camvid"]
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in weights(config, 0).items()}
    state = {"state": {0: {"sum": torch.ones(1)}}, "param_groups": [{"params": [0]}]}
    torch.save({"state_dict": tensors, "optimizer": state}, tmp_path / "a.pth")
    assert main(["inspect", str(tmp_path / "a.pth")]) == 0
    assert "beside    optimizer (it is of 1 parameters" in capsys.readouterr().out


def test_a_classifier_has_no_void(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches "void unknown" of a network whose outputs are classes of whole images."""
    path = save_weights(tmp_path / "genet.pth", weights(MODELS["genet"], 0))
    assert main(["inspect", str(path)]) == 0
    assert "void is" not in (out := capsys.readouterr().out)
    assert "void unknown" not in out
