"""What travels with a checkpoint: its manifest, and what the user may say on the way."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig
from parity.spec.preprocessing import CIFAR10, Preprocessing, parse, published
from parity.spec.tensors import tensors
from weights_convert import convert, formats, load
from weights_convert.formats import sidecar

CONFIG = GENetConfig(depth=10, width=1)
SUFFIXES = [".pth", ".safetensors", ".npz", ".msgpack", ".orbax"]
WITH_SIDECAR = [suffix for suffix in SUFFIXES if suffix != ".safetensors"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        key: np.array(3) if t.kind == "count" else rng.standard_normal(t.shape).astype(np.float32)
        for key, t in tensors(CONFIG).items()
    }
    formats.write(tmp_path / "in", "safetensors", arrays, {})
    return tmp_path / "in"


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_byte_changes_unseen(source: Path, tmp_path: Path, suffix: str) -> None:
    """Catches a flipped bit, a lost or an added byte after which the file still loads."""
    good = tmp_path / "good" / f"x{suffix}"
    good.parent.mkdir()
    convert(source, good)
    rng = np.random.default_rng(1)
    for file in [f for f in good.parent.rglob("*") if f.is_file()]:
        for changed in mutants(file.read_bytes(), rng):
            shutil.copytree(good.parent, tmp_path / "bad")
            (tmp_path / "bad" / file.relative_to(good.parent)).write_bytes(changed)
            refusal(tmp_path / "bad" / good.name)
            shutil.rmtree(tmp_path / "bad")


def mutants(data: bytes, rng: np.random.Generator) -> list[bytes]:
    flips = []
    for at in rng.integers(0, len(data), 6):
        flipped = bytearray(data)
        flipped[at] ^= 1 << int(rng.integers(8))
        flips.append(bytes(flipped))
    return [*flips, data[: int(rng.integers(len(data)))], data + b"\n", data + b"\0"]


def test_a_manifest_under_another_name(source: Path, tmp_path: Path) -> None:
    """Catches a flipped bit in the key, after which the file would pass as one without manifest."""
    convert(source, tmp_path / "x.safetensors")
    contents = formats.read(tmp_path / "x.safetensors")
    metadata = {"qarity": contents.metadata["parity"]}
    formats.write(tmp_path / "y", "safetensors", contents.arrays, metadata)
    assert "its manifest is named 'qarity', expected 'parity'" in refusal(tmp_path / "y")


@pytest.mark.parametrize("suffix", WITH_SIDECAR)
def test_a_file_of_another_day(source: Path, tmp_path: Path, suffix: str) -> None:
    """Catches a manifest believed that speaks of another file."""
    convert(source, tmp_path / f"a{suffix}")
    contents = formats.read(tmp_path / f"a{suffix}")
    first = next(iter(contents.arrays))
    contents.arrays[first].flat[0] += 1
    target = tmp_path / f"b{suffix}"
    formats.write(target, formats.format_for(target), contents.arrays, {})
    shutil.copy(sidecar.place(tmp_path / f"a{suffix}"), sidecar.place(target))
    assert "is not what its manifest was written for" in refusal(target)


@pytest.mark.parametrize("old", ["verified", "unverified"])
def test_between_the_two_renames(source: Path, tmp_path: Path, old: str) -> None:
    """Catches an old file that is refused because the new manifest is there before the new file."""
    target, new = tmp_path / "x.npz", tmp_path / "new.npz"
    convert(source, target, labels="void-last")
    if old == "unverified":
        sidecar.place(target).unlink()
    convert(source, new, labels="void-first", dtype="float16")
    sidecar.covering(sidecar.place(new), target)
    shutil.copy(sidecar.place(new), sidecar.place(target))
    found = load(target)  # killed here
    assert found.labels == ("void-last" if old == "verified" else None)
    assert found.arrays["conv1.weight"].dtype == np.float32
    shutil.copy(new, target)
    assert load(target).labels == "void-first"
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["in", *(f"{n}{s}" for n in ("new.npz", "x.npz") for s in ("", sidecar.SUFFIX))]
    )


def test_replacing_leaves_a_plain_manifest(source: Path, tmp_path: Path) -> None:
    """Catches what is said of the replaced file kept for ever."""
    for labels in ("void-last", "void-first"):
        convert(source, tmp_path / "x.npz", labels=labels)
    assert "before" not in json.loads(sidecar.place(tmp_path / "x.npz").read_text())
    assert load(tmp_path / "x.npz").labels == "void-first"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_dtype(source: Path, tmp_path: Path, dtype: str) -> None:
    """Catches another rounding than to nearest, and a counter that is cast too."""
    arguments = ["convert", str(source), str(tmp_path / "x.safetensors"), "--dtype", dtype]
    assert main(arguments) == 0
    before, after = load(source).arrays, load(tmp_path / "x.safetensors").arrays
    for key, array in before.items():
        if array.dtype == np.int64:
            assert after[key].dtype == np.int64
            continue
        assert after[key].dtype.name == dtype
        error = np.abs(after[key].astype(np.float64) - array)
        half_step = {"float16": 2**-11, "bfloat16": 2**-8, "float64": 0}[dtype]
        assert (error <= half_step * np.abs(array) + 2**-25).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_rounded_once(source: Path, tmp_path: Path, sign: int) -> None:
    """Catches float64 rounded to float32 on its way to bfloat16: a tie that was none."""
    contents = formats.read(source)
    arrays = {k: a.astype(np.float64) if a.ndim else a for k, a in contents.arrays.items()}
    numbers = {
        1 + 2**-8 + 2**-40: 1 + 2**-7,
        1 + 2**-7 + 2**-8 - 2**-40: 1 + 2**-7,
        1 + 2**-8: 1,
        0.1: 0.10009765625,
        0: 0,
    }
    arrays["conv1.weight"].flat[: len(numbers)] = sign * np.array(list(numbers))
    formats.write(tmp_path / "in64", "safetensors", arrays, {})
    convert(tmp_path / "in64", tmp_path / "x.safetensors", dtype="bfloat16")
    found = load(tmp_path / "x.safetensors").arrays["conv1.weight"].flat[: len(numbers)]
    assert found.astype(float).tolist() == [sign * v for v in numbers.values()]


def test_a_number_too_large(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Catches an overflow that becomes infinity in silence."""
    contents = formats.read(source)
    contents.arrays["conv1.weight"].flat[3] = 1e5
    formats.write(tmp_path / "big", "safetensors", contents.arrays, {})
    target = tmp_path / "x.pth"
    assert main(["convert", str(tmp_path / "big"), str(target), "--dtype", "float16"]) == 2
    assert "big: conv1.weight: too large for float16" in capsys.readouterr().err
    assert not target.exists()


def test_a_manifest_from_before_the_release(source: Path, tmp_path: Path) -> None:
    """Catches a checkpoint of version 0 that is refused, since its naming scheme was a dialect."""
    convert(source, tmp_path / "x.safetensors")
    contents = formats.read(tmp_path / "x.safetensors")
    entries = json.loads(contents.metadata[sidecar.KEY])
    inner = {k: v for k, v in entries.items() if k != sidecar.SEAL}
    assert inner.pop("naming_scheme") == "jax"
    old = {sidecar.KEY: sidecar.seal(inner | {"dialect": "jax"})}
    formats.write(tmp_path / "old", "safetensors", contents.arrays, old)
    manifest = load(tmp_path / "old").manifest
    assert manifest is not None
    assert manifest.naming_scheme == "jax"
    assert manifest.to_dict()["dialect"] == "jax"  # as programs that read JSON know it


def test_from(source: Path, tmp_path: Path) -> None:
    """Catches the user's word on the names that is not taken."""
    assert load(source, naming_scheme="torch").naming_scheme == "torch"
    with pytest.raises(InputError, match="tensors do not match"):
        load(source, naming_scheme="jax")
    with pytest.raises(InputError, match="naming scheme is 'keras', expected one of torch, jax"):
        convert(source, tmp_path / "x.pth", naming_scheme="keras")
    assert main(["convert", str(source), str(tmp_path / "x.pth"), "--from", "jax"]) == 2


def test_preprocessing(source: Path, tmp_path: Path) -> None:
    """Catches what was given that is not kept, or not carried further."""
    given = {"size": [40, 48], "mean": [0.5, 0.25, 0.125], "channels": "BGR"}
    (tmp_path / "images.json").write_text(json.dumps(given))
    first, second = tmp_path / "x.npz", tmp_path / "y.orbax"
    arguments = ["--preprocessing", str(tmp_path / "images.json")]
    assert main(["convert", str(source), str(first), *arguments]) == 0
    convert(first, second)
    for path in (first, second):
        said = load(path).manifest.preprocessing
        assert said == Preprocessing((40, 48), (0.5, 0.25, 0.125), channels="BGR")
    convert(second, tmp_path / "z.pth", labels="void-last")
    assert load(tmp_path / "z.pth").manifest.preprocessing == said
    convert(source, tmp_path / "z.pth")
    assert load(tmp_path / "z.pth").manifest.preprocessing.mean == CIFAR10[0]


def test_labels_change_the_published_classes_alone(tmp_path: Path) -> None:
    """Catches a given mean lost with new labels, or void left where they no longer put it."""
    rng = np.random.default_rng(0)
    arrays = {
        key: np.array(3) if t.kind == "count" else rng.random(t.shape, np.float32)
        for key, t in tensors(MODELS["enet-camvid"]).items()
    }
    formats.write(tmp_path / "in", "safetensors", arrays, {})
    given = dataclasses.replace(published(MODELS["enet-camvid"], "void-last"), channels="BGR")
    convert(tmp_path / "in", tmp_path / "x.npz", labels="void-last", preprocessing=given)
    convert(tmp_path / "x.npz", tmp_path / "y.npz", labels="void-first")
    said = load(tmp_path / "y.npz").manifest.preprocessing
    first = published(MODELS["enet-camvid"], "void-first")
    assert said == dataclasses.replace(first, channels="BGR")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is not JSON"),
        ("[]", "expected an object with only size, mean"),
        ('{"sizes": null}', "expected an object with only size, mean"),
        ('{"size": [1.5, 2]}', "size is .* expected two whole numbers"),
        ('{"std": [0.2, 0.2]}', "std is .* expected three numbers"),
        ('{"channels": "YUV"}', "channels is 'YUV', expected RGB or BGR"),
        ('{"classes": "road"}', "classes is 'road', expected a list of names"),
        ('{"size": [0, 32]}', "size is .* expected two whole numbers"),
        ('{"mean": [NaN, 0.0, 0.0]}', "mean is .* expected three numbers"),
        ('{"mean": [-1e999, 0.0, 0.0]}', "mean is .* expected three numbers"),
        ('{"std": [0.2, 0.2, 0.0]}', "std is .* expected three numbers above 0"),
        ('{"std": [0.2, 0.2, 1e999]}', "std is .* expected three numbers above 0"),
        ('{"void": -1}', "void is -1, expected an output's number"),
        ('{"void": 10}', "void is 10, the network has 10 outputs"),
        ('{"classes": ["road"]}', "1 classes, the network has 10 outputs"),
    ],
)
def test_bad_preprocessing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture, text: str, what: str
) -> None:
    """Catches a value of another kind that reaches the manifest, or a traceback."""
    (tmp_path / "i.json").write_text(text)
    arguments = ["convert", str(source), str(tmp_path / "x.pth")]
    assert main([*arguments, "--preprocessing", str(tmp_path / "i.json")]) == 2
    assert re.search(what, capsys.readouterr().err)
    assert not (tmp_path / "x.pth").exists()


def test_published() -> None:
    """Catches a class list of another data set, or void at the wrong end."""
    assert published(MODELS["enet"], "void-first").void == 0
    assert published(MODELS["enet"], "void-last").classes[19] == "void"
    assert published(MODELS["enet"], None).classes is None
    assert published(MODELS["enet-camvid"], "void-last").classes[0] == "sky"
    assert published(MODELS["enet-camvid"], "void-last").size == (360, 480)
    assert published(MODELS["icnet"], None).classes[18] == "bicycle"
    assert published(MODELS["icnet"], None).void is None
    assert published(MODELS["genet"], None).classes[9] == "truck"
    for name in MODELS:
        said = published(MODELS[name], None)
        assert parse(json.loads(json.dumps(said.to_dict())), "it") == said


def test_a_manifest_of_somebody_else_is_kept(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a file, a folder or even the source lost because its name is the new manifest's."""
    target = tmp_path / "x.npz"
    other = tmp_path / f"x.npz{sidecar.SUFFIX}"
    before = ("convert", str(source), str(target))

    def refused() -> None:
        assert main(list(before)) == 2
        assert f"{other} exists and is no manifest of parity-suite's" in capsys.readouterr().err
        assert not target.exists()

    other.write_text('{"mine": 1}')
    refused()
    assert other.read_text() == '{"mine": 1}'
    other.unlink()
    (other / "precious").mkdir(parents=True)
    refused()
    assert (other / "precious").is_dir()
    shutil.rmtree(other)
    convert(source, tmp_path / "y.safetensors")  # with our manifest in it
    os.replace(tmp_path / "y.safetensors", other)
    before = ("convert", str(other), str(target))
    refused()
    assert load(other)
    other.unlink()
    convert(source, target)
    convert(source, target)  # a manifest of ours gives way


@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("optimizer", {}, "its optimizer is none that we describe"),
        ("optimizer", [], "its optimizer is none that we describe"),
        ("optimizer", {"kind": "adam", "step": 1, "absent": [{}], "hyperparameters": {}}, "none"),
        ("config", {"extent": []}, "says config"),
        ("config", {"extent": 1e999}, "says config"),
        ("network", "a\nb", "expected texts as network"),
        ("tool_version", [1], "expected texts as network"),
        ("tensors", {"a\nb": ""}, "expected texts as network"),
        ("tensors", {"conv1.weight": 1}, "expected texts as network"),
    ],
)
def test_a_manifest_of_other_values(
    source: Path, tmp_path: Path, name: str, value: object, what: str
) -> None:
    """Catches a traceback, or lines at will, from a manifest that somebody made and sealed."""
    convert(source, tmp_path / "x.safetensors")
    contents = formats.read(tmp_path / "x.safetensors")
    entries = sidecar.unseal(contents.metadata["parity"], "x")
    text = sidecar.seal(entries | {name: value})
    formats.write(tmp_path / "y", "safetensors", contents.arrays, {"parity": text})
    assert re.search(what, refusal(tmp_path / "y"))


@pytest.mark.parametrize("entries", [{"before": 5}, {"before": {"file_sha256": "x"}}, {}])
def test_a_sidecar_of_other_values(source: Path, tmp_path: Path, entries: dict) -> None:
    """Catches a traceback from a manifest's file that somebody made and sealed."""
    convert(source, tmp_path / "x.npz")
    file = sidecar.place(tmp_path / "x.npz")
    said = sidecar.unseal(file.read_text().removesuffix("\n"), "x")
    said = said | {"file_sha256": "y", **entries} if entries else {"file_sha256": "y"}
    file.write_text(sidecar.seal(said) + "\n")
    assert "its entries are none that we write" in refusal(tmp_path / "x.npz")
    convert(source, tmp_path / "x.npz")


def test_a_link_finds_its_manifest(source: Path, tmp_path: Path) -> None:
    """Catches a file written through a link that is unverified when it is read through it."""
    (tmp_path / "real").mkdir()
    link = tmp_path / "latest.npz"
    link.symlink_to(tmp_path / "real" / "x.npz")
    convert(source, link, labels="void-last")
    assert load(link).labels == "void-last"
    with (tmp_path / "real" / "x.npz").open("ab") as file:
        file.write(b"\0")
    assert "is not what its manifest was written for" in refusal(link)


def test_metadata_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches text beside the tensors dropped in silence."""
    contents = formats.read(source)
    formats.write(tmp_path / "a", "safetensors", contents.arrays, {"licence": "its own"})
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b.safetensors")]) == 0
    assert "not carried: metadata licence\n" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "b.safetensors"), str(tmp_path / "c.npz")]) == 0
    assert "not carried" not in capsys.readouterr().out


def test_a_name_that_is_no_utf8(source: Path, tmp_path: Path) -> None:
    """Catches a traceback from a stray file in a directory, which its hash counts."""
    convert(source, tmp_path / "x.orbax")
    (tmp_path / "x.orbax" / os.fsdecode(b"\xff")).touch()
    assert "is not what its manifest was written for" in refusal(tmp_path / "x.orbax")
