"""MindSpore's files and names: read, written, refused, and carried there and back."""

from __future__ import annotations

import dataclasses
import itertools
import zlib
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.tensors import STATISTICS, tensors
from tests.checkpoints import equal
from weights_convert import convert, formats, load, naming
from weights_convert.formats import mindspore_file
from weights_convert.inspection import inspect

# Golden case -> the model whose MindSpore port wrote it.
PORTS = {
    "enet_mindspore_c20": "enet-mindspore",
    "enet_mindspore_steps_c20": "enet-mindspore",
    "enet_mindspore_encoder_c20": "enet-mindspore-encoder",
    "erfnet_mindspore_c20": "erfnet-mindspore",
    "erfnet_mindspore_encoder_c20": "erfnet-mindspore-encoder",
}
STAGES = ("erfnet-mindspore", "erfnet-mindspore-encoder")

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a.count": np.array(7, np.int64),
    "b": np.zeros((0, 3), np.float16),
    "c": np.arange(200, dtype=np.float64),
}


def read_or_refuse(path: Path) -> formats.Contents | None:
    """What a file holds, or nothing where one line says what is wrong with it."""
    said = []
    try:
        return formats.read(path)
    except InputError as error:
        said = str(error).splitlines()
    assert len(said) == 1
    return None


def test_there_and_back(tmp_path: Path) -> None:
    """Catches a dtype, a shape, a scalar or an empty tensor that the file does not keep."""
    path = tmp_path / "x.bin"
    formats.write(path, "mindspore", ARRAYS, {})
    assert formats.sniff(path) == "mindspore"
    assert equal(formats.read(path).arrays, ARRAYS)


def test_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches the slices of a large tensor taken for several tensors, or put together wrongly."""
    monkeypatch.setattr(mindspore_file, "SLICE", 64)
    mindspore_file.write(tmp_path / "x.ckpt", ARRAYS)
    assert (tmp_path / "x.ckpt").read_bytes().count(b"\x0a\x01c\x12") == 25
    assert equal(mindspore_file.read(tmp_path / "x.ckpt").arrays, ARRAYS)


def test_checksum(tmp_path: Path) -> None:
    """Catches a file with a checksum refused, and one that does not match let pass."""
    path = tmp_path / "x.ckpt"
    mindspore_file.write(path, ARRAYS)
    data = path.read_bytes()
    path.write_bytes(data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big"))
    assert equal(formats.read(path).arrays, ARRAYS)
    path.write_bytes(data + b"crc_num" + (zlib.crc32(data) ^ 1).to_bytes(10, "big"))
    with pytest.raises(InputError, match="checksum"):
        formats.read(path)


def test_texts_are_skipped(tmp_path: Path) -> None:
    """Catches a text beside the tensors that stops the reading, or is dropped without a word."""
    text = "2.4".encode("utf-32-le")
    tensor = mindspore_file._bytes(2, b"str") + mindspore_file._bytes(3, text)
    value = mindspore_file._bytes(1, b"version") + mindspore_file._bytes(2, tensor)
    mindspore_file.write(tmp_path / "x.ckpt", ARRAYS)
    with (tmp_path / "x.ckpt").open("ab") as file:
        file.write(mindspore_file._bytes(1, value))
    found = formats.read(tmp_path / "x.ckpt")
    assert equal(found.arrays, ARRAYS)
    assert found.skipped == ("version",)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """Catches a part of a file taken for the whole, other than one that ends with a tensor."""
    path = tmp_path / "x.ckpt"
    mindspore_file.write(path, ARRAYS)
    data, whole = path.read_bytes(), []
    for n in range(1, len(data)):
        path.write_bytes(data[:n])
        if found := read_or_refuse(path):
            whole.append(found)
    assert [list(found.arrays) for found in whole] == [list(ARRAYS)[:i] for i in (1, 2, 3)]


def test_garbage_is_one_line(tmp_path: Path) -> None:
    """Catches a changed byte that ends in a traceback or in memory for what is not there."""
    path, rng = tmp_path / "x.ckpt", np.random.default_rng(0)
    mindspore_file.write(path, ARRAYS)
    data = path.read_bytes()
    for _ in range(500):
        wrong = bytearray(data)
        for at in rng.integers(0, 120, 2):
            wrong[at] = rng.integers(256)
        path.write_bytes(wrong)
        if found := read_or_refuse(path):
            assert sum(a.nbytes for a in found.arrays.values()) <= len(data)


@pytest.mark.parametrize("order", ["little", "big"])
def test_encrypted(order: str, tmp_path: Path) -> None:
    """Catches an encrypted file that is called garbage."""
    (tmp_path / "x.ckpt").write_bytes((0x7F3A5ED9).to_bytes(4, order) + bytes(100))
    with pytest.raises(InputError, match="encrypted"):
        formats.read(tmp_path / "x.ckpt")


@pytest.mark.parametrize("model", ["enet-mindspore", "erfnet-mindspore"])
def test_names_there_and_back(model: str) -> None:
    """Catches a path rule that makes two names one, loses a tensor, or is not undone."""
    config = MODELS[model]
    arrays = weights(config, 0)
    named = naming.to_naming_scheme(config, arrays, "mindspore")
    kept = naming.carried(config, arrays, "mindspore")
    lost = {k for k, a in kept.items() if a.size and not a.any()}
    assert all("num_batches_tracked" in k or "encoder.output_conv" in k for k in lost)
    assert len(named) == len(arrays) - len(lost)
    assert naming.detect(named) == "mindspore"
    assert naming.family_in(named, "mindspore") == config.family
    assert equal(naming.to_canonical(config, named, "mindspore"), kept)


@pytest.mark.parametrize("case", PORTS)
def test_names_and_order_are_mindspores(case: str, golden: Path) -> None:
    """Catches a block, layer or tensor named or placed otherwise than in MindSpore's own file.

    Its names and shapes, in its order, are written down in the golden files.
    """
    config = MODELS[PORTS[case]]
    kinds = tensors(config)
    with np.load(golden / f"{case}.npz") as file:
        theirs = list(zip(file["state_names"].tolist(), file["state_shapes"].tolist(), strict=True))
    ours = naming.names(config, "mindspore").items()
    assert [(name, "x".join(map(str, kinds[key].shape))) for name, (key, _) in ours] == theirs


@pytest.mark.parametrize("middle", ["a.pth", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("case", ["enet_mindspore_encoder_c20", "erfnet_mindspore_encoder_c20"])
def test_encoder_stages(case: str, middle: str, shared: Path, tmp_path: Path) -> None:
    """Catches an encoder of MindSpore's first two stages refused, or taken for a whole network.

    Carried through JAX's names, too, and back, it must be MindSpore's own file again.
    """
    source = shared / "checkpoints" / f"{case}.ckpt"
    config = MODELS[PORTS[case]]
    assert load(source).config == load(source, PORTS[case]).config == config
    trained = {k for k, t in tensors(config).items() if t.kind not in STATISTICS}
    numbers = sum(a.size for k, a in load(source).arrays.items() if k in trained and a.any())
    assert inspect(source).parameters == numbers
    convert(source, tmp_path / middle, to="torch" if middle == "a.pth" else "jax")
    done = convert(tmp_path / middle, tmp_path / "b.ckpt")
    assert done.lost == ()
    theirs, ours = formats.read(source).arrays, formats.read(tmp_path / "b.ckpt").arrays
    assert list(ours) == list(theirs)
    assert equal(ours, theirs)


@pytest.mark.parametrize(("model", "other"), [STAGES, STAGES[::-1]])
def test_a_stage_is_not_a_whole_network(model: str, other: str, tmp_path: Path) -> None:
    """Catches MindSpore's encoder stage read as a whole ERFNet whose decoder is 0."""
    config = MODELS[model]
    named = naming.to_naming_scheme(config, weights(config, 0), "mindspore")
    formats.write(tmp_path / "a.ckpt", "mindspore", named, {})
    with pytest.raises(InputError, match=rf"a\.ckpt holds .+, which {other} is not$"):
        load(tmp_path / "a.ckpt", other)


@pytest.mark.parametrize("model", ["enet-mindspore", "erfnet-mindspore"])
def test_any_number_of_classes(model: str, tmp_path: Path) -> None:
    """Catches a variant that is known by its twenty classes."""
    config = dataclasses.replace(MODELS[model], num_classes=5)
    named = naming.to_naming_scheme(config, weights(config, 0), "mindspore")
    formats.write(tmp_path / "a.ckpt", "mindspore", named, {})
    assert load(tmp_path / "a.ckpt").config == config


def test_no_such_names() -> None:
    """Catches a network without a port there written under made-up names."""
    with pytest.raises(InputError, match="genet has no mindspore names"):
        naming.names(MODELS["genet"], "mindspore")


def test_convert(golden: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a variant forgotten on the way, a bit changed, and zeros set without a word."""
    steps = [golden / "enet_mindspore_c20.ckpt"]
    steps += [tmp_path / name for name in ("a.safetensors", "b.pth", "c.ckpt")]
    for source, target in itertools.pairwise(steps):
        assert main(["convert", str(source), str(target)]) == 0
        assert load(target).config == MODELS["enet-mindspore"]
    out = capsys.readouterr().out
    counters = sum(t.kind == "count" for t in tensors(MODELS["enet-mindspore"]).values())
    assert out.count(f"absent    set to 0: {counters} tensors") == 1
    assert out.count("set to 0") == 1
    assert equal(formats.read(steps[-1]).arrays, formats.read(steps[0]).arrays)


def test_counters_are_said_to_be_lost(tmp_path: Path) -> None:
    """Catches counters that a MindSpore file cannot hold dropped silently."""
    config = MODELS["erfnet-mindspore"]
    formats.write(tmp_path / "a.pth", "torch", weights(config, 0), {})
    done = convert(tmp_path / "a.pth", tmp_path / "a.ckpt", "erfnet-mindspore")
    assert all("num_batches_tracked" in k or "encoder.output_conv" in k for k in done.lost)
    assert len(done.lost) > 2
    assert load(tmp_path / "a.ckpt").config == config


def test_the_variant_must_fit(tmp_path: Path) -> None:
    """Catches the published network's weights loaded as MindSpore's."""
    formats.write(tmp_path / "a.pth", "torch", weights(MODELS["enet"], 0), {})
    with pytest.raises(InputError, match="not enet-mindspore"):
        load(tmp_path / "a.pth", "enet-mindspore")
