"""Checkpoints in the style in which each network's are published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_formats import equal

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import ICNetConfig
from weights_convert import convert, formats, load

TINY_ICNET = {"blocks": (1, 1, 1, 1), "width": 8, "num_classes": 3}


def save(path: Path, arrays: dict[str, np.ndarray], prefix: str = "", **beside: object) -> None:
    """A torch file: bare, or under `state_dict` with other things beside it."""
    tensors = {prefix + k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    torch.save({"state_dict": tensors, **beside} if beside else tensors, path)


def old_erfnet() -> dict[str, np.ndarray]:
    arrays = weights(MODELS["erfnet"], 0)
    absent = ("num_batches_tracked", "encoder.output_conv")
    return {k: v for k, v in arrays.items() if not any(a in k for a in absent)}


def round_trip(source: Path, expected: dict[str, np.ndarray], by: str = "safetensors") -> None:
    """To JAX's names and back, bit for bit."""
    there, back = source.with_suffix(f".{by}"), source.with_name("back.pth")
    assert convert(source, there).dialect == "jax"
    convert(there, back)
    found = formats.read(back).arrays
    assert equal({k: found[k] for k in expected}, expected)


def test_erfnet(tmp_path: Path) -> None:
    """Catches ERFNet's file refused, or its gaps filled with something, or without a word."""
    arrays = old_erfnet()
    save(tmp_path / "a.pth", arrays, "module.")
    found = load(tmp_path / "a.pth")
    assert found.network == "erfnet"
    assert found.config == MODELS["erfnet"]
    assert set(found.filled) == weights(MODELS["erfnet"], 0).keys() - arrays.keys()
    assert not any(found.arrays[key].any() for key in found.filled)
    round_trip(tmp_path / "a.pth", arrays)


def test_erfnet_lacks_only_what_it_may(tmp_path: Path) -> None:
    """Catches one counter, half a classifier, or the encoder's only output missing unnoticed."""
    arrays = old_erfnet()
    whole = weights(MODELS["erfnet"], 0)
    for key in ("encoder.output_conv.bias", "encoder.layers.1.bn1.num_batches_tracked"):
        save(tmp_path / "a.pth", arrays | {key: whole[key]})
        with pytest.raises(InputError, match="missing"):
            load(tmp_path / "a.pth")
    save(tmp_path / "a.pth", arrays)
    with pytest.raises(InputError, match=r"encoder\.output_conv\.weight is missing"):
        load(tmp_path / "a.pth", "erfnet-encoder")
    save(tmp_path / "a.pth", arrays | {"extra": np.zeros(1, np.float32)})
    with pytest.raises(InputError, match="extra is not expected"):
        load(tmp_path / "a.pth")


def test_erfnet_imagenet(tmp_path: Path) -> None:
    """Catches the encoder's file for ImageNet refused, taken for an ERFNet, or its head lost."""
    arrays = weights(MODELS["erfnet-imagenet"], 0)
    old = {k: v for k, v in arrays.items() if "num_batches_tracked" not in k}
    save(tmp_path / "a.pth.tar", old, "module.", epoch=1, arch="erfnet", best_prec1=65.0)
    found = load(tmp_path / "a.pth.tar")
    assert found.network == "erfnet-imagenet"
    assert found.config == MODELS["erfnet-imagenet"]
    assert found.skipped == ("epoch", "arch", "best_prec1")
    assert set(found.filled) == arrays.keys() - old.keys()
    round_trip(tmp_path / "a.pth.tar", old)
    with pytest.raises(InputError, match="all 304 tensors of the network are missing"):
        load(tmp_path / "a.pth.tar", "erfnet")
    del old["classifier.linear.bias"]
    save(tmp_path / "a.pth.tar", old, "module.")
    with pytest.raises(InputError, match=r"classifier\.linear\.bias is missing"):
        load(tmp_path / "a.pth.tar")


@pytest.mark.parametrize("classifier", [0, 5])
def test_icnet(classifier: int, tmp_path: Path) -> None:
    """Catches the backbone's classifier demanded, or lost."""
    config = ICNetConfig(**TINY_ICNET, classifier=classifier)
    arrays = weights(config, 0)
    assert any(k.startswith("pretrained.fc") for k in arrays) == bool(classifier)
    save(tmp_path / "a.pth", arrays)
    assert load(tmp_path / "a.pth").config == config
    round_trip(tmp_path / "a.pth", arrays, "orbax" if classifier else "safetensors")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_genet(prefix: str, tmp_path: Path) -> None:
    """Catches GENet's file refused for what lies beside its weights, or for its prefix."""
    config = GENetConfig(depth=10, width=1, num_classes=3)
    arrays = weights(config, 0)
    save(tmp_path / "a.pth", arrays, prefix, arch="GENET", best_err1=5.2, optimizer={})
    found = load(tmp_path / "a.pth")
    assert found.config == config
    assert found.skipped == ("arch", "best_err1", "optimizer")
    round_trip(tmp_path / "a.pth", arrays, "orbax" if prefix else "safetensors")
