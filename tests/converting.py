"""Checkpoints such as other programs write, to be converted, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.spec.draw import weights
from parity.spec.networks.enet import ENetConfig
from weights_convert import formats, naming

Capture = pytest.CaptureFixture[str]

CONFIGS = {
    "20 classes": ENetConfig(),
    "12 classes": ENetConfig(num_classes=12),
    "ReLU, PReLU": ENetConfig(num_classes=12, encoder_relu=True, decoder_relu=False),
}
ARRAYS = {name: weights(config, 0) for name, config in CONFIGS.items()}

# Kind of checkpoint -> file name, `--to`.
KINDS = {
    "pth": ("x.pth", "torch"),
    "nested": ("x.tar", "torch"),
    "torch safetensors": ("torch.safetensors", "torch"),
    "jax safetensors": ("jax.safetensors", "jax"),
    "orbax": ("x.orbax", "jax"),
}


def write(path: Path, kind: str, config: ENetConfig, arrays: dict[str, np.ndarray]) -> Path:
    """A checkpoint such as other people's programs write, without a manifest."""
    _, naming_scheme = KINDS[kind]
    named = naming.to_naming_scheme(config, arrays, naming_scheme)
    if kind == "nested":
        state = {f"module.{k}": torch.tensor(v) for k, v in named.items()}
        torch.save({"epoch": 7, "state_dict": state, "optimizer": {"param_groups": []}}, path)
    else:
        formats.write(path, formats.format_for(path), named, {})
    return path


def fails(capsys: Capture, *argv: object) -> str:
    """The one line with which `parity convert` refuses."""
    assert main(["convert", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("parity convert: error: ")
    return err


class Sources:
    """One file of every kind and config, written when it is first asked for.

    Args:
        folder: Where.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, kind: str, name: str = "20 classes") -> Path:
        path = self.folder / name / KINDS[kind][0]
        path.parent.mkdir(exist_ok=True)
        return path if path.exists() else write(path, kind, CONFIGS[name], ARRAYS[name])
