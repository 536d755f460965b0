"""Checkpoints in the style in which each network's are published."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS, Config
from parity.spec.networks.genet import GENetConfig
from parity.spec.networks.icnet import ICNetConfig
from tests.checkpoints import equal
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
    assert convert(source, there).naming_scheme == "jax"
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
    """Catches half a classifier, or the encoder's only output missing unnoticed."""
    arrays = old_erfnet()
    whole = weights(MODELS["erfnet"], 0)
    save(tmp_path / "a.pth", arrays | {(key := "encoder.output_conv.bias"): whole[key]})
    with pytest.raises(InputError, match="missing"):
        load(tmp_path / "a.pth")
    save(tmp_path / "a.pth", arrays)
    with pytest.raises(InputError, match=r"encoder\.output_conv\.weight is missing"):
        load(tmp_path / "a.pth", "erfnet-encoder")
    save(tmp_path / "a.pth", arrays | {"extra": np.zeros(3, np.float32)})
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
    with pytest.raises(InputError, match=r"decoder\.layers\.0\.conv\.weight is missing"):
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
    *others, optimizer = found.skipped
    assert others == ["arch", "best_err1"]
    assert optimizer == "optimizer (it is no state of an optimizer of PyTorch's)"
    round_trip(tmp_path / "a.pth", arrays, "orbax" if prefix else "safetensors")


def test_genet_extents_of_means(tmp_path: Path) -> None:
    """Catches an extent that no tensor shows taken for global, another network."""
    config = GENetConfig(depth=10, width=1, extent=2, mlp=True)
    arrays = weights(config, 0)
    save(tmp_path / "a.pth", arrays)
    assert load(tmp_path / "a.pth").config == GENetConfig(depth=10, width=1, mlp=True)
    save(tmp_path / "b.pth", weights(MODELS["genet-mean4"], 0))
    found = load(tmp_path / "b.pth", "genet-mean4")
    assert found.config == MODELS["genet-mean4"]
    convert(tmp_path / "b.pth", tmp_path / "c.npz", "genet-mean4")
    assert load(tmp_path / "c.npz").config == MODELS["genet-mean4"]


@pytest.mark.parametrize(
    ("config", "variant"),
    [
        (ICNetConfig(**TINY_ICNET), "icnet-resnet101"),
        (MODELS["genet"], "genet-theta-plus"),
        (MODELS["genet-extent4"], "genet-extent8"),
        (MODELS["genet-extent2"], "genet-mean2"),
    ],
)
def test_a_variant_is_not_another(config: Config, variant: str, tmp_path: Path) -> None:
    """Catches weights checked as a network that they are not of."""
    config = dataclasses.replace(config, num_classes=MODELS[variant].num_classes)
    save(tmp_path / "a.pth", weights(config, 0))
    with pytest.raises(InputError, match=f"but not {variant}"):
        load(tmp_path / "a.pth", variant)


def test_an_erfnet_is_its_encoder_too(tmp_path: Path) -> None:
    """Catches a manifest that forbids the same tensors another output."""
    save(tmp_path / "a.pth", weights(MODELS["erfnet"], 0))
    convert(tmp_path / "a.pth", tmp_path / "a.safetensors")
    for model in ("erfnet", "erfnet-encoder"):
        assert load(tmp_path / "a.safetensors", model).config == MODELS[model]


@pytest.mark.parametrize("model", ["enet", "erfnet"])
def test_published_is_not_mindspores(model: str, tmp_path: Path) -> None:
    """Catches weights of a network written under the names of another one."""
    save(tmp_path / "a.pth", weights(MODELS[model], 0))
    with pytest.raises(InputError, match=f"belong to {model}-mindspore, another network"):
        convert(tmp_path / "a.pth", tmp_path / "a.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pth"]
