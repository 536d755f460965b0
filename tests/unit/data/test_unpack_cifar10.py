"""CIFAR-10 of JPEGs in one `.npz`: what is written of it, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import cifar10
from parity.spec.errors import InputError
from tests.batches import arrays
from tests.unpack_cifar10 import decoded, main, unpack

IMAGES, LABELS = arrays(0)


def jpegs(path: Path, **changed: np.ndarray) -> Path:
    """A `.npz` of six JPEGs in each split."""
    arrays = {}
    for split in cifar10.SPLITS:
        files = []
        for image in IMAGES:
            Image.fromarray(image).save(file := io.BytesIO(), "JPEG")
            files.append(file.getvalue())
        arrays[f"{split}_jpeg"] = np.frombuffer(b"".join(files), np.uint8)
        arrays[f"{split}_offsets"] = np.cumsum([0, *map(len, files)])
        arrays[f"{split}_labels"] = LABELS.astype(np.uint8)
    np.savez(path, **(arrays | changed))
    return path


def test_unpack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches an image at the place of another, and a file left out."""
    source = jpegs(tmp_path / "in.npz")
    assert main([str(source), str(tmp_path / "out")]) == 0
    assert "6 of train, 6 of test" in capsys.readouterr().out
    images, labels = cifar10.load(tmp_path / "out", "train")
    assert labels.tolist() == LABELS.tolist()
    arrays = np.load(source)
    for i in range(6):
        start, end = arrays["train_offsets"][i : i + 2]
        with Image.open(io.BytesIO(arrays["train_jpeg"][start:end].tobytes())) as picture:
            np.testing.assert_array_equal(images[i], np.asarray(picture))


def test_the_first_of_each_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a part of the data set that is not the first images of each file."""
    source = jpegs(tmp_path / "in.npz")
    assert main([str(source), str(tmp_path / "out"), "--first", "1"]) == 0
    assert "5 of train, 1 of test" in capsys.readouterr().out  # the first file would hold two
    assert main([str(source), str(tmp_path / "none"), "--first", "0"]) == 2
    assert "--first 0: expected 1 or more" in capsys.readouterr().err
    _, labels = cifar10.load(tmp_path / "out", "train")
    assert labels.tolist() == [LABELS[i] for i in (0, 2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_labels": np.full(6, 10, np.uint8)}, "label 10 in train, expected 0 to 9"),
        ({"train_labels": np.zeros(5, np.uint8)}, "train_offsets do not fit 5 images"),
        ({"train_offsets": np.arange(7)[::-1].copy()}, "train_offsets do not fit 6 images"),
        ({"train_offsets": np.arange(7) + 10**6}, "expected 5 images or more in 1000006 bytes"),
        ({"train_offsets": np.arange(7)}, "image 0 of train: not a JPEG"),
        ({"train_labels": np.array([None] * 6)}, "no .npz file, or a damaged one"),
        ({"train_jpeg": np.zeros(10, np.float32)}, "train_jpeg is float32 of 1 dimensions"),
    ],
)
def test_unpack_refuses(tmp_path: Path, changed: dict[str, np.ndarray], message: str) -> None:
    """Catches a data set made of what is no data set, and half of one left behind."""
    source = jpegs(tmp_path / "in.npz", **changed)
    with pytest.raises(InputError, match=message) as caught:
        unpack(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["in.npz"]


def test_unpack_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a data set written over another, and a traceback where no file is."""
    (tmp_path / "out").mkdir()
    source = jpegs(tmp_path / "in.npz")
    assert main([str(source), str(tmp_path / "out")]) == 2
    assert "is there already" in capsys.readouterr().err
    for name, data in (("none.npz", None), ("text.npz", b"text"), ("cut.npz", None)):
        if name == "cut.npz":
            data = source.read_bytes()[:2000]
        if data is not None:
            (tmp_path / name).write_bytes(data)
        assert main([str(tmp_path / name), str(tmp_path / "new")]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert main([str(source), str(tmp_path / "no" / "new")]) == 2
    assert "no folder" in capsys.readouterr().err


def test_real_images(shared: Path) -> None:
    """Catches a file of another layout than the one at hand, and labels of other images."""
    images, labels = decoded(shared / "data" / "cifar10" / "cifar10_jpeg.npz", "test", 1)
    assert images.shape == (10_000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [1000] * 10
    blue = [float((images[labels == k] @ [-1, 0, 1]).mean()) for k in range(10)]
    assert set(np.argsort(blue)[-2:]) == {0, 8}  # sky and sea, of airplanes and ships
