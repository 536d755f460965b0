"""Readers of Cityscapes and CamVid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import DATASETS, dataset
from parity.spec.errors import InputError
from parity.spec.labels import outputs
from parity.spec.preprocessing import scale
from tests.scenes import NAMES, camvid, cityscapes, save, scene

CITYSCAPES, CAMVID = DATASETS["cityscapes"], DATASETS["camvid"]
# labelId -> trainId of the classes that count, as the data set publishes it.
TRAIN_IDS = {7: 0, 8: 1, 11: 2, 12: 3, 13: 4, 17: 5, 19: 6, 20: 7, 21: 8, 22: 9, 23: 10, 24: 11}
TRAIN_IDS |= {25: 12, 26: 13, 27: 14, 28: 15, 31: 16, 32: 17, 33: 18}

IMAGE = f"leftImg8bit/val/bonn/{NAMES[1]}_leftImg8bit.png"
LABEL = f"gtFine/val/bonn/{NAMES[1]}_gtFine_labelIds.png"


def test_cityscapes_ids_become_train_ids() -> None:
    """Catches a class counted as another one, or a void id counted at all."""
    expected = tuple(TRAIN_IDS.get(i, 19) for i in range(34))
    assert CITYSCAPES.train_ids == expected
    assert (CITYSCAPES.void, CITYSCAPES.outputs) == (19, 20)


def test_camvid_ids_are_train_ids() -> None:
    """Catches a shift of CamVid's ids, whose last one is void."""
    assert CAMVID.train_ids == tuple(range(12))
    assert (CAMVID.void, CAMVID.outputs) == (11, 12)


@pytest.mark.parametrize("data", DATASETS.values(), ids=lambda d: d.name)
def test_a_colour_for_each_output(data) -> None:
    """Catches a palette that is too short, or gives two classes one colour."""
    assert len(set(data.palette)) == len(data.palette) == data.outputs == len(data.classes) + 1


def test_samples_pair_by_name_in_order(tmp_path: Path) -> None:
    """Catches pairs by position, and files beside the labels taken for labels."""
    root = cityscapes(tmp_path)
    for name in NAMES:
        folder = root / "gtFine" / "val" / name.split("_")[0]
        for beside in ("color.png", "instanceIds.png", "labelTrainIds.png", "polygons.json"):
            (folder / f"{name}_gtFine_{beside}").write_bytes(b"")
    (root / "leftImg8bit/val/bonn/._hidden.png").write_bytes(b"")
    samples = dataset(root).samples(root, "val")
    assert [s.name for s in samples] == sorted(NAMES)
    for sample in samples:
        assert sample.image.name == f"{sample.name}_leftImg8bit.png"
        assert sample.label.name == f"{sample.name}_gtFine_labelIds.png"


def test_images_are_bilinear_and_labels_nearest(tmp_path: Path) -> None:
    """Catches labels that are interpolated, and an image that is subsampled or not antialiased."""
    root = cityscapes(tmp_path)
    sample = CITYSCAPES.samples(root, "val")[1]
    image, labels = CITYSCAPES.load(sample, 17, 40)
    with Image.open(sample.image) as picture, Image.open(sample.label) as ids:
        expected = np.asarray(picture.resize((40, 17), Image.Resampling.BILINEAR))
        nearest = np.asarray(ids.resize((40, 17), Image.Resampling.NEAREST))
    assert image.dtype == labels.dtype == np.uint8
    np.testing.assert_array_equal(image, expected)
    np.testing.assert_array_equal(labels, np.vectorize(lambda i: TRAIN_IDS.get(i, 19))(nearest))


def test_camvid_reads_png_and_jpeg(tmp_path: Path) -> None:
    """Catches a format left out; JPEG is near what was saved, PNG exactly that."""
    root = camvid(tmp_path)
    data = dataset(root)
    samples = data.samples(root, "val")
    assert data is CAMVID
    assert [s.name for s in samples] == ["a", "b", "c"]
    for i, sample in enumerate(samples):
        _, labels = data.load(sample, 32, 64)
        np.testing.assert_array_equal(labels, scene(i, 12, 32, 64)[1])
    np.testing.assert_array_equal(data.load(samples[1], 32, 64)[0], scene(1, 12, 32, 64)[0])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scale_divides_by_255_in_the_working_precision(dtype: str) -> None:
    """Catches a product with 1/255, a division in another precision, and a missing one."""
    values = np.arange(256, dtype=np.uint8)
    expected = np.array([np.dtype(dtype).type(v) / np.dtype(dtype).type(255) for v in range(256)])
    assert scale(values, dtype).dtype == dtype
    np.testing.assert_array_equal(scale(values, dtype), expected)


def test_label_orders() -> None:
    """Catches void-first read as anything but 0 = void, 1 + trainId."""
    assert outputs("void-last", 3).tolist() == [0, 1, 2, 3]
    assert outputs("void-first", 3).tolist() == [1, 2, 3, 0]
    with pytest.raises(ValueError, match="void-middle"):
        outputs("void-middle", 3)


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: (root / path).unlink()


def rename(path: str, to: str) -> Callable[[Path], None]:
    def break_it(root: Path) -> None:
        (root / path).rename((root / path).with_name(to))

    return break_it


def add(path: str) -> Callable[[Path], None]:
    return lambda root: save(root / path, np.zeros((32, 64), np.uint8))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (remove(LABEL), rf"1 files do not pair: .*{IMAGE} has no label"),
        (remove(IMAGE), rf"1 files do not pair: .*{LABEL} has no image"),
        (rename(LABEL, "bonn_labelIds.png"), "2 files do not pair: .*bonn_labelIds.png fits no"),
        (rename(IMAGE, "bonn.png"), "2 files do not pair: .*bonn.png fits no pattern"),
        (rename(IMAGE, "aachen_1_leftImg8bit.png"), "aachen_1_leftImg8bit.png has no label"),
        (lambda root: (root / "gtFine").rename(root / "elsewhere"), "4 files do not pair"),
    ],
)
def test_cityscapes_refuses_pairs(
    tmp_path: Path, break_it: Callable[[Path], None], message: str
) -> None:
    """Catches an image evaluated against no label or another's, and a file passed over."""
    root = cityscapes(tmp_path)
    break_it(root)
    with pytest.raises(InputError, match=message) as caught:
        CITYSCAPES.samples(root, "val")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (remove("valannot/b.png"), "val/b.png has no label"),
        (remove("val/b.png"), "valannot/b.png has no image"),
        (add("val/a.png"), "two images of one name"),
        (rename("val/b.png", "b2.png"), "2 files do not pair"),
    ],
)
def test_camvid_refuses_pairs(
    tmp_path: Path, break_it: Callable[[Path], None], message: str
) -> None:
    """Catches the same in the other layout, and one of two images chosen silently."""
    root = camvid(tmp_path)
    break_it(root)
    with pytest.raises(InputError, match=message):
        CAMVID.samples(root, "val")


def test_offenders_are_counted_and_some_named(tmp_path: Path) -> None:
    """Catches an error that stops at the first of many, or prints thousands."""
    root = camvid(tmp_path)
    for i in range(20):
        add(f"val/more{i:02}.png")(root)
    with pytest.raises(InputError, match=r"20 files do not pair: .*more04.* and 15 more") as caught:
        CAMVID.samples(root, "val")
    assert "more05" not in str(caught.value)


@pytest.mark.parametrize("make", [cityscapes, camvid])
def test_unknown_split(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Catches an evaluation of nothing, or of what lies outside the data set."""
    root = make(tmp_path / "data")
    for split in ("test", "", "../data/val"):
        with pytest.raises(InputError, match=rf"no split '{split}', found val"):
            dataset(root).samples(root, split)


@pytest.mark.parametrize("make", [cityscapes, camvid])
def test_a_split_without_images(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """Catches a mean over no image at all."""
    root = make(tmp_path)
    for path in (*root.rglob("*.png"), *root.rglob("*.jp*g"), *root.rglob("*.JPEG")):
        path.unlink()
    with pytest.raises(InputError, match="split val holds no images"):
        dataset(root).samples(root, "val")


def test_layouts(tmp_path: Path) -> None:
    """Catches a guess where the folder is of no known layout, or not the one asked for."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"")
    root = camvid(tmp_path / "camvid")
    with pytest.raises(InputError, match="empty: no known layout"):
        dataset(tmp_path / "empty")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        dataset(tmp_path / "nowhere")
    with pytest.raises(InputError, match="no such folder"):
        dataset(tmp_path / ("x" * 5000))
    with pytest.raises(InputError, match="file: not a folder"):
        dataset(tmp_path / "file")
    with pytest.raises(InputError, match="unknown data set 'voc', expected cityscapes or camvid"):
        dataset(root, "voc")
    with pytest.raises(InputError, match="camvid: not cityscapes, expected leftImg8bit"):
        dataset(root, "cityscapes").samples(root, "val")
    (tmp_path / "empty" / "val.array_record").touch()
    with pytest.raises(InputError, match=r"empty holds val\.array_record, expected the folder"):
        dataset(tmp_path / "empty")


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data)


def draw(name: str, pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda root: save(root / name, pixels)


def truncate(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:-200])


ID_34 = np.full((32, 64), 7, np.uint8)
ID_34[31, 63] = 34


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (write(IMAGE, b"not an image"), f"{IMAGE}: not an image"),
        (write(LABEL, b""), f"{LABEL}: not an image"),
        (truncate(IMAGE), f"{IMAGE}: not an image, or a damaged one"),
        (draw(IMAGE, np.zeros((32, 64), np.uint16)), f"{IMAGE}: mode I;16, expected 8-bit RGB"),
        (draw(LABEL, np.zeros((32, 64, 3), np.uint8)), f"{LABEL}: mode RGB, expected one channel"),
        (draw(LABEL, np.zeros((32, 64), np.uint16)), f"{LABEL}: mode I;16, expected one channel"),
        (draw(LABEL, np.zeros((64, 32), np.uint8)), f"{LABEL}: 64x32, but its image .* is 32x64"),
        (draw(LABEL, ID_34), f"{LABEL}: unknown id 34, expected 0 to 33"),
    ],
)
def test_files_refused(tmp_path: Path, break_it: Callable[[Path], None], message: str) -> None:
    """Catches a file that cannot be read, or that would be read as something else."""
    root = cityscapes(tmp_path)
    break_it(root)
    sample = CITYSCAPES.samples(root, "val")[1]
    # So small that the pixel with the unknown id is not among those that remain.
    with pytest.raises(InputError, match=message) as caught:
        CITYSCAPES.load(sample, 8, 16)
    assert "\n" not in str(caught.value)


def test_camvid_refuses_an_unknown_id(tmp_path: Path) -> None:
    """Catches 12, 13, ... 255 counted as void or wrapped to a class."""
    root = camvid(tmp_path)
    draw("valannot/a.png", np.full((32, 64), 255, np.uint8))(root)
    with pytest.raises(InputError, match=r"valannot/a.png: unknown id 255, expected 0 to 11"):
        CAMVID.load(CAMVID.samples(root, "val")[0], 8, 16)


def test_real_folders(shared: Path) -> None:
    """Catches a reader that fits only what the tests write."""
    root = shared / "data" / "cityscapes_mini"
    assert dataset(root) is CITYSCAPES
    assert len(CITYSCAPES.samples(root, "val")) == 5
    root = shared / "data" / "camvid"
    assert dataset(root) is CAMVID
    assert [len(CAMVID.samples(root, split)) for split in ("train", "val")] == [367, 101]
    image, labels = CAMVID.load(CAMVID.samples(root, "val")[0], 360, 480)
    assert image.shape == (360, 480, 3)
    assert labels.max() <= 11
