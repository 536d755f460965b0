"""Shares of classes, weights from them, mean and deviation of images."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from parity.cli import main
from parity.data import pipeline, statistics
from parity.data.pack import pack
from parity.data.sources import Source, open_data
from parity.data.statistics import Counts, class_weights, count, moments, weights
from parity.spec.errors import InputError
from parity.spec.recipes import DECODER_WEIGHTS, ENCODER_WEIGHTS, RECIPES
from parity.spec.training.losses import ClassWeights
from tests.batches import cifar
from tests.scenes import save
from tests.tiny_data import data, tiny

# What davidtvs' rule gives at the frequencies that ERFNet's published weights were made from.
ENET = (
    "3.36 14.0 4.99 39.2 36.5 32.9 46.3 40.7 6.70 33.5 18.5 33.0 47.7 12.7 45.2 45.8 45.8 48.4 42.8"
)


def two_images(root: Path) -> Path:
    """2x4 pixels each: six of sky and two of road; four of sky, three of void, one of car."""
    maps = ([[0, 0, 0, 0], [0, 0, 3, 3]], [[0, 0, 0, 0], [11, 11, 11, 8]])
    for i, ids in enumerate(maps):
        image = np.full((2, 4, 3), 100 * i, np.uint8)
        image[..., 2] = 51
        save(root / "train" / f"{i}.png", image)
        save(root / "trainannot" / f"{i}.png", np.array(ids, np.uint8))
    return root


def test_counts_by_hand(tmp_path: Path) -> None:
    """Catches pixels counted as another class, void left out of the total, or counted as one."""
    source = open_data("camvid", two_images(tmp_path), "train", "void-last")
    found = count(source)
    assert found.images == 2
    assert found.pixels.tolist() == [10, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0, 3]
    assert found.beside.tolist() == [16, 0, 0, 8, 0, 0, 0, 0, 8, 0, 0, 8]
    assert found.shares[0] == 10 / 16
    first = count(open_data("camvid", tmp_path, "train", "void-first"))
    assert first.pixels.tolist() == [3, 10, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0]


def test_weights_by_hand(tmp_path: Path) -> None:
    """Catches another logarithm, a median over void or absent classes, and void elsewhere."""
    source = open_data("camvid", two_images(tmp_path), "train", "void-first")
    found = weights(ClassWeights("log", c=1.02), count(source), 11, 0, True)
    assert (found.shape, found.dtype) == ((12,), np.float32)
    assert found[0] == 0
    assert found[1] == np.float32(1 / np.log(1.02 + 10 / 16))
    assert found[2] == np.float32(1 / np.log(1.02))
    median = weights(ClassWeights("median"), count(source), 11, 0, True)
    # Frequencies: sky 10/16, road 2/8, car 1/8; the median is road's.
    expected = np.zeros(12)
    expected[[1, 4, 9]] = 0.4, 1, 2
    np.testing.assert_array_equal(median, expected.astype(np.float32))
    without = weights(ClassWeights("median"), count(source), 11, 0, False)
    np.testing.assert_array_equal(without, median[1:])


@pytest.mark.parametrize(
    ("published", "c"), [(ENCODER_WEIGHTS, 1.2), (DECODER_WEIGHTS, 1.1)], ids=["1/8", "whole"]
)
def test_published_weights(published: ClassWeights, c: float) -> None:
    """Catches a rule that is not the one that ERFNet's fixed lists, and ENet's, were made by."""
    shares = np.exp(1 / np.array(published.values)) - c
    assert 0 < shares.min() < shares.sum() < 1
    pixels = np.append(shares, 1 - shares.sum()) * 1e15
    counts = Counts(pixels.astype(np.int64), pixels.astype(np.int64), 2975)
    found = weights(ClassWeights("log", c=c), counts, 19, 19, True)
    np.testing.assert_array_equal(found[:19], np.float32(published.values))
    assert found[19] == 0
    enet = weights(ClassWeights("log", c=1.02), counts, 19, 19, True)
    np.testing.assert_allclose(enet[:19], [float(x) for x in ENET.split()], rtol=0.012)
    if c == 1.1:  # they were made from these
        assert [f"{x:.3g}" for x in enet[:19]] == [f"{float(x):.3g}" for x in ENET.split()]
    fixed = weights(published, None, 19, 0, True)
    np.testing.assert_array_equal(fixed, np.float32([0, *published.values]))


def test_counted_at_the_size_that_is_trained_on(tmp_path: Path) -> None:
    """Catches an encoder weighed by labels eight times as large, and another resize."""
    recipe = tiny("erfnet-cityscapes")
    rule = dataclasses.replace(recipe.stages[0].loss, class_weights=ClassWeights("log", c=1.2))
    stage = dataclasses.replace(recipe.stages[0], loss=rule)
    source = pipeline.open_source(recipe, data(tmp_path, recipe), "train")
    found = class_weights(recipe, stage, source)
    still = dataclasses.replace(stage, augmentation=stage.augmentation[:1])
    labels = np.concatenate(
        [b.targets[0].ravel() for b in pipeline.batches(source, recipe, still, 0)]
    )
    pixels = np.bincount(labels, minlength=20)
    assert pixels.sum() == 7 * 2 * 3
    expected = 1 / np.log(1.2 + pixels / pixels.sum())
    expected[19] = 0
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_weights_of_its_outputs(tmp_path: Path, name: str) -> None:
    """Catches a list that does not fit the network, void that counts, and ICNet weighed at all."""
    for i in range(len(RECIPES[name].stages)):
        recipe = tiny(name, i, size=(32, 32))
        stage = recipe.stages[0]
        source = pipeline.open_source(recipe, data(tmp_path / str(i), recipe), "train")
        found = class_weights(recipe, stage, source)
        if stage.config.family in ("icnet", "genet"):
            assert found is None
            continue
        assert (found.shape, found.dtype) == ((stage.config.num_classes,), np.float32)
        assert found[source.void] == 0
        assert (np.delete(found, source.void) > 0).all()


def test_weights_without_a_rule(tmp_path: Path) -> None:
    """Catches void that counts where no rule weighs the classes."""
    recipe = tiny("enet-camvid")
    loss = dataclasses.replace(recipe.stages[0].loss, class_weights=ClassWeights())
    stage = dataclasses.replace(recipe.stages[0], loss=loss)
    source = pipeline.open_source(recipe, data(tmp_path, recipe), "train")
    assert class_weights(recipe, stage, source).tolist() == [1] * 11 + [0]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """What was counted, in place of taken from a cache."""
    calls, real = [], statistics.count

    def spy(source: Source, *args: object) -> Counts:
        calls.append(source)
        return real(source, *args)

    monkeypatch.setattr(statistics, "count", spy)
    return calls


def test_counted_once(tmp_path: Path, counted: list[Source]) -> None:
    """Catches a count made again for nothing, and one that is out of date."""
    recipe, cache = tiny("enet-camvid"), tmp_path / "new" / "cache"
    root = data(tmp_path / "data", recipe)

    def found(recipe: object = recipe) -> list[float]:
        source = pipeline.open_source(recipe, root, "train")
        return class_weights(recipe, recipe.stages[0], source, cache).tolist()

    first = found()
    assert found() == first
    assert len(counted) == 1
    rule = dataclasses.replace(
        recipe.stages[0].loss, class_weights=ClassWeights("log", c=1.1)
    )  # of the same counts
    stage = dataclasses.replace(recipe.stages[0], loss=rule)
    assert found(dataclasses.replace(recipe, stages=(stage,))) != first
    assert len(counted) == 1
    found(tiny("enet-camvid", size=(8, 16)))
    assert len(counted) == 2
    label = root / "trainannot" / "3.png"
    save(label, np.full((32, 48), 3, np.uint8))
    os.utime(label, (1, 1))
    assert found() != first
    assert len(counted) == 3


@pytest.mark.parametrize("damage", ["", "{}", "[]", "null", "{", '{"key": 1}', "pixels", "beside"])
def test_a_damaged_cache_is_counted_again(
    tmp_path: Path, counted: list[Source], damage: str
) -> None:
    """Catches weights made of what happens to lie in a file."""
    recipe = tiny("enet-camvid")
    source = pipeline.open_source(recipe, data(tmp_path / "data", recipe), "train")
    first = class_weights(recipe, recipe.stages[0], source, tmp_path)
    (path,) = tmp_path.glob("counts-*.json")
    if damage in ("pixels", "beside"):
        damage = json.dumps(json.loads(path.read_text()) | {damage: [-1] * 12})
    path.write_text(damage)
    again = class_weights(recipe, recipe.stages[0], source, tmp_path)
    assert again.tolist() == first.tolist()
    assert len(counted) == 2
    assert class_weights(recipe, recipe.stages[0], source, tmp_path).tolist() == first.tolist()
    assert len(counted) == 2


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    """Catches a training that ends because its cache has no place."""
    recipe = tiny("enet-camvid")
    source = pipeline.open_source(recipe, data(tmp_path / "data", recipe), "train")
    (tmp_path / "file").write_text("")
    found = class_weights(recipe, recipe.stages[0], source, tmp_path / "file" / "cache")
    assert found.shape == (12,)


def test_packed_counts_are_the_same(tmp_path: Path) -> None:
    """Catches other weights for a packed data set."""
    recipe = tiny("enet-camvid")
    root = data(tmp_path / "data", recipe)
    pack(root, tmp_path / "packed", size=(16, 24))
    found = [
        class_weights(recipe, recipe.stages[0], pipeline.open_source(recipe, r, "train"))
        for r in (root, tmp_path / "packed")
    ]
    np.testing.assert_array_equal(*found)


def test_moments(tmp_path: Path) -> None:
    """Catches a mean of means, a deviation of images in place of pixels, and channels exchanged."""
    source = open_data("camvid", two_images(tmp_path), "train", None)
    mean, deviation = moments(source)
    np.testing.assert_allclose(mean, [50 / 255, 50 / 255, 51 / 255])
    np.testing.assert_allclose(deviation, [50 / 255, 50 / 255, 0], atol=1e-15)
    whole = open_data("cifar10", cifar(tmp_path / "cifar"), "train", None)
    images = np.stack([whole[i][0] for i in range(len(whole))]) / 255
    np.testing.assert_allclose(moments(whole)[0], images.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(moments(whole)[1], images.std(axis=(0, 1, 2)))


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a table whose rows are another order's, and a file without the numbers."""
    root, out = two_images(tmp_path / "data"), tmp_path / "found.json"
    arguments = ["statistics", str(root), "--dataset", "camvid", "--labels", "void-first"]
    assert main([*arguments, "--json", str(out)]) == 0
    printed, said = capsys.readouterr()
    assert said == ""
    assert "62.5000%" in printed
    assert "mean      0.1961 0.1961 0.2000" in printed
    found = json.loads(out.read_text())
    assert found["class"][:2] == ["void", "sky"]
    assert found["count"][:2] == [3, 10]
    assert found["log 1.02"][1] == pytest.approx(1 / np.log(1.02 + 0.625))
    assert main([*arguments, "--size", "1x2"]) == 0
    capsys.readouterr()
    # As the option was called before.
    assert main([*arguments[:2], "--data", "camvid", *arguments[4:]]) == 0
    again, said = capsys.readouterr()
    assert again == printed
    assert said.count("\n") == 1
    assert "--dataset camvid" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data"], "--dataset NAME is missing"),
        (["data", "--dataset", "voc"], "unknown data set 'voc', expected cityscapes or camvid or"),
        (["data", "--dataset", "camvid", "--data", "camvid"], "expected --dataset alone"),
        (["no", "--dataset", "camvid"], "no: no such folder"),
        (["data", "--dataset", "cityscapes"], "not cityscapes"),
        (["data", "--dataset", "camvid", "--split", "x"], "no split 'x'"),
        (["data", "--dataset", "camvid", "--json", "no/x"], "no folder"),
        (["bad", "--dataset", "camvid"], "1.png: unknown id 77"),
    ],
)
def test_command_refuses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Catches statistics of nothing, or of labels that are none."""
    two_images(tmp_path / "data")
    bad = two_images(tmp_path / "bad")
    save(bad / "trainannot" / "1.png", np.full((2, 4), 77, np.uint8))
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["statistics", *arguments])
    except SystemExit as stopped:
        status = stopped.code
    assert status == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_an_error_ends_the_count(tmp_path: Path) -> None:
    """Catches a count that goes on through thousands of files after the first bad one."""
    root = two_images(tmp_path)
    save(root / "trainannot" / "0.png", np.full((2, 4), 77, np.uint8))
    source = open_data("camvid", root, "train", None)
    read = []
    many = dataclasses.replace(source, reader=Counting(source.reader, read))
    with pytest.raises(InputError, match="unknown id 77"):
        count(many)
    assert len(read) < 100


class Counting:
    """A reader of a thousand samples that notes which labels are asked for."""

    def __init__(self, reader: object, read: list[int]) -> None:
        self.reader, self.read = reader, read

    def __len__(self) -> int:
        return 1000

    def label(self, i: int) -> np.ndarray:
        self.read.append(i)
        return self.reader.label(0)


def test_real_images(shared: Path) -> None:
    """Catches labels of CamVid counted otherwise than its publishers' weights say.

    SegNet's weights are the median frequencies of the same images: of road, sky, building, tree
    they are 0.1417, 0.2595, 0.1826 and 0.3826, counted with labels of its own resize.
    """
    recipe = tiny("enet-camvid", size=(360, 480))
    source = pipeline.open_source(recipe, shared / "data" / "camvid", "train")
    found = weights(ClassWeights("median"), count(source), 11, source.void, True)
    np.testing.assert_allclose(found[[3, 0, 1, 5]], [0.1417, 0.2595, 0.1826, 0.3826], rtol=0.12)
