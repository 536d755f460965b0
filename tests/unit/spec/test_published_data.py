"""Data sets, preprocessing and class weights, held against the published programs.

What a program makes of a real image is in the file: the mean of each channel, and the sum of
a * sin(1 + i) over the flattened image, which moves when anything in it does.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from parity.data import DATASETS, cifar10, pipeline, statistics
from parity.data.camvid import CAMVID
from parity.data.cityscapes import CITYSCAPES
from parity.data.sources import Pairs, Source
from parity.spec import recipes
from parity.spec.datasets import BUILT_IN
from parity.spec.labels import outputs
from parity.spec.models import MODELS
from parity.spec.preprocessing import published
from parity.spec.training.losses import ClassWeights
from parity.spec.training.recipe import Recipe
from tests.published_training import Entry, holds

MINI = Path("data") / "cityscapes_mini"


def probe(image: np.ndarray) -> float:
    """The sum of a * sin(1 + i) over all numbers of an array, in their order."""
    a = image.astype(np.float64).ravel()
    return float((a * np.sin(1 + np.arange(a.size))).sum())


def plainly(name: str) -> str:
    """A class's name without its programs' habits."""
    return name.replace("_", " ").lower()


def check_classes(entry: Entry, name: str) -> None:
    """Names and colours in the order of a network's outputs."""
    recipe = recipes.recipe(name)
    data, (stage,) = DATASETS[recipe.data], recipe.stages
    at = outputs(recipe.labels or "void-last", len(data.classes))
    told = published(stage.config, recipe.labels)
    expected = entry.plain()
    assert stage.config.num_classes == len(expected) == len(data.palette)
    for train_id, output in enumerate(at.tolist()):
        name, colour = expected[output]
        assert data.palette[train_id] == tuple(colour), name
        void = train_id == data.void
        assert plainly(name) == ("unlabeled" if void else plainly(data.classes[train_id]))
        assert told.classes is not None
        assert told.classes[output] == ("void" if void else data.classes[train_id])
        assert (told.void == output) == void


@holds("enet/cityscapes_classes_in_output_order", "enet/camvid_classes_in_output_order")
def test_classes_in_the_order_of_outputs(cityscapes: Entry, camvid: Entry) -> None:
    """Catches two classes' names or colours exchanged, and void at another output."""
    check_classes(cityscapes, "enet-cityscapes")
    check_classes(camvid, "enet-camvid")


@holds("enet/cityscapes_full_classes", "enet/cityscapes_new_classes")
def test_id_map_of_enet(ids: Entry, new: Entry) -> None:
    """Catches an id of the label files that comes to another class, or to none."""
    order = outputs("void-first", len(CITYSCAPES.classes))
    found = [order[train_id] for train_id in CITYSCAPES.train_ids]
    expected = dict(zip(ids.plain(), new.plain(), strict=True))
    assert expected.pop(-1) == 0  # a licence plate, which no file holds
    assert dict(enumerate(found)) == expected


@holds("icnet/train_id_of_label_id_from_-1")
def test_id_map_of_icnet(entry: Entry) -> None:
    """Catches the same in the order of trainIds, ignored ids among them."""
    first, *expected = entry.plain()
    found = [-1 if t == CITYSCAPES.void else t for t in CITYSCAPES.train_ids]
    assert (first, expected) == (-1, found)
    for recipe in recipes.RECIPES.values():
        if recipe.name.startswith("icnet"):
            assert {stage.loss.ignore_index for stage in recipe.stages} == {-1}


@holds("genet/normalisation")
def test_normalisation_of_cifar10(entry: Entry) -> None:
    """Catches means or deviations of GENet in another order, or CIFAR-100's, which follow."""
    (mean, means), (std, deviations), *cifar100 = entry.plain()
    assert (mean, std) == ("MEAN", "STD")
    found = published(MODELS["genet"], None)
    assert found.mean == tuple(float(x) for x in means.split(","))
    assert found.std == tuple(float(x) for x in deviations.split(","))
    assert [name for name, _ in cifar100] == ["MEAN", "STD"]
    assert found.channels == "RGB"
    assert found.classes == cifar10.CLASSES


@holds("icnet/normalisation")
def test_normalisation_of_icnet(entry: Entry) -> None:
    """Catches ImageNet's means or deviations in another order, and BGR."""
    mean, std, channels = (
        tuple(entry["mean"].plain()),
        tuple(entry["std"].plain()),
        entry["channels"],
    )
    for model in ("icnet", "icnet-resnet101"):
        found = published(MODELS[model], None)
        assert (found.mean, found.std, found.channels) == (mean, std, channels)
    found = published(MODELS["erfnet-imagenet"], None)  # was trained on normalised images, too
    assert (found.mean, found.std, found.channels) == (mean, std, channels)
    for model in ("enet", "enet-camvid", "enet-mindspore", "erfnet", "erfnet-mindspore"):
        found = published(MODELS[model], None)
        assert (found.mean, found.std, found.channels) == ((0, 0, 0), (1, 1, 1), "RGB")


def source(name: str, root: Path, split: str) -> tuple[Recipe, Source]:
    recipe = recipes.recipe(name)
    return recipe, pipeline.open_source(recipe, root, split)


def measured(name: str, root: Path, file: str) -> pipeline.Batch:
    """What the pipeline makes of one image of the validation split, for a network."""
    recipe, found = source(name, root, "val")
    (at,) = (i for i in range(len(found)) if Path(found.name(i)).name == file)
    batches = pipeline.validation(found, recipe, recipe.stages[-1], batch=1, dtype="float64")
    return next(batch for batch in batches if int(batch.samples[0]) == at)


def check_image(entry: Entry, image: np.ndarray) -> None:
    np.testing.assert_allclose(
        image.mean((0, 1)), entry["image_mean_per_channel"].plain(), rtol=0, atol=2e-6
    )
    np.testing.assert_allclose(probe(image), entry["image_probe_HWC"], rtol=0, atol=2e-3)


@holds("enet/preprocessed")
def test_a_real_image_for_enet(entry: Entry, shared: Path) -> None:
    """Catches another resize, scale, channel order, id map or void for ENet and ERFNet."""
    batch = measured("enet-cityscapes", shared / MINI, entry["file"])
    (image,), (target,) = batch.images, batch.targets[0]
    assert list(image.shape[:2]) == entry["size"].plain()
    check_image(entry, image)
    counts = entry["label_counts"].plain()
    assert np.bincount(target.ravel(), minlength=20).tolist() == counts
    # The others have void last; the ports of MindSpore and ERFNet take the same image.
    for name in ("erfnet-cityscapes", "enet-mindspore", "erfnet-mindspore"):
        other = measured(name, shared / MINI, entry["file"])
        np.testing.assert_array_equal(other.images[0], image)
        found = np.bincount(other.targets[0].ravel(), minlength=20).tolist()
        assert found == [*counts[1:], counts[0]]


@holds("icnet/preprocessed")
def test_a_real_image_for_icnet(entry: Entry, shared: Path) -> None:
    """Catches another normalisation, size or id map for ICNet."""
    batch = measured("icnet-cityscapes", shared / MINI, entry["file"])
    assert batch.truth is not None
    (image,), (truth,) = batch.images, batch.truth
    check_image(entry, image)
    ignored, *counts = entry["label_counts_ignore_then_0_to_18"].plain()
    assert np.bincount(truth.ravel(), minlength=20).tolist() == [*counts, ignored]


def weighed(name: str, root: Path, split: str, rule: ClassWeights, files: list[str]) -> np.ndarray:
    """A rule's weights of some images, in the order of the outputs, at the recipe's size."""
    recipe, found = source(name, root, split)
    pairs = found.reader
    assert isinstance(pairs, Pairs)
    if files:
        chosen = tuple(s for s in pairs.samples if s.image.name in files)
        assert len(chosen) == len(files)
        found = dataclasses.replace(found, reader=Pairs(pairs.data, chosen))
    (stage,) = recipe.stages
    stage = dataclasses.replace(stage, loss=dataclasses.replace(stage.loss, class_weights=rule))
    weights = statistics.class_weights(recipe, stage, found)
    assert weights is not None
    return weights


@holds("enet/enet_weighing_5_images")
def test_log_rule_on_real_labels(entry: Entry, shared: Path) -> None:
    """Catches another constant or logarithm, void left out of the shares, or void that weighs."""
    expected = np.array(entry.plain())
    rule = recipes.recipe("enet-cityscapes").stages[0].loss.class_weights
    found = weighed("enet-cityscapes", shared / MINI, "val", rule, [])
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-6)
    # The published program counts void and then sets its weight to 0.
    assert found[0] == 0
    void = dataclasses.replace(rule, void=float(expected[0]))
    counts = statistics.count(source("enet-cityscapes", shared / MINI, "val")[1], (512, 1024))
    share = counts.pixels[0] / counts.pixels.sum()
    np.testing.assert_allclose(1 / np.log(1.02 + share), void.void, rtol=1e-12)


@holds("enet/camvid_enet_weighing_first_20_train_labels")
def test_log_rule_on_camvid(entry: Entry, shared: Path) -> None:
    """Catches the same of CamVid, whose void is the last output."""
    rule = recipes.recipe("enet-camvid").stages[0].loss.class_weights
    files, expected = entry["files"].plain(), np.array(entry["weights"].plain())
    found = weighed("enet-camvid", shared / "data" / "camvid", "train", rule, files)
    np.testing.assert_allclose(found[:11], expected[:11], rtol=1e-6)
    assert found[11] == 0
    assert len(files) == 20


@holds("enet/median_freq_5_images")
def test_median_rule_on_real_labels(entry: Entry, shared: Path) -> None:
    """Catches another median or frequency, and a class that is absent and makes all weights NaN.

    The published program divides 0 by 0 for such a class, so that nothing can be trained; here its
    weight is 0, and the median is that of the classes that are there.
    """
    assert set(entry.plain()) == {None}
    found = weighed("enet-cityscapes", shared / MINI, "val", ClassWeights("median"), [])
    pixels, beside = np.zeros(20), np.zeros(20)
    for path in sorted((shared / MINI / "gtFine").rglob("*_labelIds.png")):
        label = np.asarray(Image.open(path).resize((1024, 512), Image.Resampling.NEAREST))
        here = np.array([(label == label_id).sum() for label_id in LABEL_IDS.values()])
        pixels[: len(here)] += here
        beside[: len(here)] += np.where(here > 0, label.size, 0)
    with np.errstate(invalid="ignore"):
        frequency = (pixels / beside)[:19]
    assert np.isnan(frequency).any()
    expected = np.nanmedian(frequency) / frequency
    np.testing.assert_allclose(found, [0, *np.nan_to_num(expected)], rtol=1e-6)


# cityscapesscripts: the ids of the classes that are evaluated, in the order of their trainIds.
LABEL_IDS = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17,
    "traffic light": 19, "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23,
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32,
    "bicycle": 33,
}  # fmt: skip


# Height and width that the published programs resize images to before their networks.
IMAGE_SIZES = {
    "enet": (512, 1024), "enet-camvid": (360, 480), "enet-mindspore": (512, 1024),
    "erfnet": (512, 1024), "erfnet-encoder": (512, 1024), "erfnet-mindspore": (512, 1024),
    "erfnet-imagenet": (224, 224), "icnet": (1024, 2048), "genet": (32, 32),
}  # fmt: skip


@pytest.mark.parametrize("model", IMAGE_SIZES)
def test_sizes_of_images(model: str) -> None:
    """Catches another size in the manifest of a file that says none, and so in every command."""
    assert published(MODELS[model], None).size == IMAGE_SIZES[model]
    stages = [s for r in recipes.RECIPES.values() for s in r.stages if s.model == model]
    assert {published(stage.config, None).size for stage in stages} <= {IMAGE_SIZES[model]}


def test_label_ids() -> None:
    """Catches a class whose id in the label files is another's, and names of another order."""
    assert CITYSCAPES.classes == tuple(LABEL_IDS)
    found = {i: t for i, t in enumerate(CITYSCAPES.train_ids) if t != CITYSCAPES.void}
    assert found == {label_id: i for i, label_id in enumerate(LABEL_IDS.values())}
    assert len(CITYSCAPES.train_ids) == 34
    assert BUILT_IN["cityscapes"].ids == (*LABEL_IDS.values(), 0)  # unlabelled
    assert CAMVID.train_ids == tuple(range(12))
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert tuple(names.split()) == cifar10.CLASSES


@holds(
    "erfnet/class_weights_encoder",
    "erfnet/class_weights_decoder",
    "enet_mindspore/class_weights_encoder",
    "enet_mindspore/class_weights_whole",
    "erfnet_mindspore/class_weights_encoder",
    "erfnet_mindspore/class_weights_whole",
)
def test_class_weights_digit_by_digit(*entries: Entry) -> None:
    """Catches two digits exchanged, an encoder's weights for the whole, void that weighs."""
    both = [entry.plain() for entry in entries]
    pairs = {
        "erfnet-cityscapes": both[:2],
        "erfnet-cityscapes-imagenet": both[:2],
        "enet-mindspore": both[2:4],
        "erfnet-mindspore": both[4:],
    }
    for name, (encoder, whole) in pairs.items():
        for stage in recipes.recipe(name).stages:
            rule = stage.loss.class_weights
            expected = encoder if stage.model.endswith("encoder") else whole
            assert (rule.rule, rule.values, rule.void) == ("fixed", tuple(expected), 0)
            found = statistics.weights(rule, None, 19, 19, True)
            np.testing.assert_array_equal(found, np.float32([*expected, 0]))
    assert len(both[0]) == len(both[1]) == 19


@pytest.mark.parametrize("split", ["train", "val"])
def test_camvid_is_whole(split: str, shared: Path) -> None:
    """Catches a split that is read in part: 367 images train, 101 validate."""
    _, found = source("enet-camvid", shared / "data" / "camvid", split)
    assert len(found) == {"train": 367, "val": 101}[split]
