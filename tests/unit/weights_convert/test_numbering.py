"""PyTorch's optimizers number parameters: each state must come back to its own parameter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from parity.cli import main
from parity.spec.networks.icnet import ICNetConfig
from parity.spec.tensors import tensors
from tests.registered import (
    Shapes,
    erfnet_on_imagenet,
    genet_extent2,
    golden,
    module,
    optimizer_of,
    same,
    trained,
)
from weights_convert import convert, formats, load
from weights_convert.numbering import parameters

TINY_ICNET = ICNetConfig(blocks=(1, 1, 1, 1), width=8, num_classes=3, classifier=5)


def icnet() -> Shapes:
    return {key: spec.shape for key, spec in tensors(TINY_ICNET).items()}


NETWORKS: dict[str, Callable[[], Shapes]] = {
    "erfnet-imagenet": lambda: golden("erfnet_imagenet_c1000"),
    "erfnet on ImageNet's encoder": erfnet_on_imagenet,
    "erfnet": lambda: golden("erfnet_c20"),
    "enet": lambda: golden("enet_c12"),
    "genet, extent 2": genet_extent2,
    "genet, extent 8 and MLP": lambda: golden("genet_wrn16_2_extent8_params_mlp"),
    "icnet": icnet,
}


def there_and_back(saved: dict, folder: Path, suffix: str = ".safetensors") -> dict:
    """Saved by PyTorch, carried to JAX's names and back to a torch file."""
    torch.save(saved, folder / "in.pth.tar")
    assert convert(folder / "in.pth.tar", folder / f"there{suffix}").naming_scheme == "jax"
    convert(folder / f"there{suffix}", folder / "back.pth")
    back: dict = torch.load(folder / "back.pth", weights_only=True)
    return back


@pytest.mark.parametrize(
    ("network", "kind"),
    [(name, "sgd" if "erfnet" in name else "adam") for name in NETWORKS],
)
def test_of_each_published_class(network: str, kind: str, tmp_path: Path) -> None:
    """Catches momentum of one parameter given to another, whose shape is the same."""
    shapes = NETWORKS[network]()
    before = trained(shapes, kind)
    state = {"state_dict": before[0].state_dict(), "optimizer": before[1].state_dict()}
    back = there_and_back(state, tmp_path)
    again = module(shapes)
    again.load_state_dict(back["state_dict"])
    assert list(back["state_dict"]) == list(shapes)
    other = optimizer_of(kind, again.parameters())
    other.load_state_dict(back["optimizer"])
    same(before, (again, other))
    found = load(tmp_path / "there.safetensors").optimizer
    assert found is not None
    slot = {"adam": "exp_avg", "sgd": "momentum_buffer"}[kind]
    for name, parameter in before[0].named_parameters():
        expected = before[1].state[parameter][slot].numpy()
        assert np.array_equal(found.slots[slot][name], expected), name


def test_of_lightning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `optimizer_states` left behind, and two of them taken for one."""
    shapes = golden("genet_wrn16_2_global_avg")
    before = trained(shapes, "adam")
    prefixed = {f"model.{k}": v for k, v in before[0].state_dict().items()}
    beside = {"epoch": 3, "pytorch-lightning_version": "2.5.0", "lr_schedulers": []}
    state = {"state_dict": prefixed, "optimizer_states": [before[1].state_dict()], **beside}
    back = there_and_back(state, tmp_path)
    again = module(shapes)
    other = optimizer_of("adam", again.parameters())
    other.load_state_dict(back["optimizer"])
    same(before, (again, other))
    state["optimizer_states"] *= 2
    torch.save(state, tmp_path / "two.pth")
    assert main(["convert", str(tmp_path / "two.pth"), str(tmp_path / "x.npz")]) == 0
    assert "optimizer_states (2 optimizers, expected one)" in capsys.readouterr().out


def icnets_groups(network: nn.Module) -> list[dict[str, Any]]:
    """As the published program: the branch and the head learn ten times as fast."""
    parts: Any = network
    return [
        {"params": parts.pretrained.parameters(), "lr": 0.01},
        {"params": parts.conv_sub1.parameters(), "lr": 0.1},
        {"params": parts.head.parameters(), "lr": 0.1},
    ]


def head_first(network: nn.Module) -> list[dict[str, Any]]:
    return icnets_groups(network)[::-1]


def no_decay(network: nn.Module) -> list[dict[str, Any]]:
    """Biases and norms apart, as they are where they must not decay."""
    every = list(network.parameters())
    return [
        {"params": [p for p in every if p.ndim < 2], "weight_decay": 0.0},
        {"params": [p for p in every if p.ndim > 1], "weight_decay": 0.5},
    ]


def named_backwards(network: nn.Module) -> list[dict[str, Any]]:
    """Groups that name their parameters, in an order of their own."""
    parts: Any = network
    every = list(network.named_parameters())[::-1]
    assert parts.conv_sub1
    return [{"params": every[:7]}, {"params": every[7:]}]


def only_the_head(network: nn.Module) -> list[dict[str, Any]]:
    return [{"params": [(n, p) for n, p in network.named_parameters() if n.startswith("head.")]}]


@pytest.mark.parametrize(
    "groups", [icnets_groups, head_first, no_decay, named_backwards, only_the_head]
)
def test_groups(groups: Any, tmp_path: Path) -> None:
    """Catches groups joined into one, which no optimizer takes back, or put in another order."""
    before = trained(icnet(), "sgd", groups)
    state = {"state_dict": before[0].state_dict(), "optimizer": before[1].state_dict()}
    back = there_and_back(state, tmp_path)["optimizer"]
    again = module(icnet())
    other = optimizer_of("sgd", groups(again))
    for group in other.param_groups:
        group["lr"] = 123.0  # what was saved counts
    other.load_state_dict(back)
    same(before, (again, other))
    rates = [(g["lr"], g["weight_decay"]) for g in before[1].param_groups]
    assert [(g["lr"], g["weight_decay"]) for g in other.param_groups] == rates
    assert [g["params"] for g in back["param_groups"]] == [
        g["params"] for g in state["optimizer"]["param_groups"]
    ]


@pytest.mark.parametrize("case", ["none fits", "two fit"])
def test_groups_that_nobody_can_tell(case: str, tmp_path: Path) -> None:
    """Catches a division guessed at where no known one fits, or more than one does."""
    network, optimizer = trained(icnet(), "sgd", lambda n: [{"params": p} for p in halves(n)])
    state = optimizer.state_dict()
    if case == "two fit":  # of nearly no parameter, whose shape is that of two
        shapes = [parameter.shape for parameter in network.parameters()]
        (one, other), count = state["param_groups"], len(shapes)
        pairs = ((n, i) for n in range(5, count - 5) for i in range(n))
        size, number = next((n, i) for n, i in pairs if shapes[i] == shapes[i + count - n])
        one["params"], other["params"] = list(range(size)), list(range(size, count))
        state["state"] = {number: {"momentum_buffer": torch.ones(shapes[number])}}
    whole = {"state_dict": network.state_dict(), "optimizer": state}
    torch.save(whole, tmp_path / "in.pth")
    found = load(tmp_path / "in.pth")
    assert found.optimizer is None
    assert "2 groups, and it does not say which parameter is which" in found.skipped[0]


def halves(network: nn.Module) -> tuple[list, list]:
    """Every other parameter."""
    every = list(network.parameters())
    return every[::2], every[1::2]


def test_a_state_of_one_parameter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches "carried" where all but one parameter have no state."""
    shapes = golden("genet_wrn16_2_global_avg")
    network, optimizer = trained(shapes, "adam")
    state = optimizer.state_dict()
    last = len(state["state"]) - 1
    state["state"] = {last: state["state"][last]}
    whole = {"state_dict": network.state_dict(), "optimizer": state}
    back = there_and_back(whole, tmp_path)
    assert list(back["optimizer"]["state"]) == [last]
    assert main(["convert", str(tmp_path / "in.pth.tar"), str(tmp_path / "x.npz")]) == 0
    count = f"of 1 of {last + 1} parameters"
    assert f"optimizer adam, step 2, carried, {count}" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "in.pth.tar")]) == 0
    assert f"adam, step 2, {count}" in capsys.readouterr().out
    state["param_groups"][0]["params"] = [last]
    torch.save(whole, tmp_path / "in.pth")
    assert main(["convert", str(tmp_path / "in.pth"), str(tmp_path / "x.npz")]) == 0
    reason = f"it is of 1 parameters, the network has {last + 1}, and it does not say which"
    assert reason in capsys.readouterr().out


def test_the_order_of_another_file(tmp_path: Path) -> None:
    """Catches a state read in the published order, that was saved by a class of another one."""
    shapes = golden("genet_wrn16_2_global_avg")
    other = {k: shapes[k] for k in sorted(shapes, key=second_half_first)}
    assert [shapes[k] for k in other] == list(shapes.values())
    assert list(other) != list(shapes)
    before = trained(other, "adam")
    state = {"state_dict": before[0].state_dict(), "optimizer": before[1].state_dict()}
    back = there_and_back(state, tmp_path, ".npz")
    again = module(shapes)
    optimizer = optimizer_of("adam", again.parameters())
    optimizer.load_state_dict(back["optimizer"])
    found = {n: optimizer.state[p]["exp_avg"] for n, p in again.named_parameters()}
    for name, parameter in before[0].named_parameters():
        assert torch.equal(found[name], before[1].state[parameter]["exp_avg"]), name


def second_half_first(key: str) -> tuple[int, ...]:
    """Where a key stands if block1.layer.1 registers its second norm and convolution first."""
    order = list(golden("genet_wrn16_2_global_avg"))
    place = order.index(key)
    inside = key.startswith("block1.layer.1.")
    first = order.index("block1.layer.1.bn1.weight")
    return (first, "2." not in key, place) if inside else (place, 0, 0)


def test_a_sorted_file(tmp_path: Path) -> None:
    """Catches a state numbered by the order of keys that somebody sorted after training."""
    shapes = genet_extent2()
    network, optimizer = trained(shapes, "adam")
    whole = network.state_dict()
    state = {"state_dict": {k: whole[k] for k in sorted(whole)}}
    back = there_and_back(state | {"optimizer": optimizer.state_dict()}, tmp_path, ".npz")
    again = module(shapes)
    other = optimizer_of("adam", again.parameters())
    other.load_state_dict(back["optimizer"])
    same((network, optimizer), (again, other))


def test_without_a_manifest(tmp_path: Path) -> None:
    """Catches an order that only a manifest knows: a file tells it by its own."""
    shapes = erfnet_on_imagenet()
    before = trained(shapes, "sgd")
    state = {"state_dict": before[0].state_dict(), "optimizer": before[1].state_dict()}
    torch.save(state, tmp_path / "in.pth")
    convert(tmp_path / "in.pth", tmp_path / "out.pt")
    (tmp_path / "out.pt.manifest.json").unlink()
    for name in ("in.pth", "out.pt"):
        found = load(tmp_path / name)
        assert found.layout == "imagenet-encoder"
        assert set(found.filled) == {"encoder.output_conv.weight", "encoder.output_conv.bias"}
        assert found.optimizer is not None
        assert found.optimizer.absent(found.config) == [
            k for k in parameters(found.config) if k in found.filled
        ]
    whole = formats.read(tmp_path / "out.pt")
    assert list(whole.arrays) == list(shapes)
