"""`parity miou` on the command line: what it writes, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import weights_convert
from parity import cli
from parity.spec import draw
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENetConfig
from tests.scenes import NAMES, cityscapes, save, save_weights
from torch_impl.evaluate import Predictor


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of 20 outputs."""
    folder = tmp_path_factory.mktemp("weights")
    return save_weights(folder / "enet.pth", draw.weights(ENetConfig(), seed=0))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images in Cityscapes' layout."""
    return cityscapes(tmp_path_factory.mktemp("data"))


def test_command(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a table, JSON or page that is not written, or lacks what it promises."""
    out, pages = tmp_path / "miou.json", tmp_path / "new" / "pages"
    arguments = ["miou", "--model", "enet", "--weights", str(weights), "--data", str(data)]
    arguments += ["--size", "24x40", "--limit", "3", "--pictures", "2"]
    assert cli.main([*arguments, "--json", str(out), "--html", str(pages)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no progress bar but on a terminal
    assert "void-last (the default; the checkpoint does not say)" in captured.out
    for text in ("traffic light", "jax - torch", "classes present", "absent ones as 0"):
        assert text in captured.out
    assert "PASSED: 0 of 2,880 pixels disagree" in captured.out
    check_json(json.loads(out.read_text()), weights)
    page = (pages / "index.html").read_text()
    assert [p.name for p in pages.iterdir()] == ["index.html"]
    assert "The first 2 of 3 images." in page
    assert page.count("<figure>") == 2 * 5
    assert all(name in page for name in NAMES[:2])
    assert NAMES[2] not in page
    sources = re.findall(r'(?:src|href)="([^"]{0,10})', page)
    assert sources
    assert all(source.startswith("data:image") for source in sources)
    assert "http" not in page.replace("http-equiv", "")


def check_json(written: dict, weights: Path) -> None:
    assert list(written["frameworks"]) == ["torch", "jax"]
    for score in written["frameworks"].values():
        matrix = np.array(score["confusion"])
        assert matrix.shape == (20, 20)
        assert matrix.sum() == written["pixels"] == 3 * 24 * 40
        assert len(score["iou"]) == len(written["classes"]) == 19
        present = [x for x in score["iou"] if x is not None]
        assert score["mean_iou_present"] == pytest.approx(np.mean(present), rel=1e-12)
        assert score["mean_iou_absent_as_zero"] == pytest.approx(sum(present) / 19, rel=1e-12)
        assert score["images_per_second"] > 0
    assert written["disagreeing_pixels"] == 0
    assert written["dataset"] == "cityscapes"
    assert written["weights_sha256"] == weights_convert.load(weights).sha256
    total = np.sum([image["confusion"]["jax"] for image in written["images"]], axis=0)
    assert total.tolist() == written["frameworks"]["jax"]["confusion"]


@pytest.mark.parametrize("compiled", [False, True])
def test_it_says_whether_it_compiled(
    compiled: bool, weights: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches numbers of a compiled network that look like the network's own."""
    monkeypatch.setattr(Predictor, "compile", lambda self, say: say("torch.compile: 1.0 s"))
    out = tmp_path / "miou.json"
    arguments = ["miou", "--weights", str(weights), "--data", str(data), "--size", "24x40"]
    arguments += ["--frameworks", "torch", "--limit", "1", "--json", str(out)]
    assert cli.main(arguments + ["--compile"] * compiled) == 0
    assert json.loads(out.read_text())["compiled"] is compiled


def test_one_framework_compares_nothing(
    weights: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches 0 reported for a comparison that was not made."""
    out = tmp_path / "miou.json"
    arguments = ["miou", "--weights", str(weights), "--data", str(data), "--size", "24x40"]
    arguments += ["--frameworks", "torch", "--limit", "1", "--json", str(out)]
    assert cli.main([*arguments, "--html", str(tmp_path / "pages")]) == 0
    assert "nothing to compare: torch alone was evaluated" in capsys.readouterr().out
    assert json.loads(out.read_text())["disagreeing_pixels"] is None
    assert (tmp_path / "pages" / "index.html").read_text().count("<figure>") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--size 0x5", "size .0x5., expected HEIGHTxWIDTH"),
        ("--size 6x64", "size: input is 6x64"),
        ("--size abc", "size 'abc', expected HEIGHTxWIDTH"),
        ("--size 512", "size '512'"),
        ("--size=-5x64", "size '-5x64'"),
        ("--model alexnet", "unknown model 'alexnet', expected enet"),
        ("--dataset voc", "unknown data set 'voc', expected cityscapes or camvid"),
        ("--dataset camvid", "not camvid, expected SPLIT/NAME.png"),
        ("--split test", "no split 'test', found val"),
        ("--labels void", "label order 'void', expected void-last or void-first"),
        ("--frameworks torch,tf", "unknown framework 'tf', expected torch or jax"),
        ("--frameworks torch,torch", "frameworks 'torch,torch', expected each once"),
        ("--dtype float16", "dtype 'float16', expected float32 or float64"),
        ("--limit 0", "limit is 0, expected 1 or more"),
        ("--pictures -1", "pictures is -1, expected 0 or more"),
        ("--weights {tmp}/nowhere.pth", "nowhere.pth"),
        ("--weights {tmp}/garbage.pth", "garbage.pth"),
        ("--weights {tmp}/12.pth", "12.pth: the network has 12 outputs, but cityscapes needs 20"),
        ("--weights {tmp}/genet.pth", "genet.pth: genet classifies whole images; parity eval"),
        ("--model genet", "genet: genet classifies whole images; parity eval"),
        ("--model decoder", "decoder takes token ids"),
        ("--data {tmp}/nowhere", "nowhere: no such folder"),
        ("--data camvid", "camvid: no such folder; --data is the folder of the data set, not its"),
        ("--count-size 5", "size '5', expected HEIGHTxWIDTH"),
        ("--data {tmp}", "no known layout"),
        ("--data {tmp}/garbage.pth", "garbage.pth: not a folder"),
        ("--json {tmp}/nowhere/miou.json", "no folder .*nowhere"),
        ("--json {tmp}", "a folder, expected the name of a file"),
        ("--html {tmp}/garbage.pth", "garbage.pth is a file, expected a folder"),
    ],
)
def test_bad_input(
    weights: Path,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    """Catches a traceback, an error that names nothing, and files written all the same."""
    (tmp_path / "garbage.pth").write_bytes(b"garbage")
    save_weights(tmp_path / "12.pth", draw.weights(ENetConfig(num_classes=12), seed=0))
    save_weights(tmp_path / "genet.pth", draw.weights(MODELS["genet"], seed=0))
    before = sorted(tmp_path.iterdir())
    given = ["--weights", str(weights), "--data", str(data), "--size", "24x40"]
    given += ["--json", str(tmp_path / "miou.json"), "--html", str(tmp_path / "pages")]
    status = cli.main(["miou", *given, *arguments.format(tmp=tmp_path).split(maxsplit=1)])
    captured = capsys.readouterr()
    assert status == 2
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("parity miou: error: ")
    assert re.search(message, captured.err)
    assert sorted(tmp_path.iterdir()) == before


def test_a_bad_file_among_good_ones(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a page and numbers of the images before the bad one."""
    root = cityscapes(tmp_path / "data")
    save(root / f"gtFine/val/ulm/{NAMES[3]}_gtFine_labelIds.png", np.full((32, 64), 34, np.uint8))
    given = ["--weights", str(weights), "--data", str(root), "--size", "24x40"]
    given += ["--frameworks", "torch", "--html", str(tmp_path / "pages")]
    assert cli.main(["miou", *given]) == 2
    assert "ulm_000000_000019_gtFine_labelIds.png: unknown id 34" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["data"]
