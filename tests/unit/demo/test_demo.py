"""The demo: its scenes, the network it ships, the tour itself."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

import parity.demo
import torch_impl.state
import weights_convert
from parity import cli
from parity.capture.torch_threads import one_thread
from parity.data.cityscapes import CITYSCAPES
from parity.data.scenes import scene, write
from parity.data.scenes.view import IDS
from parity.demo import MARK, WEIGHTS, demo, differences
from parity.spec import metrics
from parity.spec.models import MODELS
from tests.benchmarks import fit_demo_network
from weights_convert.hashes import tensor_sha256s, whole_sha256

SMALL = (32, 64)


def test_a_seed_and_an_index_are_a_scene() -> None:
    """Catches a draw that depends on anything else, and scenes that are all the same."""
    for one, other in zip(scene(3, 1, *SMALL), scene(3, 1, *SMALL), strict=True):
        np.testing.assert_array_equal(one, other)
    for seed, index in ((3, 2), (4, 1)):
        assert (scene(3, 1, *SMALL)[1] != scene(seed, index, *SMALL)[1]).mean() > 0.1


def test_scenes_hold_their_classes() -> None:
    """Catches a thing that is never drawn, or drawn with another's label."""
    labels = np.stack([scene(0, index)[1] for index in range(8)])
    assert labels.shape == (8, 128, 256)
    assert set(np.unique(labels)) == set(IDS.values()) - {
        IDS[name] for name in ("wall", "rider", "truck", "bus", "train", "motorcycle", "bicycle")
    }
    for pixels in labels:  # each has a sky above, a road ahead, the camera's car below
        assert (pixels[:20] == IDS["sky"]).any()
        assert (pixels[60:110] == IDS["road"]).mean() > 0.1
        assert (pixels[-3:, 64:192] == IDS["ego vehicle"]).all()


def test_colours_do_not_tell_the_classes() -> None:
    """Catches scenes so plain that a pixel's colour is enough to name its class."""
    pairs = [scene(0, index) for index in range(6)]
    colours = [pixels.reshape(-1, 3) // 32 @ (1, 8, 64) for pixels, _ in pairs]
    labels = [ids.ravel() for _, ids in pairs]
    counts = np.zeros((512, 34), int)
    np.add.at(counts, (np.concatenate(colours[:4]), np.concatenate(labels[:4])), 1)
    guess = counts.argmax(axis=1)[np.concatenate(colours[4:])]
    assert (guess == np.concatenate(labels[4:])).mean() < 0.8


def test_scenes_are_a_cityscapes_data_set(tmp_path: Path) -> None:
    """Catches names that do not pair, and pictures that come back otherwise than drawn."""
    write(tmp_path, 5, 2, *SMALL)
    samples = CITYSCAPES.samples(tmp_path, "val")
    assert len(samples) == 2
    for index, sample in enumerate(samples):
        image, train_ids = CITYSCAPES.load(sample, *SMALL)
        expected, labels = scene(5, index, *SMALL)
        np.testing.assert_array_equal(image, expected)
        np.testing.assert_array_equal(train_ids, np.array(CITYSCAPES.train_ids)[labels])
        assert (train_ids == CITYSCAPES.void).any()


def test_the_shipped_network_knows_streets() -> None:
    """Catches weights that are not ENet's, not half precision, or fitted to other labels."""
    checkpoint = weights_convert.load(WEIGHTS)
    assert checkpoint.config == MODELS["enet"]
    assert (checkpoint.format, checkpoint.naming_scheme) == ("safetensors", "torch")
    assert checkpoint.labels == "void-last"
    assert {str(array.dtype) for array in checkpoint.arrays.values()} == {"float16", "int64"}
    assert WEIGHTS.stat().st_size < 900_000
    model = torch_impl.state.build(checkpoint.config, checkpoint.arrays)
    share = fit_demo_network.iou(model, *fit_demo_network.scenes(fit_demo_network.HELD_OUT, 2))
    assert metrics.mean_iou_present(share) > 0.55


def test_fitting_is_seeded_and_learns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a fit that depends on chance, does not reduce the loss, or ships something else."""
    images, truth = (
        pixels[:, ::4, ::4] for pixels in fit_demo_network.scenes(fit_demo_network.FITTED, 2)
    )
    with one_thread():
        models = [fit_demo_network.fit(MODELS["enet"], images, truth, epochs=10) for _ in range(2)]
    losses = [float(x) for x in re.findall(r"loss ([\d.]+)", capsys.readouterr().out)]
    assert losses[9] < 0.9 * losses[0]
    one, other = (torch_impl.state.state(model) for model in models)
    assert not differences(one, other)
    path = tmp_path / "enet.safetensors"
    fit_demo_network.ship(models[0], path)
    shipped = weights_convert.load(path).arrays
    expected = {k: v.astype(np.float16) if v.dtype.kind == "f" else v for k, v in one.items()}
    assert not differences(shipped, expected)


def test_a_difference_of_one_bit_counts() -> None:
    """Catches a round trip judged by value: -0.0 equals 0.0, and float16 may equal float32."""
    before = {"a": np.zeros(2, np.float32), "b": np.ones(1, np.float32), "c": np.ones(1)}
    assert differences(before, dict(before)) == []
    after = {"a": np.array([0.0, -0.0], np.float32), "b": np.ones(1, np.float16), "d": np.ones(1)}
    assert differences(before, after) == ["a", "b", "c", "d"]


def test_tour(tmp_path: Path) -> None:
    """Catches a station left out, a page or file not written, an earlier demo not replaced."""
    out, printed = tmp_path / "new" / "demo", io.StringIO()
    parity.demo.prepare(out)  # as an interrupted tour leaves it
    (out / "enet.pth").write_bytes(b"old")
    console = Console(file=printed, width=100, highlight=False)
    assert demo(out, scenes=1, size=SMALL, levels=("L0",), console=console)
    lines = printed.getvalue().rstrip("\n").split("\n")
    page = out / "page" / "index.html"
    assert re.fullmatch(rf"PASSED in \d+ s; the page is {re.escape(str(page))}", lines[-1])
    text = "\n".join(lines)
    for expected in ("1 of 4", "4 of 4", "the round trip is bitwise", "L0 weights", "jax - torch"):
        assert expected in text
    assert "PASSED: 0 of 2,048 pixels disagree" in text
    assert "\x1b" not in text  # plain lines where there is no terminal
    assert page.read_text().count("<figure>") == 5
    shipped, paths = weights_convert.load(WEIGHTS), ("enet.pth", "enet.safetensors", "enet.orbax")
    carried = {path: weights_convert.load(out / path) for path in (*paths, "enet-back.pth")}
    assert {c.format for c in carried.values()} == {"torch", "safetensors", "orbax"}
    assert len({whole_sha256(tensor_sha256s(c.arrays)) for c in carried.values()}) == 1
    for key, array in carried["enet-back.pth"].arrays.items():
        np.testing.assert_array_equal(array, shipped.arrays[key])


@pytest.mark.parametrize("failing", ["draw", "convert", "climb", "evaluate"])
def test_a_failed_station_fails_the_tour(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Catches a verdict that forgets a station."""
    for name in ("draw", "convert", "climb", "evaluate"):
        monkeypatch.setattr(parity.demo.Tour, name, lambda *_, name=name: name != failing)
    assert cli.main(["demo", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("FAILED in ")


def test_a_changed_tensor_fails_the_round_trip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a round trip that is said to be bitwise without being compared."""
    convert = weights_convert.convert

    def careless(source: Path, target: Path, **kwargs: str) -> weights_convert.Conversion:
        done = convert(source, target, **kwargs)
        if target.name == "enet-back.pth":
            state = torch.load(target, weights_only=True)
            state["transposed_conv.weight"][0, 0, 0, 0] += 1e-6
            torch.save(state, target)
            target.with_name(target.name + ".manifest.json").unlink()
        return done

    monkeypatch.setattr(weights_convert, "convert", careless)
    printed = io.StringIO()
    tour = parity.demo.Tour(tmp_path, Console(file=printed, width=200))
    assert not tour.convert()
    assert "FAILED the round trip changed transposed_conv.weight\n" in printed.getvalue()


def test_progress_on_a_terminal() -> None:
    """Catches a spinner without a word, and a name that is taken for markup."""
    printed = io.StringIO()
    tour = parity.demo.Tour(Path(), Console(file=printed, force_terminal=True, width=100))
    with tour._begin("Title") as progress:
        progress("1 of 2: [x]/name")
    assert "1 of 2: [x]/name" in printed.getvalue()


@pytest.mark.parametrize("fault", ["file", "foreign", "below a file", "dangling link"])
def test_bad_input(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a traceback, and a folder of somebody's that is written into."""
    out = tmp_path / "out"
    if fault == "foreign":
        out.mkdir()
        (out / "thesis.tex").write_text("years of work")
    elif fault == "dangling link":
        out.symlink_to(tmp_path / "nowhere" / "deeper" / MARK)
    else:
        out.write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    asked = out / "below" if fault == "below a file" else out
    assert cli.main(["demo", "--out", str(asked)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(asked) in captured.err
    message = {"foreign": "holds thesis.tex, expected an empty folder"}.get(fault, "folder")
    assert message in captured.err
    assert sorted(tmp_path.rglob("*")) == before
