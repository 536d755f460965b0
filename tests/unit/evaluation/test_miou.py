"""L6 and `parity miou`: both sides on a data set."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import parity.evaluation.miou
import torch_impl.state
from parity import cli
from parity.evaluation.miou import MiouResult, miou
from parity.spec import draw, metrics
from parity.spec.errors import InputError
from parity.spec.labels import outputs
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENetConfig
from parity.spec.preprocessing import IMAGENET
from tests.scenes import NAMES, camvid, cityscapes, save, save_weights

SIZE = (24, 40)


GOLDEN = "enet_cityscapes_20c_miou.json"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 20 outputs."""
    folder = tmp_path_factory.mktemp("weights")
    return save_weights(folder / "enet.pth", draw.weights(ENetConfig(), seed=0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in Cityscapes' layout."""
    return cityscapes(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def result(weights: Path, data: Path) -> MiouResult:
    return miou(weights, data, SIZE)


def test_both_sides_count_alike(result: MiouResult) -> None:
    """Catches a side that predicts something else, and pixels lost or counted twice."""
    torch_score, jax_score = result.frameworks["torch"], result.frameworks["jax"]
    np.testing.assert_array_equal(torch_score.confusion, jax_score.confusion)
    assert result.disagreeing_pixels == 0
    assert result.passed
    assert torch_score.confusion.sum() == result.pixels == 4 * 24 * 40
    assert np.count_nonzero(torch_score.confusion.sum(axis=0)) > 5  # it predicts many classes


def test_truth_is_in_the_rows(result: MiouResult, data: Path) -> None:
    """Catches a transposed matrix, and labels in another order than the outputs'."""
    counts = np.zeros(20, np.int64)
    for sample in result.data.samples(data, "val"):
        counts += np.bincount(result.data.load(sample, *SIZE)[1].ravel(), minlength=20)
    np.testing.assert_array_equal(result.frameworks["jax"].confusion.sum(axis=1), counts)


def test_enlarged_predictions(weights: Path, data: Path) -> None:
    """Catches predictions enlarged otherwise than a map of classes is, or counted on small labels.

    ERFNet's paper: the largest logit first, then each pixel twice in both directions.
    """
    whole = (2 * SIZE[0], 2 * SIZE[1])
    found = miou(weights, data, SIZE, count_size=whole, limit=1)
    assert found.disagreeing_pixels == 0
    assert (found.pixels, found.compared_pixels) == (4 * 24 * 40, 24 * 40)
    sample = found.data.samples(data, "val")[0]
    image, _ = found.data.load(sample, *SIZE)
    model = torch_impl.state.build(ENetConfig(), draw.weights(ENetConfig(), seed=0)).eval()
    with torch.inference_mode():
        x = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None].contiguous()
        classes = model(x).argmax(1, keepdim=True).float()
        large = torch.nn.functional.interpolate(classes, scale_factor=2, mode="nearest")
    ids = Image.open(sample.label).resize(whole[::-1], Image.Resampling.NEAREST)
    truth = np.array([found.data.train_ids[i] for i in np.asarray(ids).ravel()])
    expected = metrics.confusion(truth, large[0, 0].numpy().astype(int).ravel(), 20)
    for score in found.frameworks.values():
        assert np.abs(score.confusion - expected).sum() <= 8  # a pixel, four times
    assert found.as_json()["counted_size"] == list(whole)
    assert "predictions of 24x40 are enlarged" in str(found.counted_how)


def test_float64_leaves_jax_as_it_was(
    weights: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches 64 bits switched on for whoever comes next, and float64 computed in 32 bits."""
    import jax

    made, predictor = {}, parity.evaluation.miou.predictor

    def kept(framework: str, *args: Any) -> Any:
        made[framework] = predictor(framework, *args)
        return made[framework]

    monkeypatch.setattr(parity.evaluation.miou, "predictor", kept)
    before = jax.config.jax_enable_x64
    found = miou(weights, data, SIZE, dtype="float64", limit=1)
    assert jax.config.jax_enable_x64 is before
    assert found.disagreeing_pixels == 0
    assert made["jax"].logits(np.zeros((1, *SIZE, 3), np.uint8)).dtype == np.float64


def test_void_first_gives_the_same_iou(result: MiouResult, data: Path, tmp_path: Path) -> None:
    """Catches an order of labels that moves a class, in the matrix, the IoU or the pictures."""
    arrays = draw.weights(ENetConfig(), seed=0)
    last = outputs("void-first", 19)
    arrays["transposed_conv.weight"] = arrays["transposed_conv.weight"][:, np.argsort(last)]
    path = save_weights(tmp_path / "first.pth", arrays)
    first = miou(path, data, SIZE, labels="void-first", frameworks=["torch"])
    expected = result.frameworks["torch"]
    np.testing.assert_array_equal(first.frameworks["torch"].iou, expected.iou)
    moved = first.frameworks["torch"].confusion[np.ix_(last, last)]
    np.testing.assert_array_equal(moved, expected.confusion)
    assert first.pictures[0].figures["truth"] == result.pictures[0].figures["truth"]
    assert first.pictures[0].figures["torch"] == result.pictures[0].figures["torch"]
    assert first.as_json()["outputs"][:2] == ["void", "road"]
    assert result.as_json()["outputs"][-2:] == ["bicycle", "void"]


def test_the_manifest_says_the_order(weights: Path, data: Path, tmp_path: Path) -> None:
    """Catches a manifest that is not read, or that overrules the user."""
    import weights_convert

    path = tmp_path / "enet.safetensors"
    weights_convert.convert(weights, path, labels="void-first")
    found = miou(path, data, SIZE, frameworks=["torch"], limit=1)
    assert (found.labels, found.assumed.labels.reason) == (
        "void-first",
        "the checkpoint's manifest says so",
    )
    found = miou(path, data, SIZE, frameworks=["torch"], limit=1, labels="void-last")
    assert found.labels == "void-last"
    assert "manifest says void-first" in found.assumed.labels.reason


def test_logits_that_are_not_finite_fail(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches two sides that agree on NaN."""
    arrays = draw.weights(ENetConfig(), seed=0)
    arrays["transposed_conv.weight"][0, 3] = np.nan
    path = save_weights(tmp_path / "nan.pth", arrays)
    for framework in ("torch", "jax"):
        with pytest.raises(FloatingPointError, match=rf"{framework}, .*{NAMES[0]}.*not finite"):
            miou(path, data, SIZE, frameworks=[framework])
    arguments = ["miou", "--weights", str(path), "--data", str(data), "--size", "24x40"]
    assert cli.main(arguments) == 1
    assert "not finite" in capsys.readouterr().err


class Fake:
    """Predicts class 0, but for one pixel of each image that jax gives class 1."""

    def __init__(self, framework: str) -> None:
        self.framework = framework

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self.logits(images).argmax(axis=-1).astype(np.int32)

    def logits(self, images: np.ndarray) -> np.ndarray:
        logits = np.zeros((*images.shape[:3], 20))
        logits[..., 0] = 1
        logits[:, 5, 6, 1] = 2 * (self.framework == "jax")
        return logits


def fake_predictors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parity.evaluation.miou, "predictor", lambda framework, *_: Fake(framework))


def test_disagreement_fails(
    weights: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches a comparison that cannot fail: here one pixel of each image differs."""
    fake_predictors(monkeypatch)
    out = tmp_path / "miou.json"
    arguments = ["miou", "--weights", str(weights), "--data", str(data), "--size", "24x40"]
    assert cli.main([*arguments, "--json", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "FAILED: 4 of 3,840 pixels disagree in float32; rounding explains 0, 4 count against the"
        " port\n"
    )
    assert "4 of 3,840" in captured.out
    written = json.loads(out.read_text())
    assert written["disagreeing_pixels"] == written["counting_pixels"] == 4
    assert written["explained_pixels"] == 0
    assert written["images"][0]["judged"]["in_float64"] == 1
    assert not written["passed"]
    assert [image["disagreeing_pixels"] for image in written["images"]] == [1, 1, 1, 1]


@pytest.mark.parametrize(("pixels", "counting"), [(0, 0), (1, 1)])
def test_in_float64_every_pixel_counts(result: MiouResult, pixels: int, counting: int) -> None:
    """Catches rounding taken for an excuse where it is too small to be one."""
    image = dataclasses.replace(result.images[0], disagreeing_pixels=pixels)
    case = dataclasses.replace(result, dtype="float64", images=[image])
    assert case.passed is (counting == 0)
    assert case.counting_pixels == counting
    assert case.verdict.startswith("FAILED" if counting else "PASSED")


def test_a_class_absent_everywhere(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches NaN in the JSON, and an absent class in the mean over present ones."""
    fake_predictors(monkeypatch)
    root = cityscapes(tmp_path / "data")
    for name in NAMES:
        label = root / f"gtFine/val/{name.split('_')[0]}/{name}_gtFine_labelIds.png"
        save(label, np.full((32, 64), 7, np.uint8))
    found = miou(weights, root, SIZE)
    found.to_json(tmp_path / "miou.json")
    score = json.loads((tmp_path / "miou.json").read_text())["frameworks"]["torch"]
    assert score["iou"] == [1.0] + [None] * 18
    assert score["mean_iou_present"] == 1.0
    assert score["mean_iou_absent_as_zero"] == pytest.approx(1 / 19)
    assert "absent" in found.to_html(tmp_path).read_text()


def test_names_are_escaped(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a file name that becomes markup."""
    fake_predictors(monkeypatch)
    root = camvid(tmp_path / "data")
    for folder, suffix in (("val", ".png"), ("valannot", ".png")):
        (root / folder / f"b{suffix}").rename(root / folder / f"b<i onload=x>&{suffix}")
    path = save_weights(tmp_path / "<b>.pth", draw.weights(ENetConfig(num_classes=12), seed=0))
    page = miou(path, root, SIZE).to_html(tmp_path / "pages").read_text()
    assert "b&lt;i onload=x&gt;&amp;" in page
    assert "<i " not in page
    assert "<b>.pth" not in page


def test_differences_stay_visible() -> None:
    """Catches single pixels lost where the map is scaled down."""
    from parity.evaluation.page import _marks

    for y, x in ((0, 0), (511, 1023), (300, 1)):
        differ = np.zeros((512, 1024), bool)
        differ[y, x] = True
        assert _marks(differ, (320, 640)).sum() >= 9
    assert not _marks(np.zeros((512, 1024), bool), (320, 640)).any()


def test_progress_is_told(weights: Path, data: Path) -> None:
    """Catches a bar that stands still or never ends."""
    seen: list[tuple[int, int]] = []
    miou(
        weights,
        data,
        SIZE,
        frameworks=["torch"],
        limit=2,
        progress=lambda done, total, _: seen.append((done, total)),
    )
    assert seen == [(0, 2), (1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [("float64", 1), ("float32", None), pytest.param("float64", None, marks=pytest.mark.long)],
)
def test_real_checkpoint_on_real_images(
    shared: Path, golden: Path, dtype: str, limit: int | None
) -> None:
    """Catches anything lost between the published network and either side, image by image.

    In float64 every count equals the reference's; in float32 1 pixel in 100,000 may move. All
    images in float64: `long`.
    """
    expected = json.loads((golden / GOLDEN).read_text())
    found = miou(
        shared / "checkpoints" / "enet_cityscapes_20c.pth",
        shared / "data" / "cityscapes_mini",
        dtype=dtype,
        pictures=0,
        limit=limit,
    )
    assert [image.name for image in found.images] == list(expected["confusion"])[:limit]
    assert found.passed
    assert found.sizes.images == (512, 1024)
    moved = dict.fromkeys(found.frameworks, 0)
    for image in found.images:
        for name, matrix in image.confusion.items():
            difference = np.abs(matrix - np.array(expected["confusion"][image.name]))
            moved[name] += -(-int(difference.sum()) // 2)
    allowed = found.pixels // 100_000 if dtype == "float32" else 0
    assert max(moved.values()) <= allowed
    for score in found.frameworks.values() if limit is None else ():
        assert round(score.mean_iou_present, 4) == 0.4972


def test_errors_have_one_kind(weights: Path, data: Path) -> None:
    """Catches a Python call that raises something else than the command line reports."""
    with pytest.raises(InputError, match="size: input is 5x5"):
        miou(weights, data, (5, 5))


def test_a_network_of_several_outputs_and_none_for_void(data: Path, tmp_path: Path) -> None:
    """Catches ICNet refused or taken for ENet, another of its outputs, or images without mean."""
    config = MODELS["icnet"]
    path = save_weights(tmp_path / "icnet.pth", arrays := draw.weights(config, seed=0))
    found = miou(path, data, (64, 96), frameworks=["torch"], limit=1)
    assert found.model == "icnet"
    assert found.assumed.labels.reason == "the network has no output for void"
    image, truth = found.data.load(found.data.samples(data, "val")[0], 64, 96)
    model = torch_impl.state.build(config, arrays).eval()
    x = (image / 255.0 - IMAGENET[0]) / IMAGENET[1]
    with torch.inference_mode():
        logits = model(torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None].contiguous())
    expected = metrics.confusion(truth, logits[0].argmax(1)[0].numpy(), 20)
    moved = np.abs(found.frameworks["torch"].confusion - expected).sum() / 2
    assert moved <= 5  # pixels whose classes are equal but for rounding
    with pytest.raises(InputError, match="labels void-first, but the network has no output for"):
        miou(path, data, (64, 96), model="icnet", labels="void-first")
