"""Checkpoints carried from file to file: bit by bit, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torch_impl.state
from parity.cli import main
from parity.spec.draw import weights
from parity.spec.models import MODELS
from tests.checkpoints import equal
from tests.converting import ARRAYS, CONFIGS, KINDS, Capture, Sources, fails
from weights_convert import convert, formats, load, naming
from weights_convert.numbering import parameters


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    return Sources(tmp_path_factory.mktemp("sources"))


TARGETS = ("pth", "torch safetensors", "jax safetensors", "orbax")
# Orbax takes seconds to write. What is written does not depend on the kind of file that was read,
# and every kind is read for another target, too.
TO_ORBAX = ("pth", "orbax")


@pytest.mark.parametrize(
    ("source", "target"),
    [
        pytest.param(
            source,
            target,
            marks=[pytest.mark.long] if target == "orbax" and source not in TO_ORBAX else [],
        )
        for source in KINDS
        for target in TARGETS
    ],
)
def test_every_direction(
    sources: Sources, tmp_path: Path, source: str, target: str, capsys: Capture
) -> None:
    """Catches a direction in which a bit, a name or an order is lost."""
    name, naming_scheme = KINDS[target]
    assert main(["convert", str(sources(source)), str(tmp_path / name), "--to", naming_scheme]) == 0
    assert capsys.readouterr().err == ""
    written = formats.read(tmp_path / name)
    config, expected = CONFIGS["20 classes"], ARRAYS["20 classes"]
    assert written.format == formats.format_for(tmp_path / name)
    assert equal(written.arrays, naming.to_naming_scheme(config, expected, naming_scheme))


@pytest.mark.parametrize("name", ["12 classes", "ReLU, PReLU"])
def test_every_variant_all_the_way_round(sources: Sources, tmp_path: Path, name: str) -> None:
    """Catches a variant of the network that is taken for another on the way."""
    path = sources("nested", name)
    for step in ("a.safetensors", "b.safetensors", "c", "d.pt"):
        convert(path, tmp_path / step)
        path = tmp_path / step
    found = load(path)
    assert equal(found.arrays, ARRAYS[name])
    assert found.config == CONFIGS[name]


def test_default_names(sources: Sources, tmp_path: Path) -> None:
    """Catches safetensors that stay in the names of their own framework."""
    jax_named = convert(sources("torch safetensors"), tmp_path / "a.safetensors")
    torch_named = convert(sources("jax safetensors"), tmp_path / "b.safetensors")
    assert (jax_named.naming_scheme, torch_named.naming_scheme) == ("jax", "torch")
    assert convert(sources("jax safetensors"), tmp_path / "c.pth").naming_scheme == "torch"
    assert convert(sources("pth"), tmp_path / "d.pth", to="jax").naming_scheme == "jax"
    assert load(tmp_path / "d.pth").naming_scheme == "jax"


def test_summary(sources: Sources, tmp_path: Path, capsys: Capture) -> None:
    """Catches a summary that hides what was not carried, or counts wrongly."""
    assert main(["convert", str(sources("nested")), str(tmp_path / "x.safetensors")]) == 0
    out = capsys.readouterr().out
    why = "it is no state of an optimizer of PyTorch's"
    assert f"not carried: epoch, optimizer ({why})\n" in out
    assert "enet: num_classes 20, encoder_relu False, decoder_relu True" in out
    model = torch_impl.state.build(CONFIGS["20 classes"], ARRAYS["20 classes"])
    parameters = sum(p.numel() for p in model.parameters())
    assert f"{len(model.state_dict())}, with {parameters:,} parameters" in out
    assert f"{(tmp_path / 'x.safetensors').stat().st_size:,} bytes" in out
    # The manifest beside it is another file.
    assert main(["convert", str(sources("nested")), str(tmp_path / "x.npz")]) == 0
    assert f"{(tmp_path / 'x.npz').stat().st_size:,} bytes" in capsys.readouterr().out


def test_real_checkpoint(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches the public checkpoint refused, or a number of it changed."""
    source = shared / "checkpoints" / "enet_cityscapes_20c.pth"
    for step in ("a.safetensors", "b.orbax", "c.pth"):
        assert main(["convert", str(source), str(tmp_path / step), "--labels", "void-last"]) == 0
        source = tmp_path / step
    original = torch.load(
        shared / "checkpoints" / "enet_cityscapes_20c.pth", map_location="cpu", weights_only=True
    )
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    assert [f"module.{key}" for key in found] == list(original)
    assert all(found[k.removeprefix("module.")].equal(v) for k, v in original.items())
    assert load(tmp_path / "c.pth", "enet").labels == "void-last"
    assert (
        "enet: num_classes 20, encoder_relu False, decoder_relu True, void-last"
        in capsys.readouterr().out
    )


def loaded_modules(*argv: object) -> set[str]:
    """The frameworks that a process of its own has loaded after `parity convert`."""
    code = (
        "import sys; from parity.cli import main\n"
        f"assert main({['convert', *map(str, argv)]!r}) == 0\n"
        "print('loaded', *{'torch', 'jax', 'orbax', 'flax'} & sys.modules.keys())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    return set(process.stdout.splitlines()[-1].split()[1:])


def test_no_framework_is_loaded_in_vain(sources: Sources, tmp_path: Path) -> None:
    """Catches seconds spent on importing what no file needs."""
    safetensors = tmp_path / "a.safetensors"
    assert loaded_modules(sources("torch safetensors"), safetensors) == set()
    assert loaded_modules(sources("pth"), safetensors) == {"torch"}


def test_named_variants(sources: Sources, tmp_path: Path, capsys: Capture) -> None:
    """Catches a number of classes that was not asked for."""
    assert load(sources("pth", "12 classes"), "enet-camvid").config == CONFIGS["12 classes"]
    assert load(sources("pth", "12 classes"), "enet").config == CONFIGS["12 classes"]
    message = fails(capsys, sources("pth"), tmp_path / "x.pth", "--model", "enet-camvid")
    assert "has 20 classes, but enet-camvid has 12" in message
    message = fails(capsys, sources("pth"), tmp_path / "x.pth", "--model", "unet")
    assert "unknown model 'unet', expected one of enet, enet-camvid" in message
    assert not os.listdir(tmp_path)


def test_lost_tensors_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches trained weights, or their moments, that go unnamed behind a counter."""
    config = MODELS["erfnet-mindspore"]
    arrays = {k: torch.from_numpy(np.array(v)) for k, v in weights(config, 0).items()}
    ones = {k: torch.ones(arrays[k].shape) for k in parameters(config)}
    state = {i: {"momentum_buffer": array} for i, array in enumerate(ones.values())}
    optimizer = {"state": state, "param_groups": [{"params": list(state)}]}
    torch.save({"state_dict": arrays, "optimizer": optimizer}, tmp_path / "a.pth")
    command = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.ckpt")]
    assert main([*command, "--model", "erfnet-mindspore"]) == 0
    out = capsys.readouterr().out
    for name in ("weight", "bias"):
        assert f" encoder.output_conv.{name}," in out
        assert f" optimizer.momentum_buffer.encoder.output_conv.{name}," in out
