"""The command `parity infer`."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity import cli
from parity.data import DATASETS
from parity.evaluation.infer import classes_of, infer
from parity.evaluation.miou import miou
from parity.export import export
from parity.spec.errors import InputError
from tests.scenes import camvid, cityscapes

DEMO = Path(__file__).resolve().parents[3] / "parity" / "demo" / "enet.safetensors"
SIZE = (40, 72)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network, whose void is said to be the first output."""
    path = tmp_path_factory.mktemp("infer") / "enet.onnx"
    export("enet", DEMO, path, "jax", SIZE, labels="void-first")
    return path


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cityscapes(tmp_path_factory.mktemp("streets"), 50, 90)


def test_as_miou(file: Path, streets: Path, tmp_path: Path) -> None:
    """Catches another resizing, scaling, order of classes or count than `parity miou` has."""
    expected = miou(DEMO, streets, SIZE, labels="void-first", frameworks=["torch"], pictures=0)
    folders = streets / "leftImg8bit" / "val", streets / "gtFine" / "val"
    found = infer(file, folders[0], tmp_path / "out", folders[1])
    assert found.confusion is not None
    assert found.iou is not None
    matrix = expected.frameworks["torch"].confusion
    assert found.confusion.sum() == matrix.sum() == 4 * SIZE[0] * SIZE[1]
    assert abs(found.confusion - matrix).sum() <= 2  # one pixel that rounding decides
    np.testing.assert_allclose(found.iou, expected.frameworks["torch"].iou, atol=1e-3)
    lines = (tmp_path / "out" / "metric.txt").read_text().splitlines()
    assert "images 4, at 40x72" in lines
    assert lines[-1].split() == ["bicycle", f"{100 * found.iou[-1]:.2f}"]
    known = np.delete(matrix, 0, axis=0)  # void is first
    accuracy = (np.diag(matrix).sum() - matrix[0, 0]) / known.sum()
    assert f"accuracy {100 * accuracy:.2f}" in lines


def test_pictures(file: Path, streets: Path, tmp_path: Path) -> None:
    """Catches predictions of another size than the image, in other colours, or mixed up."""
    images = streets / "leftImg8bit" / "val"
    infer(file, images, tmp_path / "out")
    found = sorted(p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.png"))
    names = sorted(p.relative_to(images).as_posix() for p in images.rglob("*.png"))
    assert [p.as_posix() for p in found] == [n.replace("_leftImg8bit", "") for n in names]
    data = DATASETS["cityscapes"]
    for path in found:
        picture = Image.open(tmp_path / "out" / path)
        assert picture.size == (90, 50)
        ids, colours = np.asarray(picture), np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(colours, np.array(data.palette, np.uint8)[ids])
    assert not (tmp_path / "out" / "metric.txt").exists()


def test_train_ids(file: Path, streets: Path, tmp_path: Path) -> None:
    """Catches labelTrainIds that are read as ids, or void (255) that counts."""
    data, truth = DATASETS["cityscapes"], tmp_path / "labels"
    for path in (streets / "gtFine" / "val").rglob("*_labelIds.png"):
        ids = np.array(data.train_ids, np.uint8)[np.asarray(Image.open(path))]
        target = truth / path.parent.name / path.name.replace("labelIds", "labelTrainIds")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(ids == data.void, 255, ids).astype(np.uint8)).save(target)
    images = streets / "leftImg8bit" / "val"
    one = infer(file, images, tmp_path / "a", streets / "gtFine" / "val")
    other = infer(file, images, tmp_path / "b", truth)
    np.testing.assert_array_equal(one.confusion, other.confusion)
    Image.fromarray(np.full((50, 90), 19, np.uint8)).save(target)
    with pytest.raises(InputError, match="unknown id 19"):
        infer(file, images, tmp_path / "c", truth)
    assert not (tmp_path / "c").exists()


def test_command(
    file: Path, streets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches options that do not arrive."""
    images, truth = streets / "leftImg8bit" / "val", streets / "gtFine" / "val"
    common = ["infer", "--onnx", str(file), "--images", str(images)]
    arguments = [*common, "--label-dir", str(truth)]
    out = tmp_path / "out"
    out.mkdir()  # an empty folder is no loss
    assert cli.main([*arguments, "--labels", "void-last", str(out)]) == 0
    shown = capsys.readouterr()
    assert (out / "metric.txt").read_text() in shown.out
    assert "labels: void-last (asked for; the checkpoint's manifest says void-first)" in shown.out
    assert "warning" in shown.err
    # As the options were called before.
    again = tmp_path / "again"
    before = ["--labels", str(truth), "--order", "void-last", str(again)]
    assert cli.main([*common, *before]) == 0
    assert (again / "metric.txt").read_text() == (out / "metric.txt").read_text()
    said = capsys.readouterr().err
    assert f"--label-dir {truth}" in said
    assert "--labels void-last" in said
    shutil.rmtree(again)
    assert cli.main([*arguments, "--labels", "void", str(again)]) == 2
    assert "label order 'void'" in capsys.readouterr().err
    assert "void-last" in (out / "metric.txt").read_text()
    assert cli.main([*arguments, str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]


def test_bad_input(file: Path, streets: Path, tmp_path: Path) -> None:
    """Catches what cannot be meant but is done, and folders that stay behind."""
    images = streets / "leftImg8bit" / "val"
    empty = tmp_path / "empty"
    empty.mkdir()
    roads = camvid(tmp_path / "camvid", 50, 90)
    out = tmp_path / "out"
    cases = [
        ((file, tmp_path / "no", out), "no such folder"),
        ((file, empty, out), "holds no image"),
        ((file, images, out, empty), "4 images have no label"),
        ((file, images, out, None, "void-middle"), "void-middle"),
        ((file, images, out, None, None, "ade"), "ade"),
        ((file, images, out, None, None, "camvid"), "but the data set has 'sky' there"),
        ((file, images, tmp_path / "no" / "out"), "no folder"),
        ((file, roads / "val", out, streets / "gtFine" / "val"), "3 images have no label"),
    ]
    for arguments, named in cases:
        with pytest.raises(InputError, match=named):
            infer(*arguments)
    assert not out.exists()


def test_a_network_of_whole_images_is_refused_by_its_name() -> None:
    """Catches "is an genet", and a classifier whose answers are painted as pixels."""
    network: Any = SimpleNamespace(manifest=SimpleNamespace(network="genet"), path="g.onnx")
    with pytest.raises(InputError, match=r"g\.onnx holds the network genet, expected one of enet"):
        classes_of(network, None)
