"""The batches that both sides train on: what decides them, and what is refused."""

from __future__ import annotations

import dataclasses
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import pipeline
from parity.data.loading import Watched
from parity.spec import draw, icnet_labels
from parity.spec.augmentation import Blur, Flip, Resize
from parity.spec.errors import InputError
from parity.spec.preprocessing import CIFAR10, IMAGENET
from parity.spec.recipes import RECIPES
from parity.spec.training.losses import ClassWeights, Loss
from parity.spec.training.parallel import Parallel
from parity.spec.training.recipe import Recipe, Stage
from tests.scenes import camvid, cityscapes, save, scene
from tests.tiny_data import SIZE, data, equals, opened, tiny

TINY = ["enet-camvid", "erfnet-cityscapes", "icnet-cityscapes", "genet-cifar10"]


@pytest.mark.parametrize("name", TINY)
def test_a_batch(tmp_path: Path, name: str) -> None:
    """Catches a batch of another layout, type or scale than the sides take."""
    recipe = tiny(name, size=(32, 32) if name.startswith("genet") else SIZE)
    stage, source = recipe.stages[0], opened(tmp_path, recipe)
    found = list(pipeline.batches(source, recipe, stage, 0))
    assert len(found) == stage.steps(len(source)) == pipeline.steps(recipe, stage, len(source))
    seen = np.concatenate([batch.samples for batch in found])
    assert seen.tolist() == pipeline.order(recipe, 0, len(source))[: len(seen)].tolist()
    batch, size = found[0], pipeline.training_size(recipe, stage)
    assert (batch.images.shape, batch.images.dtype) == ((2, *size, 3), np.float32)
    assert (batch.samples.dtype, batch.truth) == (np.int64, None)
    assert all(t.dtype == np.int32 and len(t) == 2 for t in batch.targets)
    sites = stage.config.dropout_sites(*size)
    assert {k: v.shape for k, v in batch.masks.items()} == {
        k: (2, *shape) for k, (_, shape) in sites.items()
    }
    mean, std = {"icnet": IMAGENET, "genet": CIFAR10}.get(stage.config.family, ((0,) * 3, (1,) * 3))
    pixels = batch.images.astype(float) * std + np.array(mean)
    assert -1e-6 < pixels.min() < 0.3
    assert 0.7 < pixels.max() < 1 + 1e-6
    double = next(iter(pipeline.batches(source, recipe, stage, 0, dtype="float64")))
    assert double.images.dtype == np.float64
    np.testing.assert_allclose(double.images, batch.images, atol=1e-6)


def test_pixels_and_labels_by_hand(tmp_path: Path) -> None:
    """Catches a label of another sample, an order of labels that is not the network's."""
    recipe = tiny("enet-cityscapes")
    source = opened(tmp_path, recipe)
    for batch in pipeline.batches(source, recipe, recipe.stages[0], 3):
        for i, sample in enumerate(batch.samples.tolist()):
            image, label = scene(sample, 34, 32, 64)
            picture = Image.fromarray(image).resize(SIZE[::-1], Image.Resampling.BILINEAR)
            ids = Image.fromarray(label).resize(SIZE[::-1], Image.Resampling.NEAREST)
            np.testing.assert_array_equal(
                batch.images[i], np.asarray(picture, np.float32) / np.float32(255)
            )
            road, void = np.asarray(ids) == 7, np.asarray(ids) < 7
            assert (batch.targets[0][i][road] == 1).all()
            assert (batch.targets[0][i][void] == 0).all()
            assert batch.targets[0][i].max() <= 19


def test_targets_of_an_encoder(tmp_path: Path) -> None:
    """Catches labels of the whole size where the encoder predicts an eighth of it."""
    recipe = tiny("erfnet-cityscapes")
    bare = dataclasses.replace(recipe.stages[0], augmentation=(Resize(SIZE),))
    source = opened(tmp_path, recipe)
    (labels,) = next(iter(pipeline.batches(source, recipe, bare, 0))).targets
    whole = tiny("erfnet-cityscapes", 1).stages[0]
    whole = dataclasses.replace(whole, augmentation=(Resize(SIZE),))
    (full,) = next(iter(pipeline.batches(source, recipe, whole, 0))).targets
    assert labels.shape == (2, 2, 3)
    np.testing.assert_array_equal(labels, full[:, 4::8, 4::8])


@pytest.mark.parametrize("name", ["icnet-cityscapes", "icnet-cityscapes-corrected"])
def test_targets_of_icnet(tmp_path: Path, name: str) -> None:
    """Catches void that counts, sizes of other outputs, and the other way to resize."""
    recipe = tiny(name)
    stage = dataclasses.replace(recipe.stages[0], augmentation=(Resize(SIZE),))
    source = opened(tmp_path, recipe)
    batch = next(iter(pipeline.batches(source, recipe, stage, 0)))
    sizes = stage.config.output_sizes(*SIZE)[1:]
    assert [t.shape[1:] for t in batch.targets] == list(sizes)
    ids = np.stack(
        [
            np.asarray(Image.fromarray(source[i][1]).resize(SIZE[::-1], Image.Resampling.NEAREST))
            for i in batch.samples
        ]
    ).astype(int)
    assert (ids == 19).any()
    ids[ids == 19] = -1
    resize = icnet_labels.nearest if "corrected" in name else icnet_labels.published
    for target, size in zip(batch.targets, sizes, strict=True):
        np.testing.assert_array_equal(target, resize(ids, size))


def test_a_sample_does_not_depend_on_its_company(tmp_path: Path) -> None:
    """Catches draws that depend on the place in a batch, on its size, or on other samples."""
    recipe = tiny("erfnet-cityscapes")
    source, stage = opened(tmp_path, recipe), recipe.stages[0]
    whole = next(iter(pipeline.batches(source, recipe, stage, 0)))
    for rank in (0, 1):
        part = next(iter(pipeline.batches(source, recipe, stage, 0, rank=rank, ranks=2)))
        np.testing.assert_array_equal(part.images, whole.images[rank : rank + 1])
        np.testing.assert_array_equal(part.samples, whole.samples[rank : rank + 1])
        np.testing.assert_array_equal(part.targets[0], whole.targets[0][rank : rank + 1])
        for site, mask in whole.masks.items():
            np.testing.assert_array_equal(part.masks[site], mask[rank : rank + 1])
    expected = draw.dropout_masks(stage.config, SIZE, recipe.seed, 0, 0, whole.samples.tolist())
    for site, mask in expected.items():
        np.testing.assert_array_equal(whole.masks[site], mask)


def test_workers_change_nothing(tmp_path: Path) -> None:
    """Catches an order, a draw or a type that depends on which process makes a batch.

    Also an epoch that ends a stream of several, and memory that is given back while in use.
    """
    recipe = tiny("erfnet-cityscapes")
    source, stage = opened(tmp_path, recipe), recipe.stages[0]
    single = [
        b for epoch in (0, 1, 2) for b in list(pipeline.batches(source, recipe, stage, epoch))
    ]
    several = list(pipeline.batches(source, recipe, stage, 0, epochs=3, workers=2))
    assert type(several[0].images) is np.ndarray
    assert equals(single, several) == 12
    assert any((a.images != b.images).any() for a, b in zip(single[:4], single[4:8], strict=True))


@pytest.mark.parametrize("name", TINY)
def test_it_goes_on_from_any_step(tmp_path: Path, name: str) -> None:
    """Catches a run that is resumed with other samples, augmentation or masks."""
    recipe = tiny(name, size=(32, 32) if name.startswith("genet") else SIZE)
    source, stage = opened(tmp_path, recipe), recipe.stages[0]
    whole = list(pipeline.batches(source, recipe, stage, 5))
    for first in range(len(whole) + 1):
        rest = pipeline.batches(source, recipe, stage, 5, first_step=first)
        assert equals(whole[first:], rest) == len(whole) - first
    assert not list(pipeline.batches(source, recipe, stage, 5, epochs=0))


def test_order(tmp_path: Path) -> None:
    """Catches an epoch like the one before it, or one that leaves a sample out."""
    recipe = RECIPES["enet-camvid"]
    orders = [pipeline.order(recipe, epoch, 100) for epoch in range(3)]
    for found in orders:
        assert sorted(found.tolist()) == list(range(100))
        assert found.dtype == np.int64
    assert all((a != b).any() for a, b in itertools.combinations(orders, 2))
    other = pipeline.order(dataclasses.replace(recipe, seed=2), 0, 100)
    assert (other != orders[0]).any()
    assert (pipeline.order(recipe, 0, 100) == orders[0]).all()


@pytest.mark.parametrize(
    ("last", "drop_last", "counts"),
    [
        ("pad", False, [2, 2, 2, 2]),
        ("drop", False, [2, 2, 2]),
        ("pad", True, [2, 2, 2, 2]),  # each rank is given 4 of 8, as PyTorch's sampler does
        ("drop", True, [2, 2, 2]),
    ],
)
def test_what_does_not_fill_equal_parts(
    tmp_path: Path, last: str, drop_last: bool, counts: list[int]
) -> None:
    """Catches ranks whose parts or numbers of steps differ, which would wait for each other."""
    recipe = tiny("enet-camvid", drop_last=drop_last)
    recipe = dataclasses.replace(recipe, parallel=Parallel(last=last))
    source, stage = opened(tmp_path, recipe), recipe.stages[0]
    whole = pipeline.order(recipe, 0, 7)
    parts = [
        [b.samples for b in pipeline.batches(source, recipe, stage, 0, rank=rank, ranks=2)]
        for rank in (0, 1)
    ]
    joined = [np.concatenate(pair) for pair in zip(*parts, strict=True)]
    assert [len(x) for x in joined] == counts
    assert len(counts) == pipeline.steps(recipe, stage, 7, 2)
    for step, samples in enumerate(joined):
        expected = np.append(whole, whole[0])[2 * step : 2 * step + 2]
        np.testing.assert_array_equal(samples, expected)
    # One process with two devices gets the same, in one piece.
    one = [b.samples for b in pipeline.batches(source, recipe, stage, 0, parts=2)]
    for a, b in zip(one, joined, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("ranks", "batch"), [(1, 1), (1, 3), (2, 3), (3, 2), (7, 2), (9, 2)])
def test_validation_sees_every_image_once(tmp_path: Path, ranks: int, batch: int) -> None:
    """Catches an image counted twice or by nobody, and one that is augmented."""
    recipe = tiny("erfnet-cityscapes")
    source, stage = opened(tmp_path, recipe, "val"), recipe.stages[0]
    seen = []
    for rank in range(ranks):
        for found in pipeline.validation(
            source, recipe, stage, batch=batch, rank=rank, ranks=ranks
        ):
            assert 0 < len(found.images) <= batch
            assert found.masks == {}
            seen += found.samples.tolist()
            (labels,) = found.targets
            np.testing.assert_array_equal(labels, found.truth)
            for i, sample in enumerate(found.samples.tolist()):
                picture = Image.fromarray(source[sample][0]).resize(SIZE[::-1])
                ids = Image.fromarray(source[sample][1]).resize(SIZE[::-1], 0)
                np.testing.assert_array_equal(labels[i], np.asarray(ids)[4::8, 4::8])
                picture = Image.fromarray(source[sample][0]).resize(
                    SIZE[::-1], Image.Resampling.BILINEAR
                )
                expected = np.asarray(picture, np.float32) / np.float32(255)
                np.testing.assert_array_equal(found.images[i], expected)
    assert sorted(seen) == list(range(7))


def test_truth_of_icnet_is_whole(tmp_path: Path) -> None:
    """Catches ICNet measured at an output that only its loss has, or without its void."""
    recipe = tiny("icnet-cityscapes")
    source, stage = opened(tmp_path, recipe, "val"), recipe.stages[0]
    found = next(iter(pipeline.validation(source, recipe, stage, workers=1)))
    assert found.truth.shape == (2, *SIZE)
    assert found.truth.dtype == np.int32
    assert found.truth.max() == source.void == 19
    assert min(t.min() for t in found.targets) == -1


def test_classes_of_whole_images(tmp_path: Path) -> None:
    """Catches a class that is augmented, and a test split that is the training split."""
    recipe = tiny("genet-cifar10", size=(32, 32))
    source = opened(tmp_path, recipe)
    assert source.void == -1
    for batch in pipeline.batches(source, recipe, recipe.stages[0], 0):
        assert batch.targets[0].tolist() == [source[i][1] for i in batch.samples.tolist()]
    test = pipeline.open_source(recipe, tmp_path, recipe.val_split)
    found = list(pipeline.validation(test, recipe, recipe.stages[0]))
    assert [x for b in found for x in b.truth.tolist()] == [5, 6]


def spoil(root: Path, name: str, pixels: np.ndarray) -> None:
    save(root / name, pixels)


@pytest.mark.parametrize(
    ("file", "pixels", "message"),
    [
        ("trainannot/3.png", np.full((32, 48), 12, np.uint8), "3.png: unknown id 12, expected 0"),
        ("trainannot/3.png", np.zeros((32, 47), np.uint8), "32x47, but its image .*3.png is 32x48"),
        ("train/3.png", np.zeros((32, 48), np.uint16), "train/3.png: mode I;16, expected 8-bit"),
    ],
)
def test_bad_samples(tmp_path: Path, file: str, pixels: np.ndarray, message: str) -> None:
    """Catches a run that goes on over a bad sample."""
    recipe = tiny("enet-camvid")
    source = opened(tmp_path, recipe)
    spoil(tmp_path, file, pixels)
    with pytest.raises(InputError, match=message) as caught:
        list(pipeline.batches(source, recipe, recipe.stages[0], 0))
    assert "\n" not in str(caught.value)


def test_bad_samples_of_workers(tmp_path: Path) -> None:
    """Catches an error that is lost on its way from a process, or arrives as another."""
    recipe = tiny("enet-camvid")
    source = opened(tmp_path, recipe)
    spoil(tmp_path, "train/3.png", np.zeros((32, 48), np.uint16))
    with pytest.raises(InputError, match=r"train/3.png: mode I;16, expected") as caught:
        list(pipeline.batches(source, recipe, recipe.stages[0], 0, workers=1))
    assert "\n" not in str(caught.value)


def changed(recipe: Recipe, **fields: object) -> tuple[Recipe, Stage]:
    stage = dataclasses.replace(recipe.stages[0], **fields)
    return dataclasses.replace(recipe, stages=(stage,)), stage


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"augmentation": (Flip(),)}, r"\d.png comes to 32x48, but enet-camvid trains on 16x24"),
        ({"augmentation": (Resize((6, 6)),)}, "input is 6x6, but enet needs at least 7x7 pixels"),
        (
            {"loss": Loss(class_weights=ClassWeights("fixed", values=(1.0, 2.0)))},
            "enet-camvid: whole: 2 class weights, camvid has 11$",
        ),
        ({"loss": Loss(ignore_index=3)}, "enet-camvid: whole: ignore_index 3 is a class"),
        ({"batch": 3}, "a batch of 3 does not divide into 2 parts"),
        ({"batch": 10, "drop_last": True}, "7 samples make no step of 10, as enet-camvid has it"),
    ],
)
def test_what_does_not_fit(tmp_path: Path, fields: dict[str, object], message: str) -> None:
    """Catches a batch with images of several sizes, or one that devices cannot divide."""
    recipe, stage = changed(tiny("enet-camvid"), **fields)
    source = opened(tmp_path, recipe)
    with pytest.raises(InputError, match=message):
        list(pipeline.batches(source, recipe, stage, 0, parts=2))


def test_refused_before_the_first_batch(tmp_path: Path) -> None:
    """Catches labels that the network has no output for, found out in the middle of a run."""
    recipe, stage = changed(tiny("enet-cityscapes"), model="enet-camvid")
    source = opened(tmp_path, recipe)
    with pytest.raises(InputError, match="enet-camvid has 12 outputs, labels of cityscapes go to"):
        pipeline.batches(source, recipe, stage, 0)
    with pytest.raises(InputError, match="enet-camvid has 12 outputs"):
        pipeline.validation(source, recipe, stage)


@pytest.mark.parametrize("name", TINY)
def test_folders_refused(tmp_path: Path, name: str) -> None:
    """Catches a training on nothing, on another data set, or on a split that is not there."""
    recipe = tiny(name)
    with pytest.raises(InputError, match="nowhere: no such folder"):
        pipeline.open_source(recipe, tmp_path / "nowhere", "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=f"empty: not {recipe.data}, expected"):
        pipeline.open_source(recipe, tmp_path / "empty", "train")
    with pytest.raises(InputError, match="no split 'other', found"):
        pipeline.open_source(recipe, data(tmp_path / "data", recipe), "other")
    if recipe.data != "cifar10":
        next((tmp_path / "data").rglob("train*/**/*.png")).unlink()
        with pytest.raises(InputError, match="files do not pair"):
            pipeline.open_source(recipe, tmp_path / "data", "train")


def test_blur_and_size_meet_the_published_order(tmp_path: Path) -> None:
    """Catches MindSpore's recipe resized before it is cropped and blurred."""
    recipe = tiny("erfnet-mindspore", 1)
    assert isinstance(recipe.stages[0].augmentation[0], Blur)
    found = next(iter(pipeline.batches(opened(tmp_path, recipe), recipe, recipe.stages[0], 0)))
    assert found.images.shape == (2, *SIZE, 3)
    site, mask = next(iter(found.masks.items()))
    assert site == "encoder.layers.1"
    assert mask.ndim == 4  # elements


def test_importing_it_loads_little() -> None:
    """Catches Grain, and JAX with it, loaded by whoever only reads a recipe."""
    code = (
        "import sys, parity.data.pipeline, parity.data.statistics, parity.spec.recipes\n"
        "print(sorted({'grain', 'jax', 'torch', 'array_record', 'absl'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_time_that_is_waited() -> None:
    """Catches a share that counts the consumer's own time, or not the source's."""

    def slow() -> Iterable[int]:
        for i in range(5):
            time.sleep(0.05)
            yield i

    watched = Watched(iter(slow()))
    for _ in watched:
        time.sleep(0.05)
    assert watched.taken == 5
    assert watched.first >= 0.05
    assert 0.2 <= watched.waited < 1


LOOP = """
import sys, time
from pathlib import Path
from parity.data import pipeline
from tests.tiny_data import tiny
if __name__ == "__main__":
    recipe = tiny("enet-camvid")
    source = pipeline.open_source(recipe, sys.argv[1], "train")
    for batch in pipeline.batches(source, recipe, recipe.stages[0], 0, epochs=1000, workers=2):
        print("batch", flush=True)
        time.sleep(0.05)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    """Catches processes that go on reading after the training was killed."""
    data(tmp_path / "data", tiny("enet-camvid"))
    script = tmp_path / "loop.py"
    script.write_text(LOOP)
    root = Path(__file__).parents[3]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "data")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    try:
        assert parent.stdout.readline() == b"batch\n"
        workers = children(parent.pid)
        assert len(workers) >= 2
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    deadline = time.monotonic() + 30
    while left := [pid for pid in workers if alive(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def children(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_real_folders(shared: Path) -> None:
    """Catches a pipeline that fits only what the tests write."""
    recipe = tiny("enet-camvid", size=(48, 64))
    source = pipeline.open_source(recipe, shared / "data" / "camvid", "train")
    assert len(source) == 367
    batch = next(iter(pipeline.batches(source, recipe, recipe.stages[0], 0)))
    assert 0.1 < batch.images.mean() < 0.8
    val = dataclasses.replace(tiny("icnet-cityscapes", size=(64, 128)), train_split="val")
    source = pipeline.open_source(val, shared / "data" / "cityscapes_mini", "val")
    batch = next(iter(pipeline.batches(source, val, val.stages[0], 0)))
    assert {-1} < {*np.unique(batch.targets[0]).tolist()} <= set(range(-1, 19))


# `camvid` and `cityscapes` of the scenes have images of several formats.
def test_formats(tmp_path: Path) -> None:
    """Catches a file that the reader of an evaluation takes, and that of a training does not."""
    recipe = tiny("enet-camvid")
    source = pipeline.open_source(recipe, camvid(tmp_path / "a", split="train"), "train")
    assert sum(len(b.images) for b in pipeline.batches(source, recipe, recipe.stages[0], 0)) == 3
    recipe = tiny("enet-cityscapes")
    source = pipeline.open_source(recipe, cityscapes(tmp_path / "b", split="train"), "train")
    assert sum(len(b.images) for b in pipeline.batches(source, recipe, recipe.stages[0], 0)) == 4
