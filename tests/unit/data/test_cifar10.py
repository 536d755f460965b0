"""CIFAR-10 in its official layout: what is read, and what is refused."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from parity.data import cifar10
from parity.spec.errors import InputError
from tests.batches import arrays, batch_bytes, cifar

IMAGES, LABELS = arrays(0)
BATCH = batch_bytes(IMAGES, LABELS, "training batch 1 of 5")


def contents() -> dict[str, object]:
    """What a batch holds, as Python 3 would have written it."""
    return {
        "batch_label": "training batch 1 of 5",
        "labels": LABELS.tolist(),
        "data": IMAGES.transpose(0, 3, 1, 2).reshape(len(IMAGES), -1).copy(),
        "filenames": ["a.png"] * len(IMAGES),
    }


def read(tmp_path: Path, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    path = tmp_path / "data_batch_1"
    path.write_bytes(data)
    return cifar10.read_batch(path)


# The official files name a module that NumPy 2 has moved, and it says so.
@pytest.mark.filterwarnings("ignore:numpy.core:DeprecationWarning")
def test_what_is_written_is_what_anybody_reads() -> None:
    """Catches a file that other readers of CIFAR-10 could not read, and planes out of order."""
    old = pickle.loads(BATCH, encoding="latin1")
    assert sorted(old) == ["batch_label", "data", "filenames", "labels"]
    assert sorted(pickle.loads(BATCH, encoding="bytes"))[0] == b"batch_label"
    assert (old["data"].shape, old["data"].dtype) == ((6, 3072), np.uint8)
    assert old["labels"] == LABELS.tolist()
    assert len(old["filenames"]) == 6
    # The first 1,024 numbers of a row are red, row by row; then green; then blue.
    assert old["data"][2, 1024 + 5 * 32 + 7] == IMAGES[2, 5, 7, 1]


def test_a_batch_is_read(tmp_path: Path) -> None:
    """Catches channels, rows or columns exchanged, labels shifted, and floats."""
    images, labels = read(tmp_path, BATCH)
    np.testing.assert_array_equal(images, IMAGES, strict=True)
    np.testing.assert_array_equal(labels, LABELS.astype(np.uint8), strict=True)


@pytest.mark.parametrize("protocol", [3, 4])
def test_a_batch_of_python_3_is_read(tmp_path: Path, protocol: int) -> None:
    """Catches a reader for one spelling of the keys or one home of NumPy's functions only."""
    images, labels = read(tmp_path, pickle.dumps(contents(), protocol))
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == LABELS.tolist()


def test_splits(tmp_path: Path) -> None:
    """Catches files out of order, a split of another, and a root that is the folder itself."""
    root = cifar(tmp_path)
    images, labels = cifar10.load(root, "train")
    assert images.shape == (30, 32, 32, 3)
    np.testing.assert_array_equal(images[12:18], arrays(2)[0])
    np.testing.assert_array_equal(labels[12:18], arrays(2)[1])
    np.testing.assert_array_equal(cifar10.load(root / cifar10.FOLDER, "test")[0], arrays(5)[0])


class Caller:
    """Pickles into a call, which must never be made."""

    def __init__(self, function: Callable[..., object], *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


CALLED: list[object] = []
HOSTILE = {
    "call": pickle.dumps(Caller(CALLED.append, 1), 2),
    "open": pickle.dumps(Caller(open, "/etc/passwd"), 4),
    "eval": b"cbuiltins\neval\n(S'1'\ntR.",
    "getattr": b"\x80\x04\x8c\x05numpy\x8c\x07ndarray.tofile\x93.",
    "numpy load": b"cnumpy\nload\n(S'x'\ntR.",
    "inst": b"(S'x'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\nS'x'\no.",
    "newobj": b"\x80\x02cnumpy\nndarray\nK\x01\x85\x81.",
    "persistent": b"\x80\x02K\x01Q.",
    "extension": b"\x80\x02\x82\x01.",
    "memo": b"\x80\x02K\x01r\xff\xff\xff\x7f.",
    "long": b"\x80\x02\x8b\xff\xff\xff\x7f1.",
    "buffer": b"\x80\x05\x97.",
    "bytes beyond the end": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7fabc.",
    "string beyond the end": b"\x80\x02T\xff\xff\xff\x7fabc.",
    "opcodes": b"\x80\x02(" + b"K\x01" * (1 << 18) + b"l.",
    "cycle": b"\x80\x02}q\x00h\x00h\x00s.",
    "empty stack": b"\x80\x02s.",
    "build on a number": b"\x80\x02K\x01K\x02b.",
    "empty": b"",
    "no pickle": b"\x89PNG\r\n",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles(tmp_path: Path, name: str) -> None:
    """Catches a pickle that calls, imports, or takes memory at its own word."""
    with pytest.raises(InputError, match="data_batch_1: not a batch of cifar10") as caught:
        read(tmp_path, HOSTILE[name])
    assert "\n" not in str(caught.value)
    assert not CALLED


def changed(**entries: object) -> bytes:
    return pickle.dumps(contents() | entries, 4)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (BATCH[:-1], "damaged"),
        (BATCH[: len(BATCH) // 2], "not a batch of cifar10"),
        (changed(labels=[0] * 5), "6 images and 5 labels"),
        (changed(labels=[0] * 5 + [10]), "label 10, expected 0 to 9"),
        (changed(labels=[0] * 5 + [True]), "label True, expected 0 to 9"),
        (changed(labels=None), "no data or no labels"),
        (changed(data=np.zeros((6, 3071), np.uint8)), r"its data is \(6, 3071\), expected rows of"),
        (changed(data=np.zeros((6, 3072), np.int8)), "its data is not of bytes in rows"),
        (changed(data=np.zeros((6, 3072), np.uint8, "F")), "its data is not of bytes in rows"),
        (changed(data=np.zeros((0, 3072), np.uint8), labels=[]), "0 images and 0 labels"),
        (pickle.dumps([1, 2], 4), "no dict"),
    ],
)
def test_damaged_batches(tmp_path: Path, data: bytes, message: str) -> None:
    """Catches numbers read as pixels or labels that are none, and images without a label."""
    assert data != BATCH
    with pytest.raises(InputError, match=message) as caught:
        read(tmp_path, data)
    assert "\n" not in str(caught.value)


def test_a_shape_that_is_not_that_of_the_bytes(tmp_path: Path) -> None:
    """Catches an array of memory that the file does not fill."""
    shape = (6).to_bytes(4, "little") + b"J" + (3072).to_bytes(4, "little")
    assert shape in BATCH
    with pytest.raises(InputError, match="expected rows of 3072"):
        read(tmp_path, BATCH.replace(shape, (10**9).to_bytes(4, "little") + shape[4:]))


def test_folders_refused(tmp_path: Path) -> None:
    """Catches a training on four batches of five, and a split made up."""
    root = cifar(tmp_path / "data")
    with pytest.raises(InputError, match="no split 'val', found train, test"):
        cifar10.load(root, "val")
    with pytest.raises(InputError, match=": not cifar10, expected cifar-10-batches-py/"):
        cifar10.load(tmp_path, "train")
    (root / cifar10.FOLDER / "data_batch_4").unlink()
    with pytest.raises(InputError, match=r"data_batch_4: No such file"):
        cifar10.load(root, "train")
