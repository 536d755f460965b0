"""Checkpoints of the Transformers: there and back, under timm's and Hugging Face's names."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import torch_impl.state
from parity.cli import main
from parity.spec.draw import weights
from parity.spec.models import MODELS
from parity.spec.networks.decoder import DecoderConfig
from parity.spec.networks.vit import ViTConfig
from weights_convert import convert, formats, load, save

VIT = ViTConfig(num_classes=3, side=12, patch=4, width=32, depth=2, mlp_width=20, head_dim=32)
DECODER = DecoderConfig(
    *(11, 20, 1), query_width=64, kv_width=32, mlp_width=24, head_dim=32
)  # whose hidden fields are those of the default
CASES: dict[str, Any] = {
    "vit": VIT,
    "decoder": DECODER,
    "decoder, tied": dataclasses.replace(DECODER, tied=True),
}
JAX_NAMES = {
    "vit": {"cls_token", "pos_embed", "patch_embed.proj.kernel", "blocks.0.norm1.scale"},
    "decoder": {"model.embed_tokens.embedding", "model.norm.scale", "lm_head.kernel"},
}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back(case: str, tmp_path: Path) -> None:
    """Catches a name, an axis or a bit that is lost on the way to JAX and back."""
    config, own = CASES[case], weights(CASES[case], 0)
    torch.save(torch_impl.state.build(config, own).state_dict(), tmp_path / "a.pth")
    way = ["a.pth", "b.orbax", "c.safetensors", "d.msgpack", "e.npz", "f.pth"]
    for source, target in itertools.pairwise(way):
        convert(tmp_path / source, tmp_path / target)
    found = torch.load(tmp_path / "f.pth", weights_only=True)
    assert list(found) == list(own)
    for key, array in own.items():
        np.testing.assert_array_equal(found[key].numpy(), array)
    assert load(tmp_path / "b.orbax").config == config


@pytest.mark.parametrize("model", JAX_NAMES)
def test_names_in_jax(model: str, tmp_path: Path) -> None:
    """Catches tensors that Flax's layers would not find under these names."""
    formats.write(tmp_path / "a.pth", "torch", weights(CASES[model], 0), {})
    convert(tmp_path / "a.pth", tmp_path / "b.npz")
    assert formats.read(tmp_path / "b.npz").arrays.keys() >= JAX_NAMES[model]


def test_hidden_fields_are_kept(tmp_path: Path) -> None:
    """Catches heads, a base or an eps that are assumed where the manifest says them."""
    config = dataclasses.replace(DECODER, head_dim=8, base=5e5, eps=1e-6)
    save(tmp_path / "a.safetensors", config, weights(config, 0))
    convert(tmp_path / "a.safetensors", tmp_path / "b.orbax")
    found = load(tmp_path / "b.orbax")
    assert (found.config, found.assumed) == (config, ())
    assert (found.config.heads, found.config.kv_heads) == (8, 4)  # type: ignore[attr-defined] # a decoder


def test_assumed_fields_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches a guess without a word, and one of heads that do not divide the width."""
    config = dataclasses.replace(VIT, width=24, head_dim=8)
    formats.write(tmp_path / "a.pth", "torch", weights(config, 0), {})
    assert main(["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.orbax")]) == 0
    said = capsys.readouterr().out
    assert "head_dim  not shown by the weights; 8 channels a head assumed" in said
    assert "eps       not shown by the weights" in said


def test_optimizer_of_bare_parameters(tmp_path: Path) -> None:
    """Catches AdamW's moments of a class token, which lies in no layer, lost or exchanged."""
    model = torch_impl.state.build(VIT, weights(VIT, 0))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    state = {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(state, tmp_path / "a.pth")
    convert(tmp_path / "a.pth", tmp_path / "b.orbax")
    found = load(tmp_path / "b.orbax").optimizer
    assert found is not None
    for name, parameter in model.named_parameters():
        for slot in ("exp_avg", "exp_avg_sq"):
            expected = optimizer.state[parameter][slot].numpy()
            np.testing.assert_array_equal(found.slots[slot][name], expected)


def test_no_images_of_a_decoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches pixels that are claimed of a network of tokens, or accepted for it."""
    source, given = tmp_path / "a.pth", tmp_path / "i.json"
    formats.write(source, "torch", weights(DECODER, 0), {})
    given.write_text('{"channels": "BGR"}')
    assert main(["convert", str(source), str(tmp_path / "b.orbax")]) == 0
    assert main(["inspect", str(tmp_path / "b.orbax")]) == 0
    assert not [line for line in capsys.readouterr().out.splitlines() if line.startswith("images")]
    arguments = ["convert", str(source), str(tmp_path / "c.orbax"), "--preprocessing", str(given)]
    assert main(arguments) == 2
    assert "decoder takes token ids, but preprocessing is for images" in capsys.readouterr().err
    assert not (tmp_path / "c.orbax").exists()


@pytest.mark.parametrize("command", ["export", "bench", "check --onnx"])
def test_commands_of_images_are_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback where a decoder is given to a command of images."""
    arguments = {
        "export": ["export", "decoder", str(tmp_path / "a.onnx"), "--weights", "a.pth"],
        "bench": ["bench", "--model", "decoder"],
        "check --onnx": ["check", "decoder", "--onnx"],
    }
    assert main(arguments[command]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "decoder takes token ids" in error


@pytest.mark.parametrize(
    ("model", "size", "what"),
    [
        ("decoder", "5x5", "expected a number of tokens"),
        ("decoder", "0", "expected a number of tokens"),
        ("vit", "12", "expected HEIGHTxWIDTH"),
        ("vit", "64x64", "this vit needs 32x32 pixels"),
    ],
)
@pytest.mark.parametrize("command", ["check", "summary"])
def test_sizes(
    command: str, model: str, size: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an image's size for a sequence, or the other way round, deep inside."""
    assert main([command, model, "--size", size]) == 2
    assert what in capsys.readouterr().err
    assert model in MODELS
