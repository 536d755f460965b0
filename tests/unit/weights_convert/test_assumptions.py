"""What a command takes a checkpoint for: its manifest decides, `--labels` overrules it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import weights_convert
from parity import cli
from parity.data.cityscapes import CITYSCAPES
from parity.evaluation import checkpoints as evaluation
from parity.evaluation.miou import MiouResult, miou
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENetConfig
from parity.spec.preprocessing import Preprocessing
from parity.spec.recipes import RECIPES, recipe
from parity.spec.training.trainer import Snapshot
from parity.training import checkpoints
from parity.training.progress import KEY, Origin, TrainProgress
from parity.training.stage_start import StageStart
from tests.scenes import cityscapes, save_weights
from weights_convert.assumptions import Assumed, assume, choose
from weights_convert.formats import sidecar

SIZE = (16, 32)
SIDE = f"{SIZE[0]}x{SIZE[1]}"
OTHER = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25), "BGR")


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return draw.weights(ENetConfig(), seed=0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    cityscapes(root, 2 * SIZE[0], 2 * SIZE[1])
    return cityscapes(root, *SIZE, split="train")


def save(path: Path, arrays: dict[str, np.ndarray], labels: str | None, **more: Any) -> Path:
    """A checkpoint with a manifest."""
    path.parent.mkdir(exist_ok=True)
    given = {"labels": labels, "preprocessing": Preprocessing(SIZE), **more}
    weights_convert.save(path, ENetConfig(), arrays, "torch", **given)
    return path


def evaluated(folder: Path, data: Path, *more: str) -> dict[str, Any]:
    """What `parity eval` writes of a folder with one checkpoint, by ENet's recipe."""
    out = folder.parent / "found.json"
    command = ["eval", str(folder), "--data", str(data), "--recipe", "enet-cityscapes"]
    assert cli.main([*command, "--workers", "0", "--json", str(out), *more]) == 0
    (found,) = json.loads(out.read_text())
    return found


def torch_miou(path: Path, data: Path, **more: Any) -> MiouResult:
    return miou(path, data, frameworks=["torch"], pictures=0, **more)


def agree(found: dict[str, Any], expected: MiouResult) -> None:
    """Check that both have one IoU, but for what rounding decides: batches differ in size."""
    ious = [np.nan if x is None else x for x in found["iou_class"].values()]
    np.testing.assert_allclose(ious, expected.frameworks["torch"].iou, atol=3e-3)


def test_eval_follows_the_manifest(
    arrays: dict[str, np.ndarray], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches void taken for the first output as the recipe has it: 0.19 % for 49.72."""
    path = save(tmp_path / "said" / "a.safetensors", arrays, "void-last")
    expected = {
        order: torch_miou(path, data, labels=order) for order in ("void-last", "void-first")
    }
    ious = [result.frameworks["torch"].iou for result in expected.values()]
    assert np.nanmax(abs(ious[0] - ious[1])) > 1e-2  # else nothing could be told apart
    capsys.readouterr()
    found = evaluated(path.parent, data)
    agree(found, expected["void-last"])
    assert (found["labels"], found["size"]) == ("void-last", list(SIZE))
    shown = capsys.readouterr()
    assert "labels: void-last (the checkpoint's manifest says so)" in shown.out
    assert f"size: {SIDE} (the checkpoint's manifest says so)" in shown.out
    assert "void-last" in shown.err.splitlines()[0]
    assert "but recipe enet-cityscapes has void-first" in shown.err.splitlines()[0]
    agree(evaluated(path.parent, data, "--labels", "void-first"), expected["void-first"])
    assert "but the checkpoint's manifest says void-last" in capsys.readouterr().err


def test_eval_says_what_it_assumes(
    arrays: dict[str, np.ndarray], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a foreign file measured by an order that nobody is told of, or `--labels` unheard."""
    (tmp_path / "foreign").mkdir()
    path = save_weights(tmp_path / "foreign" / "a.pth", arrays)
    found = evaluated(path.parent, data, "--size", SIDE, "--labels", "void-last")
    agree(found, torch_miou(path, data, size=SIZE))
    capsys.readouterr()
    found = evaluated(path.parent, data, "--size", SIDE)
    agree(found, torch_miou(path, data, size=SIZE, labels="void-first"))
    assert (
        "labels: void-first (recipe enet-cityscapes; the checkpoint does not say)"
        in capsys.readouterr().out
    )


def test_eval_prepares_images_as_the_manifest_says(
    arrays: dict[str, np.ndarray], data: Path, tmp_path: Path
) -> None:
    """Catches mean, deviation or channels of the recipe's network in place of the checkpoint's."""
    plain = save(tmp_path / "plain" / "a.safetensors", arrays, "void-first")
    path = save(tmp_path / "other" / "a.safetensors", arrays, "void-first", preprocessing=OTHER)
    found = evaluated(path.parent, data)
    agree(found, torch_miou(path, data))
    assert found["channels"] == "BGR"
    other = torch_miou(plain, data).frameworks["torch"].iou
    assert np.nanmax(abs(other - torch_miou(path, data).frameworks["torch"].iou)) > 1e-2


def test_predictions_are_enlarged_alike(
    arrays: dict[str, np.ndarray], data: Path, tmp_path: Path
) -> None:
    """Catches `eval` and `miou` that count at a size in two ways."""
    path = save(tmp_path / "said" / "a.safetensors", arrays, "void-first")
    whole = (2 * SIZE[0], 2 * SIZE[1])
    found = evaluated(path.parent, data, "--count-size", f"{whole[0]}x{whole[1]}")
    expected = torch_miou(path, data, count_size=whole)
    agree(found, expected)
    assert found["count_size"] == list(whole)
    assert expected.pixels == 4 * whole[0] * whole[1]


def test_training_does_not_begin_with_other_classes(
    arrays: dict[str, np.ndarray], tmp_path: Path
) -> None:
    """Catches `--start` whose output layer is trained on other labels than it was."""
    enet, first = recipe("enet-cityscapes"), "enet-cityscapes trains void-first"
    last = save(tmp_path / "last.safetensors", arrays, "void-last")
    with pytest.raises(InputError, match=rf"void-last .*{first}.*--labels void-last"):
        StageStart(enet, last).check()
    assert "void-last" in StageStart(dataclasses.replace(enet, labels="void-last"), last).check()[0]
    assert "asked for" in StageStart(enet, last, labels="void-first").check()[0]
    foreign = save_weights(tmp_path / "foreign.pth", arrays)
    (line,) = StageStart(enet, foreign).check()
    assert line == "labels: void-first (recipe enet-cityscapes; the checkpoint does not say)"
    images = save(tmp_path / "images.safetensors", arrays, "void-first", preprocessing=OTHER)
    lines = StageStart(enet, images).check()
    assert "was trained on BGR in [0, 1], minus 0.5 0.4 0.3, by 0.2 0.3 0.25" in lines[1]
    assert f"is for images of {SIDE}" in lines[2]


def test_a_run_that_contradicts_itself(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Catches `--resume` with a checkpoint whose manifest and recipe name other outputs."""
    run = recipe("enet-cityscapes")
    origin = Origin.of(run, "torch", TrainProgress(), Snapshot(arrays, {}), None)
    path = save(tmp_path / "a.safetensors", arrays, "void-last", metadata={KEY: origin.to_json()})
    with pytest.raises(InputError, match=r"contradicts itself.*void-last.*void-first"):
        checkpoints.read(path)


def manifest(arrays: dict[str, np.ndarray], folder: Path, labels: str | None, **said: Any) -> Any:
    images = Preprocessing(SIZE, **said)
    path = save(folder / "a.safetensors", arrays, labels, preprocessing=images)
    return weights_convert.load(path).manifest


def test_all_that_a_manifest_says(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    """Catches void told by its number, or outputs told by name, that nobody compares."""
    names = CITYSCAPES.classes
    by_number = manifest(arrays, tmp_path, None, void=0)
    assert assume(ENetConfig(), by_number, "a", names).labels.value == "void-first"
    assert assume(ENetConfig(), None, "a", names).labels.value == "void-last"
    cases: list[tuple[dict[str, Any], str]] = [
        ({"void": 3}, "output 3 of 20 is void"),
        ({"void": 0, "labels": "void-last"}, "contradicts itself"),
        ({"classes": ("void", *names)}, "output 0 is 'void', but the data set has 'road'"),
        ({"classes": (*names[::-1], "void")}, "output 0 is 'bicycle'"),
    ]
    for said, message in cases:
        said = {"labels": None, **said}
        found = manifest(arrays, tmp_path, **said)
        with pytest.raises(InputError, match=message):
            assume(ENetConfig(), found, "a", names)
        assert assume(ENetConfig(), found, "a", names, labels="void-last").labels.value
    right = manifest(arrays, tmp_path, "void-first", classes=("unlabelled", *names))
    assert assume(ENetConfig(), right, "a", names).labels.value == "void-first"


def test_the_rule() -> None:
    """Catches another order of precedence, and a contradiction that is not told."""
    weak, firm = Assumed("c", "the default"), Assumed("c", "recipe r", firm=True)
    assert choose("a", "b", weak).value == "a"
    assert choose("a", "b", weak).clash == "the checkpoint's manifest says b"
    assert choose("a", "a", weak).clash is None
    assert (choose(None, "b", weak).value, choose(None, "b", weak).clash) == ("b", None)
    assert choose(None, "b", firm).clash == "recipe r has c"
    assert choose(None, None, firm).reason == "recipe r; the checkpoint does not say"


def test_export_takes_the_size_of_the_manifest(
    arrays: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a file of another size than the checkpoint is for, or printed as of another batch."""
    from parity.export.reading import open_network

    path, out = save(tmp_path / "a.safetensors", arrays, "void-last"), tmp_path / "a.onnx"
    command = ["export", "enet", str(out), "--weights", str(path)]
    command += ["--framework", "jax"]  # which is quicker
    assert cli.main(command) == 0
    assert (open_network(out).size, open_network(out).batch) == (SIZE, 1)
    shown = capsys.readouterr()
    assert f"input: 1x3x{SIDE}, float32" in shown.out
    assert "labels: void-last (the checkpoint's manifest says so)" in shown.out
    assert shown.err == ""
    assert cli.main([*command, "--labels", "void-first", "--dynamic-batch"]) == 0
    shown = capsys.readouterr()
    assert f"input: Nx3x{SIDE}, float32" in shown.out
    assert "but the checkpoint's manifest says void-last" in shown.err
    said = open_network(out).manifest
    assert said is not None
    assert said.labels == "void-first"


def test_an_encoder(data: Path, tmp_path: Path) -> None:
    """Catches a traceback, or labels that are not those of the encoder's training."""
    import torch
    from PIL import Image

    import torch_impl.state
    from parity.spec import metrics

    config, size = MODELS["erfnet-encoder"], (32, 64)
    drawn = draw.weights(config, seed=0)
    path = save_weights(tmp_path / "encoder.pth", drawn)
    found = torch_miou(path, data, model="erfnet-encoder", size=size)
    model, expected = torch_impl.state.build(config, drawn).eval(), np.zeros((20, 20), np.int64)
    for sample in CITYSCAPES.samples(data, "val"):
        image, truth = CITYSCAPES.load(sample, *size)
        small = np.asarray(Image.fromarray(truth).resize((8, 4), Image.Resampling.NEAREST))
        with torch.inference_mode():
            x = torch.from_numpy(image / np.float32(255)).permute(2, 0, 1)[None]
            classes = model(x).argmax(1)[0].numpy()
        expected += metrics.confusion(small, classes, 20)
    assert np.abs(found.frameworks["torch"].confusion - expected).sum() <= 2
    assert found.pixels == 4 * 4 * 8
    assert "4x8, which is what the network predicts" in str(found.counted_how)
    whole = torch_miou(path, data, model="erfnet-encoder", size=size, count_size=size)
    assert whole.frameworks["torch"].confusion.sum() == 4 * 32 * 64


def test_eval_without_a_training_split(
    arrays: dict[str, np.ndarray], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a training split asked for that no score needs, and a loss with other weights."""
    root = cityscapes(tmp_path / "data", 2 * SIZE[0], 2 * SIZE[1])  # val alone
    path = save(tmp_path / "files" / "a.safetensors", arrays, "void-first")
    command = ["eval", str(path), "--data", str(root), "--workers", "0", "--recipe"]
    assert cli.main([*command, "enet-cityscapes", "--json", str(tmp_path / "weighed.json")]) == 0
    said = capsys.readouterr().out
    assert "mean loss: not computed: " in said
    assert "no split 'train', found val; the loss of recipe enet-cityscapes weighs classes" in said
    assert "rule 'log', which counts the pixels of split 'train'" in said
    file = tmp_path / "unweighted.toml"
    file.write_text('base = "enet-cityscapes"\n[stages.whole.loss.class_weights]\nrule = "none"\n')
    assert cli.main([*command, str(file), "--json", str(tmp_path / "unweighted.json")]) == 0
    weighed, plain = (
        json.loads((tmp_path / f"{name}.json").read_text())[0] for name in ("weighed", "unweighted")
    )
    assert weighed.pop("mean_loss") is None
    assert plain.pop("mean_loss") > 0
    assert weighed == plain


@pytest.mark.parametrize("model", ["genet", "genet-theta", "erfnet-imagenet"])
def test_of_whole_images_nothing_is_void(model: str) -> None:
    """Catches "labels: unknown" of a classifier, or an order asked for that it cannot have."""
    for classes in (None, tuple(map(str, range(MODELS[model].num_classes)))):
        found = assume(MODELS[model], None, "a", classes)
        assert found.labels.value is None
        assert not any("label" in line or "void" in line for line in found.lines())
    with pytest.raises(InputError, match="a: labels void-last, but the outputs are classes of who"):
        assume(MODELS[model], None, "a", None, labels="void-last")


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.labels])
def test_one_way_to_decide(name: str, tmp_path: Path) -> None:
    """Catches `miou` and `eval` that take a network for two things and do not say so."""
    recipe = RECIPES[name]
    for stage in recipe.stages:
        path = save_weights(tmp_path / "a.pth", draw.weights(stage.config, 0))
        if "mindspore" in name:
            path = tmp_path / "a.ckpt"
            weights_convert.convert(tmp_path / "a.pth", path, stage.model)
            sidecar.beside(path).unlink()
        by_recipe = evaluation.assumptions(path, evaluation.read(path, recipe, None)).labels
        loaded = weights_convert.load(path, stage.model)
        ours = assume(loaded.config, loaded.manifest, path, recipe.dataset.classes)
        if by_recipe.value == "void-last":
            assert ours.labels.value == "void-last"
        else:
            told = f"they are {by_recipe.value}: --labels {by_recipe.value}"
            assert any(told in line for line in ours.lines())


@pytest.mark.parametrize(
    "command",
    [
        "convert a b.npz",
        "eval a --data d",
        "export enet a.onnx --weights b",
        "miou --weights a --data d",
        "statistics d",
        "train enet-camvid --framework torch --data d --out o",
    ],
)
def test_a_folder_for_an_order(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a folder of labels refused without a word on where folders are given."""
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--labels", str(tmp_path)])
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{tmp_path} is a folder, expected void-last or void-first" in line
    assert "folder of the data set (--data), and by parity infer in --label-dir" in line
