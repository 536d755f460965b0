"""A data set in one file: it trains bit for bit as the folder does, and damage is refused."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from parity.cli import main
from parity.data import pipeline
from parity.data.pack import pack
from parity.data.records import HEADER, OPTIONS, Contents, Records, sample_bytes
from parity.spec.augmentation import Flip, Resize
from parity.spec.errors import InputError
from parity.spec.recipes import RECIPES
from parity.training.data_loader import DataLoader
from tests.tiny_data import SIZE, data, equals, tiny


@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("name", ["enet-camvid", "erfnet-cityscapes", "enet-cityscapes"])
def test_it_trains_as_the_folder(tmp_path: Path, name: str, sized: bool) -> None:
    """Catches pixels or labels that packing changed, and an order of its own."""
    recipe = tiny(name)
    root = data(tmp_path / "data", recipe)
    (tmp_path / "packed").mkdir()
    for split in ("train", "val"):
        file = tmp_path / "packed" / f"{split}.array_record"
        found = pack(root, file, split=split, size=SIZE if sized else None)
        assert (found.data, found.split, found.count) == (recipe.data, split, 7)
        assert found.size == (SIZE if sized else None)
    for packed in (tmp_path / "packed", tmp_path / "packed" / "train.array_record"):
        sources = [pipeline.open_source(recipe, r, "train") for r in (root, packed)]
        batches = [list(pipeline.batches(s, recipe, recipe.stages[0], 1)) for s in sources]
        assert equals(*batches) == 4
    sources = [pipeline.open_source(recipe, r, "val") for r in (root, tmp_path / "packed")]
    assert equals(*(pipeline.validation(s, recipe, recipe.stages[0]) for s in sources)) == 4
    names = [DataLoader(recipe, r, workers=0).name(3) for r in (root, tmp_path / "packed")]
    assert names[0] == names[1]  # of a picture of it


@pytest.mark.parametrize("name", ["icnet-cityscapes", "enet-mindspore", "genet-cifar10"])
def test_it_trains_as_the_folder_at_its_own_size(tmp_path: Path, name: str) -> None:
    """Catches the same for recipes that begin with anything but a resize, also in a worker."""
    recipe = tiny(name, size=(32, 32) if name.startswith("genet") else SIZE)
    root = data(tmp_path / "data", recipe)
    pack(root, tmp_path / "packed", recipe.data)
    sources = [pipeline.open_source(recipe, r, "train") for r in (root, tmp_path / "packed")]
    assert equals(
        pipeline.batches(sources[0], recipe, recipe.stages[0], 0),
        pipeline.batches(sources[1], recipe, recipe.stages[0], 0, workers=1),
    )
    for i in range(len(sources[0])):
        np.testing.assert_array_equal(sources[0].label(i), sources[1].label(i))
    assert sources[0].reader.identity() != sources[1].reader.identity()


def test_a_resized_file_is_refused_where_it_would_train_otherwise(tmp_path: Path) -> None:
    """Catches a recipe that flips, crops or blurs first fed with images already resized."""
    recipe = tiny("enet-camvid")
    root = data(tmp_path / "data", recipe)
    for split in ("train", "val"):
        pack(root, tmp_path / split, split=split, size=SIZE)
    path = tmp_path / "train"
    flipped = dataclasses.replace(recipe.stages[0], augmentation=(Flip(), Resize(SIZE)))
    other = dataclasses.replace(recipe, stages=(recipe.stages[0], flipped))
    with pytest.raises(InputError, match="16x24, but stage whole of enet-camvid does something"):
        pipeline.open_source(other, path, "train")
    larger = tiny("enet-camvid", size=(24, 32))
    with pytest.raises(InputError, match="resized to 16x24, but stage whole"):
        pipeline.open_source(larger, path, "train")
    with pytest.raises(InputError, match="16x24, but enet-camvid validates at 24x32"):
        pipeline.open_source(larger, tmp_path / "val", "val")


def test_another_file_is_refused(tmp_path: Path) -> None:
    """Catches a training on the validation split, or on another data set's labels."""
    recipe = tiny("enet-camvid")
    path = tmp_path / "train.array_record"
    pack(data(tmp_path / "data", recipe), path)
    with pytest.raises(InputError, match="holds split 'train', expected 'val'"):
        pipeline.open_source(recipe, path, "val")
    with pytest.raises(InputError, match="holds data set 'camvid', expected 'cityscapes'"):
        pipeline.open_source(RECIPES["enet-cityscapes"], path, "train")


def test_a_file_brings_the_other_splits_beside_it(tmp_path: Path) -> None:
    """Catches a training on one packed file that is refused, or validates on what it trains on."""
    recipe = tiny("enet-camvid")
    root = data(tmp_path / "data", recipe)
    train, val = tmp_path / "train.array_record", tmp_path / "val.array_record"
    pack(root, train)
    pack(root, val, split="val")
    for given in (train, val):
        found = [pipeline.open_source(recipe, given, split).root for split in ("train", "val")]
        assert found == [train, val]
    named = train.rename(tmp_path / "mine.array_record")
    assert pipeline.open_source(recipe, named, "train").root == named
    assert pipeline.open_source(recipe, named, "val").root == val
    val.unlink()
    words = "mine.array_record holds split 'train', expected 'val', or val.array_record beside it"
    with pytest.raises(InputError, match=words) as caught:
        pipeline.open_source(recipe, named, "val")
    missing = f"{val} is missing, parity pack --split val writes it"
    assert missing in str(caught.value)
    with pytest.raises(InputError) as caught:  # the same of the folder
        pipeline.open_source(recipe, named.rename(train).parent, "val")
    assert f"holds train.array_record, expected val.array_record, too: {missing}" in str(
        caught.value
    )


def small(path: Path) -> Path:
    """A file of seven small samples."""
    pack(data(path.parent / "data", tiny("enet-camvid")), path, size=(4, 6))
    return path


def read_all(path: Path) -> list[tuple[bytes, bytes]]:
    records = Records(path)
    return [tuple(np.asarray(part).tobytes() for part in records[i]) for i in range(len(records))]


def test_damaged_files(tmp_path: Path) -> None:
    """Catches damage that trains: each mutant is refused in one line, or it is harmless."""
    path = small(tmp_path / "good")
    whole, good = path.read_bytes(), read_all(path)
    used = [i for i in range(len(whole)) if whole[i]]
    rng, refused = random.Random(0), []
    for kind in range(150):
        mutant = bytearray(whole)
        if kind % 3 == 0:
            mutant[rng.choice(used)] ^= 1 << rng.randrange(8)
        elif kind % 3 == 1:
            mutant = mutant[: rng.randrange(len(whole))]
        else:
            mutant += rng.randbytes(rng.randrange(1, 100))
        (tmp_path / "bad").write_bytes(mutant)
        try:
            assert read_all(tmp_path / "bad") == good
        except InputError as error:
            refused.append(str(error))
    assert len(refused) > 120
    assert all("bad" in line and "\n" not in line for line in refused)


def written(path: Path, *records: bytes) -> Path:
    writer = ArrayRecordWriter(str(path), OPTIONS)
    for record in records:
        writer.write(record)
    writer.close()
    return path


IMAGE, LABEL = np.zeros((4, 6, 3), np.uint8), np.zeros((4, 6), np.uint8)
CLASSES = tuple("abc")
SAMPLE = sample_bytes("a", IMAGE, LABEL)
SAID = Contents("camvid", "train", CLASSES, None, 1, "0" * 64)


def said(**changed: object) -> bytes:
    return json.dumps(json.loads(SAID.to_bytes()) | changed).encode()


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ((), "no file of"),
        ((said(),), "no file of"),
        ((SAMPLE, SAMPLE), "not one of `parity pack`"),
        ((SAMPLE, b"[" * 100_000), "not one of `parity pack`"),
        ((SAMPLE, b"[]"), "not one of `parity pack`"),
        ((SAMPLE, b"{}"), "not one of `parity pack`"),
        ((SAMPLE, said(version=2)), "version 2 of its format, expected 1"),
        ((SAMPLE, said(count=2)), "does not speak of its 1 samples"),
        ((SAMPLE, said(count=True)), "does not speak of its 1 samples"),
        ((SAMPLE, said(size=[0, 1])), "does not speak of its 1 samples"),
        ((SAMPLE, said(classes=[])), "does not speak of its 1 samples"),
        ((SAMPLE, said(classes=["a"] * 300)), "does not speak of its 1 samples"),
        ((SAMPLE, said(classes=[1])), "does not speak of its 1 samples"),
        ((SAMPLE, said(more=1)), "does not speak of its 1 samples"),
        ((SAMPLE, said(size=[6, 4])), "record 0 is 4x6, expected 6x4"),
        ((SAMPLE, said(sha256="0")), "not those that it was written with"),
        ((SAMPLE[:-1], said()), r"record 0 has \d+ bytes, expected another number"),
        ((SAMPLE + b"x", said()), r"record 0 has \d+ bytes, expected another number"),
        ((b"abc", said()), "record 0 has 3 bytes, expected a sample"),
        ((HEADER.pack(2**32 - 1, 2**32 - 1, 0), said()), "expected another number"),
        ((HEADER.pack(0, 0, 0), said()), "expected another number"),
        ((HEADER.pack(4, 6, 2**32 - 1) + SAMPLE[12:], said()), "expected another number"),
        ((sample_bytes("a", IMAGE, LABEL + 4), said()), "record 0 has label 4, expected 0 to 3"),
        ((sample_bytes("a", IMAGE, 3), said(data="cifar10")), "has label 3, expected 0 to 2"),
    ],
)
def test_hostile_files(tmp_path: Path, records: tuple[bytes, ...], message: str) -> None:
    """Catches a file whose checksums are right and whose contents are not."""
    path = written(tmp_path / "file", *records)
    with pytest.raises(InputError, match=message) as caught:
        Records(path).verify()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("content", [b"", b"text", bytes(100_000), b"\x89PNG" * 50_000])
def test_no_such_file(tmp_path: Path, content: bytes) -> None:
    """Catches a traceback for a file of another kind, and a folder taken for one."""
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InputError, match="file: no file of `parity pack`, or a damaged one"):
        pipeline.open_source(tiny("enet-camvid"), tmp_path / "file", "train")


def test_pack_writes_all_or_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches half a file, and an old one lost, when a sample turns out to be bad."""
    root, target = data(tmp_path / "data", tiny("enet-camvid")), tmp_path / "out.array_record"
    target.write_bytes(b"old")
    (root / "train" / "6.png").write_bytes(b"no image")
    assert main(["pack", str(root), str(target)]) == 2
    error = capsys.readouterr().err
    assert "6.png: not an image" in error
    assert error.count("\n") == 1
    assert target.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data", "out.array_record"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no", "out.array_record"], "no: no such folder"),
        (["data", "no/out.array_record"], "no folder"),
        (["data", "data/train/0.png"], "data/train/0.png: expected a name that ends with .array_"),
        (["data", "out.array_record", "--size", "x"], "size 'x', expected HEIGHTxWIDTH"),
        (["data", "out.array_record", "--size", "0x10"], "size '0x10', expected"),
        (["data", "out.array_record", "--split", "test"], "no split 'test', found train, val"),
        (["data", "out.array_record", "--dataset", "cityscapes"], "not cityscapes, expected"),
        (["data", "out.array_record", "--dataset", "cifar10"], "not cifar10, expected"),
    ],
)
def test_pack_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Catches a file made of nothing, or of another data set than was asked for."""
    data(tmp_path / "data", tiny("enet-camvid"))
    monkeypatch.chdir(tmp_path)
    assert main(["pack", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.array_record").exists()
    assert (tmp_path / "data" / "train" / "0.png").read_bytes().startswith(b"\x89PNG")


def test_pack_takes_the_former_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches `--data NAME`, as `--dataset` was called before, ignored or taken without a hint."""
    data(tmp_path / "data", tiny("enet-camvid"))
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "data", "out.array_record", "--data", "cifar10"]) == 2
    hint, error = capsys.readouterr().err.splitlines()
    assert "hint: " in hint
    assert "--dataset cifar10" in hint
    assert "not cifar10, expected" in error
