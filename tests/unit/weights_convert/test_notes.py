"""What a file does not say or says otherwise is said by every command that reads it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.evaluation import checkpoints as evaluation
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import ICNetConfig
from parity.spec.recipes import RECIPES
from tests.checkpoints import equal
from tests.registered import genet_extent2, golden, module, optimizer_of, same, trained
from weights_convert import convert, formats, load, naming
from weights_convert.formats import KEY, sidecar
from weights_convert.hashes import whole_sha256

Capture = pytest.CaptureFixture[str]

MEANS = GENetConfig(depth=10, width=1, extent=2, mlp=True)
ASSUMED = "extent    not shown by the weights; 0 (means over the whole map) assumed; --model"
TINY: dict[str, Config] = {
    "enet": ENetConfig(num_classes=3),
    "genet": GENetConfig(depth=10, width=1, extent=4, extra_params=True),
    "icnet": ICNetConfig(blocks=(1, 1, 1, 1), width=8, num_classes=3),
}


@pytest.fixture
def means(tmp_path: Path) -> Path:
    """A GENet whose gates take means over 2 pixels, of which its weights show nothing."""
    path = tmp_path / "means.pth"
    save(path, weights(MEANS, 0))
    return path


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    torch.save({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, path)


def output(capsys: Capture, *argv: object) -> str:
    assert main(list(map(str, argv))) == 0
    return capsys.readouterr().out


def test_an_extent_that_no_weight_shows(means: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches a command that takes the published network for granted, without a word."""
    onnx = tmp_path / "x.onnx"
    for argv in (
        ("inspect", means),
        ("convert", means, tmp_path / "x.npz"),
        ("export", "genet", onnx, "--weights", means),
        ("check", "genet", "--weights", means, "--levels", "L0"),
        ("inspect", tmp_path / "x.npz"),  # what was assumed once is no fact later
        ("inspect", onnx),
    ):
        out = output(capsys, *argv)
        assert ASSUMED in out, argv
        assert "genet-mean2, genet-mean4 or genet-mean8" in out
    for source in (means, tmp_path / "x.npz"):
        assert load(source, "genet-mean2").config == MEANS
    for argv in (
        ("inspect", means, "--model", "genet-mean2"),
        ("convert", means, tmp_path / "y.npz", "--model", "genet-mean2"),
        ("inspect", tmp_path / "y.npz"),
    ):
        assert "not shown" not in output(capsys, *argv), argv
    assert load(tmp_path / "y.npz").config == MEANS
    told = re.escape("y.npz says config {'extent': 2}, found {'extent': 4}")
    with pytest.raises(InputError, match=f"{told}$"):  # and not the five fields that agree
        load(tmp_path / "y.npz", "genet-mean4")


def test_the_golden_network_of_extent_2(tmp_path: Path) -> None:
    """Catches a variant that cannot be named because it is narrower, or has an MLP."""
    case = golden("genet_wrn16_2_extent2_avg_mlp")
    torch.save(module(case).state_dict(), tmp_path / "x.pth")
    found = load(tmp_path / "x.pth", "genet-mean2").config
    assert found == GENetConfig(width=2, extent=2, mlp=True)
    assert load(tmp_path / "x.pth").assumed == ("extent",)


def test_a_recipe_says_the_extent(means: Path) -> None:
    """Catches weights that no recipe may evaluate, since they do not show what it trains."""
    recipe = RECIPES["genet-cifar10"]
    own = dataclasses.replace(recipe.stages[0], model="genet-mean2")
    save(means, weights(MODELS["genet-mean2"], 0))
    held = evaluation.read(means, dataclasses.replace(recipe, stages=(own,)), None)
    assert held.checkpoint.config == MODELS["genet-mean2"]
    assert not held.checkpoint.notes


def test_the_published_names_of_extent_2(tmp_path: Path) -> None:
    """Catches the published file taken for extent 0, or written with a sequence of one."""
    published = genet_extent2()
    kernel = published["block1.layer.0.downop.dwconv.weight"]
    assert kernel[2:] == (3, 3)
    torch.save(module(published).state_dict(), tmp_path / "x.pth")
    assert load(tmp_path / "x.pth").config == GENetConfig(width=2, extent=2, extra_params=True)
    convert(tmp_path / "x.pth", tmp_path / "x.orbax")
    convert(tmp_path / "x.orbax", tmp_path / "back.pth")
    assert list(formats.read(tmp_path / "back.pth").arrays) == list(published)
    whole = golden("genet_wrn16_2_global_params_mlp")
    torch.save(module(whole).state_dict(), tmp_path / "y.pth")
    assert load(tmp_path / "y.pth").config == GENetConfig(width=2, extra_params=True, mlp=True)


def former(name: str) -> str:
    """As versions before this one named a single gathering convolution."""
    return re.sub(r"downop\.(?=dwconv|bn)", "downop.0.", name)


@pytest.mark.parametrize(
    ("naming_scheme", "said"), [("torch", True), ("jax", True), ("jax", False)]
)
def test_names_that_we_once_wrote(naming_scheme: str, said: bool, tmp_path: Path) -> None:
    """Catches our own earlier files refused, with their manifest or without, or a moment lost."""
    before = trained(genet_extent2(), "adam")
    state = {"state_dict": before[0].state_dict(), "optimizer": before[1].state_dict()}
    torch.save(state, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "new.safetensors", to=naming_scheme)
    contents = formats.read(tmp_path / "new.safetensors")
    entries = json.loads(contents.metadata[KEY])
    entries["tensors"] = {former(k): digest for k, digest in entries["tensors"].items()}
    assert any("downop.0.bn" in key for key in entries["tensors"])
    entries["tensors_sha256"] = whole_sha256(entries["tensors"])
    del entries[sidecar.SEAL]
    metadata = {KEY: sidecar.seal(entries)} if said else {}
    old = {former(name): array for name, array in contents.arrays.items()}
    assert old.keys() != contents.arrays.keys()
    formats.write(tmp_path / "old", "safetensors", old, metadata)
    found = load(tmp_path / "old")
    assert equal(found.arrays, load(tmp_path / "in.pth").arrays)
    assert (found.manifest is not None) == said
    convert(tmp_path / "old", tmp_path / "back.pth")
    back = torch.load(tmp_path / "back.pth", weights_only=True)
    again = module(genet_extent2())
    again.load_state_dict(back["state_dict"])
    other = optimizer_of("adam", again.parameters())
    other.load_state_dict(back["optimizer"])
    same(before, (again, other))


@pytest.mark.parametrize("family", TINY)
@pytest.mark.parametrize("naming_scheme", ["torch", "jax"])
def test_no_counters(family: str, naming_scheme: str, tmp_path: Path, capsys: Capture) -> None:
    """Catches batch norms of Flax, and files older than the counters, refused."""
    config = TINY[family]
    arrays = weights(config, 0)
    named = naming.to_naming_scheme(config, arrays, naming_scheme)
    counters = [name for name in named if name.endswith("num_batches_tracked")]
    kept = {name: array for name, array in named.items() if name not in counters}
    formats.write(tmp_path / "x", "safetensors", kept, {})
    out = output(capsys, "convert", tmp_path / "x", tmp_path / "y.npz")
    assert f"absent    set to 0: {len(counters)} tensors, counters such as " in out
    assert "only" not in out
    found = load(tmp_path / "y.npz").arrays
    expected = {k: np.int64(0) if "num_batches" in k else v for k, v in arrays.items()}
    assert equal(found, {k: np.asarray(v) for k, v in expected.items()})


def test_some_counters(tmp_path: Path, capsys: Capture) -> None:
    """Catches a counter that is missing beside others, of which nobody is told."""
    arrays = weights(TINY["genet"], 0)
    counters = [key for key in arrays if key.endswith("num_batches_tracked")]
    arrays.pop(counters[3])
    save(tmp_path / "x.pth", arrays)
    out = output(capsys, "convert", tmp_path / "x.pth", tmp_path / "y.npz")
    assert f"set to 0: 1 tensor, counters such as {counters[3]}" in out
    assert f"only 1 of {len(counters)} counters are" in out
    found = load(tmp_path / "y.npz").arrays
    assert found[counters[3]] == 0
    assert found[counters[2]] == arrays[counters[2]] > 0


def test_counters_that_are_floats(tmp_path: Path, capsys: Capture) -> None:
    """Catches a whole number refused for its dtype, and half a batch counted."""
    arrays = weights(TINY["genet"], 0)
    counters = [key for key in arrays if key.endswith("num_batches_tracked")]
    floats = arrays | {key: arrays[key].astype(np.float32) for key in counters}
    save(tmp_path / "x.pth", floats)
    out = output(capsys, "convert", tmp_path / "x.pth", tmp_path / "y.npz")
    assert f"counters  {len(counters)} counters such as {counters[0]} are floating-point" in out
    assert equal(load(tmp_path / "y.npz").arrays, arrays)
    for wrong in (2.5, -1.0, np.nan, np.inf, 1e30):
        save(tmp_path / "x.pth", floats | {counters[1]: np.float32(wrong)})
        assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "z.npz")]) == 2
        err = capsys.readouterr().err
        assert re.search(
            rf"{re.escape(counters[1])} is \S+, expected a whole number from 0 to 4.61e\+18", err
        )
        assert not (tmp_path / "z.npz").exists()
