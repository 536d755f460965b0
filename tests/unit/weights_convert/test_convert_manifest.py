"""The manifest that `convert` writes, and manifests that do not fit."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from parity.data.cityscapes import CITYSCAPES
from parity.spec.errors import InputError
from parity.spec.preprocessing import Preprocessing
from tests.checkpoints import equal
from tests.converting import Sources
from weights_convert import convert, formats, load, manifest
from weights_convert.formats import sidecar
from weights_convert.hashes import file_sha256


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


@pytest.fixture
def pth(sources: Sources) -> Path:
    return sources("pth")


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_manifest(pth: Path, tmp_path: Path, name: str) -> None:
    """Catches a manifest that is lost, or says something else than what is there."""
    assert load(pth).manifest is None
    done = convert(pth, tmp_path / "first.safetensors", labels="void-first")
    first = load(tmp_path / "first.safetensors")
    convert(tmp_path / "first.safetensors", tmp_path / name, to="torch")
    found = load(tmp_path / name)
    assert found.manifest == manifest.Manifest(
        network="enet",
        config={"num_classes": 20, "encoder_relu": False, "decoder_relu": True},
        naming_scheme="torch",
        labels="void-first",  # from the first conversion
        preprocessing=Preprocessing((512, 1024), classes=("void", *CITYSCAPES.classes), void=0),
        optimizer=None,
        source_sha256=first.sha256,
        tensors=done.manifest.tensors,  # the same in every format
        tensors_sha256=done.manifest.tensors_sha256,
        tool_version=manifest.tool_version(),
    )
    convert(tmp_path / name, tmp_path / "last.pth", labels="void-last")
    assert load(tmp_path / "last.pth").labels == "void-last"


def test_hash_of_a_file_and_of_a_directory(pth: Path, tmp_path: Path) -> None:
    """Catches a hash that is not of the bytes, or does not see a renamed file."""
    assert load(pth).sha256 == hashlib.sha256(pth.read_bytes()).hexdigest()
    hashes = set()
    for name in ("a", "b"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text("same")
        hashes.add(file_sha256(tmp_path / "x"))
        (tmp_path / "x" / name).unlink()
    assert len(hashes) == 2


def change_tensor(path: Path) -> None:
    contents = formats.read(path)
    contents.arrays["transposed_conv.kernel"][0, 0, 0, 0] += 1
    path.unlink()
    formats.write(path, "safetensors", contents.arrays, contents.metadata)


def change_manifest(**entries: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        contents = formats.read(path)
        said = sidecar.unseal(contents.metadata["parity"], "it") | entries
        path.unlink()
        formats.write(path, "safetensors", contents.arrays, {"parity": sidecar.seal(said)})

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_tensor, "does not hold the tensors its manifest was written for"),
        (change_manifest(network="erfnet"), "says network erfnet, found enet"),
        (change_manifest(config={"num_classes": 3}), "says config {'num_classes': 3}, found"),
        (change_manifest(naming_scheme="torch"), "says naming scheme torch, found jax"),
        (change_manifest(labels="void"), "says labels 'void', expected one of void-last"),
        (change_manifest(version=99), "is not of version 2 of parity-suite's"),
        (change_manifest(more=1), "expected exactly network, config"),
        (change_manifest(tensors=[]), "expected objects as config and tensors"),
        (change_manifest(preprocessing={"mean": [0, 0, 0]}), "three numbers with a decimal point"),
    ],
)
def test_manifest_that_does_not_fit(
    pth: Path, tmp_path: Path, change: Callable[[Path], None], what: str
) -> None:
    """Catches weights that are not those which the manifest speaks of."""
    convert(pth, tmp_path / "x.safetensors")
    change(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=what):
        load(tmp_path / "x.safetensors")


VERSION_1 = '{"tool": "parity-suite", "version": 1}'


def test_the_way_out_of_version_1(sources: Sources, tmp_path: Path) -> None:
    """Catches a checkpoint of an older version that nobody can read any more, or a wrong hint."""
    source = sources("jax safetensors")
    save_file(load_file(source), tmp_path / "old", {"parity": VERSION_1})
    with pytest.raises(InputError, match=r"save its tensors without metadata \(load_file, save_"):
        load(tmp_path / "old")
    save_file(load_file(tmp_path / "old"), tmp_path / "new")
    assert load(tmp_path / "new").manifest is None
    assert equal(load(tmp_path / "new").arrays, load(source).arrays)


def test_manifests_of_others_and_damaged_ones(pth: Path, tmp_path: Path) -> None:
    """Catches a foreign file taken for ours, and a damaged one passed over."""
    shutil.copy(pth, tmp_path / "x.pth")
    beside = tmp_path / "x.pth.manifest.json"
    beside.write_text('{"tool": "another"}')
    assert load(tmp_path / "x.pth").manifest is None
    for text, what in (("{", "no JSON object"), (VERSION_1, "or of version 1, .*: remove it, and")):
        beside.write_text(text)
        with pytest.raises(InputError, match=what):
            load(tmp_path / "x.pth")
    beside.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path / "x.pth")
