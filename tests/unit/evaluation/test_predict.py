"""The command `parity predict`."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity import cli
from parity.data import DATASETS
from parity.evaluation.miou import miou
from parity.evaluation.predict import predict
from parity.export import export
from parity.spec.errors import InputError
from tests.scenes import NAMES, cityscapes, save

DEMO = Path(__file__).resolve().parents[3] / "parity" / "demo" / "enet.safetensors"
SIZE = (40, 72)
CITYSCAPES = DATASETS["cityscapes"]


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cityscapes(tmp_path_factory.mktemp("streets"), 50, 90)


@pytest.fixture(scope="module")
def drawn(streets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The predictions of PyTorch, with label ids."""
    out = tmp_path_factory.mktemp("predict") / "torch"
    predict(DEMO, streets / "leftImg8bit" / "val", out, "torch", size=SIZE, ids=True)
    return out


def pixels(folder: Path, kind: str, suffix: str = "") -> dict[str, np.ndarray]:
    paths = (folder / kind).rglob(f"*{suffix}.png")
    return {path.name: np.asarray(Image.open(path)) for path in paths}


def test_as_miou(drawn: Path, streets: Path) -> None:
    """Catches another resizing, scaling or order of outputs than `parity miou` has."""
    expected = miou(DEMO, streets, SIZE, frameworks=["torch"], pictures=0)
    matrix = np.zeros((20, 20), np.int64)
    for sample in CITYSCAPES.samples(streets, "val"):
        city = sample.name.split("_")[0]
        found = Image.open(drawn / "color" / city / f"{sample.name}.png")
        assert found.size == (90, 50)
        # To the nearest pixel and back nothing is lost that was enlarged.
        small = np.asarray(found.resize(SIZE[::-1], Image.Resampling.NEAREST))
        truth = CITYSCAPES.load(sample, *SIZE)[1]
        np.add.at(matrix, (truth.ravel(), small.ravel()), 1)
    np.testing.assert_array_equal(matrix, expected.frameworks["torch"].confusion)


def test_label_ids_are_those_of_the_data_set(drawn: Path) -> None:
    """Catches trainIds sent to Cityscapes' test server."""
    classes, ids = pixels(drawn, "color"), pixels(drawn, "ids")
    assert sorted(ids) == sorted(f"{name}.png" for name in NAMES)
    expected = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33, 0)
    for name, found in ids.items():
        np.testing.assert_array_equal(found, np.array(expected)[classes[name]])
        np.testing.assert_array_equal(np.array(CITYSCAPES.train_ids)[found], classes[name])


def test_void_first(drawn: Path, streets: Path, tmp_path: Path) -> None:
    """Catches an output drawn as the class of its position where void comes first."""
    image = sorted((streets / "leftImg8bit").rglob("*.png"))[0]
    predict(DEMO, image, tmp_path / "out", labels="void-first", size=SIZE)
    ((name, found),) = pixels(tmp_path / "out", "color").items()
    before = pixels(drawn, "color")[name].astype(int)
    np.testing.assert_array_equal(found, (before - 1) % 20)


@pytest.mark.parametrize("kind", ["jax", "onnx"])
def test_all_frameworks_predict_the_same(
    kind: str, drawn: Path, streets: Path, tmp_path: Path
) -> None:
    """Catches a framework that is given other pixels, or numbers its outputs otherwise."""
    file, size = DEMO, SIZE
    if kind == "onnx":
        file = tmp_path / "enet.onnx"
        export("enet", DEMO, file, "jax", SIZE)
    predict(file, streets / "leftImg8bit" / "val", tmp_path / "out", size=size,
            framework=None if kind == "onnx" else kind, ids=True)  # fmt: skip
    for part in ("color", "ids"):
        one, other = pixels(drawn, part), pixels(tmp_path / "out", part)
        assert one.keys() == other.keys()
        assert sum(int((one[name] != other[name]).sum()) for name in one) <= 8  # near ties


def test_a_published_checkpoint(shared: Path, tmp_path: Path) -> None:
    """Catches label maps that are not those of Cityscapes, which all else here could agree on."""
    root = shared / "data" / "cityscapes_mini"
    sample = CITYSCAPES.samples(root, "val")[0]
    weights = tmp_path / "enet.pth"
    shutil.copy(shared / "checkpoints" / "enet_cityscapes_20c.pth", weights)
    predict(weights, sample.image, tmp_path / "out", ids=True)
    (path,) = (tmp_path / "out" / "ids").iterdir()
    found, truth = np.asarray(Image.open(path)), np.asarray(Image.open(sample.label))
    assert found.shape == truth.shape == (1024, 2048)
    counted = np.array(CITYSCAPES.train_ids)[truth] < CITYSCAPES.void
    assert (found == truth)[counted].mean() > 0.9


def test_padded(tmp_path: Path) -> None:
    """Catches an image that is resized, or a prediction that is cut at the other end.

    And a size that is asked for, and ignored; or printed, as if it were used.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (45, 70, 3), np.uint8)
    save(tmp_path / "odd.png", image)
    save(tmp_path / "even.png", np.pad(image, ((0, 3), (0, 2), (0, 0)), mode="edge"))
    paths = [tmp_path / "odd.png", tmp_path / "even.png"]
    with pytest.raises(InputError, match="--size with --fit pad: each image keeps its size"):
        predict(DEMO, paths, tmp_path / "out", fit="pad", size=(48, 64))
    done = predict(DEMO, paths, tmp_path / "out", fit="pad")
    assert done.notes[-1] == "fit pad: each image is taken at its own size instead"
    found = pixels(tmp_path / "out", "color")
    assert found["odd.png"].shape == (45, 70)
    assert found["even.png"].shape == (48, 72)
    np.testing.assert_array_equal(found["odd.png"], found["even.png"][:45, :70])


def listing(*paths: Path) -> io.TextIOWrapper:
    """Standard input in strict UTF-8 that holds these paths, one a line."""
    lines = b"".join(os.fsencode(path) + b"\n" for path in paths)
    return io.TextIOWrapper(io.BytesIO(lines), encoding="utf-8", errors="strict")


def test_paths_in_another_encoding(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a name in Latin-1, as old archives hold, that is a traceback."""
    image = tmp_path / os.fsdecode(b"stra\xdfe.png")
    image.symlink_to(next((streets / "leftImg8bit").rglob("*.png")))
    monkeypatch.setattr("sys.stdin", listing(image))
    command = ["predict", "-", "--weights", str(DEMO), "--size", "40x72"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "color" / image.name).exists()


def test_paths_on_standard_input(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: Path
) -> None:
    """Catches a list whose lines are not paths, and names that depend on how images are given."""
    paths = sorted((streets / "leftImg8bit").rglob("*.png"))[:2]
    monkeypatch.setattr("sys.stdin", listing(*paths))
    command = ["predict", "-", "--weights", str(DEMO), "--size", "40x72"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    expected = pixels(drawn, "color")
    for name, found in pixels(tmp_path / "out", "color").items():
        np.testing.assert_array_equal(found, expected[name])
    assert len(list((tmp_path / "out" / "overlay").iterdir())) == 2


def test_bad_input(
    streets: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Catches a traceback, and a folder that is left behind."""
    image = sorted((streets / "leftImg8bit").rglob("*.png"))[0]
    nineteen = tmp_path / "nineteen.toml"
    names = list(CITYSCAPES.classes)
    nineteen.write_text(f'images = "i"\nmasks = "m"\nclasses = {names}\nsplits = {{val = 1.0}}\n')
    twin = tmp_path / "twin" / image.name
    twin.parent.mkdir()
    shutil.copy(image, twin)
    text = tmp_path / "text.png"
    text.write_text("no image")
    own = tmp_path / "own.toml"
    own.write_text('images = "i"\nmasks = "m"\nclasses = ["a", "b"]\nsplits = {val = 1.0}\n')
    base = [str(image), "--weights", str(DEMO)]
    cases = [
        ([str(tmp_path / "no.png"), *base[1:]], "no.png: no such image"),
        ([str(text), *base[1:]], "text.png: not an image"),
        ([*base, "--framework", "onnx"], "framework onnx needs an ONNX file"),
        ([*base, "--model", "unet"], "unknown model 'unet'"),
        ([*base, "--size", "5x72"], "size: input is 5x72, but enet needs at least 7x7"),
        ([*base, "--dataset", str(own)], "the network has 20 outputs for pixels, but data set"),
        (
            [*base, "--dataset", str(nineteen), "--ids"],
            "has an output for void, for which data set",
        ),
        ([*base, "--dataset", "camvid"], "20 outputs for pixels, but data set camvid has 11"),
        ([*base, "--dataset", "ade"], "--dataset ade: expected cityscapes or camvid or cifar10"),
    ]
    out = tmp_path / "out"
    for arguments, named in cases:
        assert cli.main(["predict", *arguments, "--out", str(out)]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert named in said
    with pytest.raises(InputError, match="two images of one name, 'aachen_000000_000019'"):
        predict(DEMO, [image, twin], out)
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    assert cli.main(["predict", "-", *base[1:], "--out", str(out)]) == 2
    assert "no image to predict" in capsys.readouterr().err
    assert not out.exists()
    out.mkdir()
    (out / "mine").write_text("")
    assert cli.main(["predict", *base, "--out", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
