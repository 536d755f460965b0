"""What `convert` refuses, what it replaces, and what a failure costs: nothing."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.report.console import working
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig
from tests.checkpoints import SMALL, equal
from tests.converting import ARRAYS, Capture, Sources, fails
from weights_convert import convert, formats, load


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def pth(sources: Sources) -> Path:
    return sources("pth")


def test_bad_sources(tmp_path: Path, capsys: Capture) -> None:
    """Catches a traceback, a page of usage, or a file written for a source that is none."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.pth").touch()
    target = tmp_path / "x.safetensors"
    for name, what in (
        ("missing.pth", "does not exist"),
        ("", "is a directory, but not an Orbax checkpoint"),
        ("empty.pth", "is empty"),
        ("empty.pth/x", "does not exist"),
        ("x" * 300, "File name too long"),
    ):
        message = fails(capsys, tmp_path / "in" / name, target)
        assert what in message
        assert str(tmp_path / "in" / name) in message
    assert os.listdir(tmp_path) == ["in"]


def test_offending_keys(tmp_path: Path, capsys: Capture) -> None:
    """Catches a checkpoint with a fault converted all the same, or only one fault told."""
    arrays = dict(ARRAYS["20 classes"])
    arrays["regular9_9.weight"] = arrays.pop("regular1_1.ext_conv1.0.weight")
    arrays["regular1_2.ext_conv1.0.weight"] = arrays["regular1_2.ext_conv1.0.weight"][:, :3]
    formats.write(tmp_path / "in.pth", "torch", arrays, {})
    message = fails(capsys, tmp_path / "in.pth", tmp_path / "x.orbax")
    assert "in.pth: 3 tensors do not match" in message
    assert "regular1_1.ext_conv1.0.weight is missing" in message
    assert "regular9_9.weight is not expected" in message
    assert "regular1_2.ext_conv1.0.weight is 16x3x1x1, expected 16x64x1x1" in message
    assert os.listdir(tmp_path) == ["in.pth"]


def test_bad_targets(pth: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches work done, or something lost, for a target that cannot be written."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    for name, what in (
        ("x.onnx", "unknown suffix '.onnx', expected one of .pth"),
        ("nothing/x.pth", "is not a folder"),
        ("file/x.pth", "is not a folder"),
        ("folder", "not an Orbax checkpoint: not replaced"),
        ("file", "is not an Orbax checkpoint: not replaced"),
        ("x" * 300, "File name too long"),
    ):
        message = fails(capsys, pth, tmp_path / name)
        assert what in message
        assert str(tmp_path / name) in message
    (tmp_path / "folder").rename(tmp_path / "folder.pth")
    assert "is a directory, expected a file" in fails(capsys, pth, tmp_path / "folder.pth")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.pth"]
    assert os.listdir(tmp_path / "folder.pth") == ["kept"]
    assert (tmp_path / "file").read_text() == "kept"


def test_source_and_target_in_one(sources: Sources, tmp_path: Path, capsys: Capture) -> None:
    """Catches a source that its own conversion overwrites."""
    shutil.copy(sources("pth"), tmp_path / "x.pth")
    shutil.copytree(sources("orbax"), tmp_path / "x.orbax")
    (tmp_path / "link.pth").symlink_to("x.pth")
    os.link(tmp_path / "x.pth", tmp_path / "hard.pth")
    (tmp_path / "x.orbax" / "inside.pth").write_bytes((tmp_path / "x.pth").read_bytes())
    for source, target, what in (
        ("x.pth", "x.pth", "are the same"),
        ("x.pth", "../" + tmp_path.name + "/x.pth", "are the same"),
        ("x.pth", "link.pth", "are the same"),
        ("x.pth", "hard.pth", "are the same"),
        ("x.orbax", "x.orbax", "are the same"),
        ("x.orbax", "x.orbax/y.pth", "one lies in the other"),
        ("x.orbax/inside.pth", "x.orbax", "one lies in the other"),
    ):
        assert what in fails(capsys, tmp_path / source, tmp_path / target)
    assert equal(load(tmp_path / "x.pth").arrays, ARRAYS["20 classes"])
    assert equal(load(tmp_path / "x.orbax").arrays, ARRAYS["20 classes"])


def test_choices(pth: Path, tmp_path: Path) -> None:
    """Catches an unknown naming scheme or order of labels that passes for a known one."""
    with pytest.raises(InputError, match="to is 'keras', expected one of torch, jax"):
        convert(pth, tmp_path / "x.pth", to="keras")
    with pytest.raises(InputError, match="labels is 'none', expected one of void-last, void-first"):
        convert(pth, tmp_path / "x.pth", labels="none")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_replaces_what_is_there(sources: Sources, tmp_path: Path, name: str) -> None:
    """Catches remains of the old checkpoint, or of temporary files, beside the new one."""
    for source, labels in (("12 classes", "void-first"), ("20 classes", None)):
        convert(sources("pth", source), tmp_path / name, labels=labels)
        expected = [name] if name != "x.pth" else [name, f"{name}.manifest.json"]
        assert sorted(os.listdir(tmp_path)) == expected
    found = load(tmp_path / name)
    assert found.config.num_classes == 20
    assert found.labels is None


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_a_full_disk_costs_nothing(
    pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
) -> None:
    """Catches an old checkpoint lost, or a temporary file left, when writing fails."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    formats.write(tmp_path / name, formats.format_for(Path(name)), SMALL, {"parity": "{}"})
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"parity.io.replacing.os.{call}", full)
            patch.setattr("parity.io.replacing._exchange", lambda *_: False)
            message = fails(capsys, pth, tmp_path / name)
        assert f"cannot write {tmp_path / name}: No space left on device" in message
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_was_written_is_read_back(
    pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Catches a file that does not hold what it should counted as written."""
    real = formats.write

    def wrong(path: Path, format: str, arrays: dict, metadata: dict, optimizer: None) -> None:
        key = next(iter(arrays))
        real(path, format, {**arrays, key: -arrays[key]}, metadata, optimizer)

    monkeypatch.setattr(formats, "write", wrong)
    with pytest.raises(InputError, match=r"read back, .* differ"):
        convert(pth, tmp_path / name)
    assert not os.listdir(tmp_path)


def test_names_that_a_terminal_would_obey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a key of the file that writes lines of its own into the summary or the error."""
    arrays = {k: torch.from_numpy(np.array(v)) for k, v in weights(MODELS["enet"], 0).items()}
    torch.save({"state_dict": arrays, "x\x1b[2J\nverified": 1}, tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b.npz")]) == 0
    assert "not carried: x\\x1b[2J\\nverified\n" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "no\nsuch"), str(tmp_path / "b.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [b"\xff.npz", "\u00e9.npz".encode()])
def test_a_name_that_the_output_cannot_show(tmp_path: Path, name: bytes) -> None:
    """Catches a traceback after the work is done, because a name cannot be printed."""
    arrays = weights(GENetConfig(depth=10, width=1), 0)
    formats.write(tmp_path / "in", "safetensors", arrays, {})
    command = [sys.executable, "-m", "parity", "convert", tmp_path / "in"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    target = os.fsencode(tmp_path) + b"/" + name
    done = subprocess.run([*command, target], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"verified  read back" in done.stdout


def test_progress_of_a_path_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a path such as a[/b].npz taken for markup: a traceback on a terminal."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with working() as progress:
        progress("reading a[/b].npz")
    assert "a[/b].npz" in sys.stderr.getvalue()


class Terminal(io.StringIO):
    """Says that a person looks at it."""

    def isatty(self) -> bool:
        return True
