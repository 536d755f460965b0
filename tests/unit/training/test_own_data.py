"""Data sets of the user's from training to pictures, as docs/data.md tells it."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from parity.cli import main
from parity.data import dataset
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig
from tests.scenes import save
from tests.small_recipe import BLOCKS
from weights_convert import load

PAGE = Path(__file__).resolve().parents[3] / "docs" / "data.md"
CLASSES = {2: ["background", "red"], 3: ["background", "red", "green"]}


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Small networks in place of those of the recipes."""
    enet: Any = MODELS["enet-camvid"]
    blocks = tuple(block for block in enet.blocks if block.name in BLOCKS)
    genet = MODELS["genet"]
    MODELS["enet-camvid"] = dataclasses.replace(enet, blocks=blocks)
    MODELS["genet"] = GENetConfig(depth=10, width=1)
    yield
    MODELS["enet-camvid"], MODELS["genet"] = enet, genet


@pytest.fixture(scope="module")
def example() -> tuple[dict[str, Any], list[list[str]]]:
    """The page's program, without its last line, and its commands."""
    text = PAGE.read_text().partition("### Example")[2].partition("###")[0]
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (commands,) = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    program, call, _ = program.rpartition('draw(Path("shapes")')
    assert call
    found: dict[str, Any] = {}
    exec(program, found)
    return found, [shlex.split(line)[1:] for line in commands.splitlines()]


@pytest.fixture(scope="module", params=[2, 3])
def run(
    request: pytest.FixtureRequest,
    example: tuple[dict[str, Any], list[list[str]]],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[str]]:
    """A folder in which the page was followed, with two or three classes; and these."""
    root, classes = tmp_path_factory.mktemp("own"), CLASSES[request.param]
    program, commands = example
    program["draw"](root / "shapes", classes)
    assert [command[0] for command in commands] == ["statistics", "train", "eval", "predict"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for command in commands:
            more = ["--workers", "0"] if command[0] in ("train", "eval") else []
            assert main([*command, *more]) == 0, command
    return root, classes


def test_the_page(run: tuple[Path, list[str]]) -> None:
    """Catches a command of the page that does not work, outputs for void, and other names."""
    root, classes = run
    checkpoint = load(root / "run" / "checkpoints" / "last.safetensors", config=config(classes))
    assert checkpoint.config.num_classes == len(classes)
    assert checkpoint.manifest is not None
    assert checkpoint.manifest.preprocessing.classes == tuple(classes)
    measured = json.loads((root / "run" / "checkpoints" / "metrics.json").read_text())
    assert list(measured[0]["iou_class"]) == classes
    logged = [json.loads(line) for line in (root / "run" / "log.jsonl").read_text().splitlines()]
    assert measured[-1]["score"] == pytest.approx(logged[-1]["score"], abs=1e-3)  # by torch
    assert list((root / "run" / "pictures").iterdir())


def config(classes: list[str]) -> Any:
    enet: Any = MODELS["enet-camvid"]
    return dataclasses.replace(enet, num_classes=len(classes))


def test_pictures(run: tuple[Path, list[str]]) -> None:
    """Catches label maps that the data set would read otherwise, and another image laid under."""
    root, classes = run
    data = dataset(root / "shapes")
    for name in ("00", "23"):
        color = Image.open(root / "drawn" / "color" / f"{name}.png")
        train_ids = np.asarray(color)
        assert train_ids.shape == (32, 48)
        assert train_ids.max() < len(classes)
        palette = np.array(data.palette, np.uint8)
        np.testing.assert_array_equal(np.asarray(color.convert("RGB")), palette[train_ids])
        image = root / "shapes" / "images" / f"{name}.png"
        ids = data.label(root / "drawn" / "ids" / f"{name}.png", None, image)
        np.testing.assert_array_equal(ids, train_ids)
        mean = (np.asarray(Image.open(image)).astype(int) + palette[train_ids]) / 2
        overlay = np.asarray(Image.open(root / "drawn" / "overlay" / f"{name}.png"))
        assert np.abs(overlay - mean).max() <= 0.5


def test_the_other_framework_predicts_the_same(run: tuple[Path, list[str]], tmp_path: Path) -> None:
    """Catches a framework that is given other pixels, sizes or an order of outputs of its own."""
    root, _ = run
    weights, images = str(root / "run" / "checkpoints" / "last.safetensors"), root / "shapes/images"
    assert main(["predict", str(images), "--weights", weights, "--framework", "jax",
                 "--out", str(tmp_path / "jax")]) == 0  # fmt: skip
    differ = 0
    for path in (root / "drawn" / "color").iterdir():
        other = np.asarray(Image.open(tmp_path / "jax" / "color" / path.name))
        differ += int((np.asarray(Image.open(path)) != other).sum())
    assert differ <= 5  # of 36,864: near ties


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_folders_of_classes(framework: str, tmp_path: Path) -> None:
    """Catches GENet with ten outputs, or images of many sizes refused."""
    for split in ("train", "val"):
        for i, kind in enumerate(("green", "red")):
            for n in range(4):
                image = np.zeros((40 + n, 30, 3), np.uint8)
                image[..., 1 - i] = 200
                save(tmp_path / "data" / split / kind / f"{n}.png", image)
    weights = tmp_path / "run" / "checkpoints" / "last.safetensors"
    options = ["--framework", framework, "--data", str(tmp_path / "data")]
    train = ["train", "genet-cifar10", *options, "--out", str(tmp_path / "run")]
    small = ["--precision", "fp32", "--loss-scale", "none", "--batch-size", "4", "--epochs", "1"]
    assert main([*train, *small, "--workers", "0"]) == 0
    assert main(["eval", str(weights), *options, "--workers", "0"]) == 0
    images = str(tmp_path / "data" / "val")
    command = ["predict", images, "--weights", str(weights), "--framework", framework]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    rows = list(csv.reader((tmp_path / "out" / "classes.csv").read_text().splitlines()))
    assert rows[0] == ["image", "class"]
    right = sum(Path(path).parent.name == kind for path, kind in rows[1:])
    text = weights.with_name("last.metrics.txt").read_text()
    assert float(text.splitlines()[1].split()[1]) == right / 8
    assert main([*command, "--out", str(tmp_path / "more"), "--ids"]) == 2
    assert main([*command, "--out", str(tmp_path / "more"), "--fit", "pad"]) == 2
    assert not (tmp_path / "more").exists()
