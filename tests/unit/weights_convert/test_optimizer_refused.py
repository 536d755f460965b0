"""What of an optimizer's state cannot be carried, is said; what was changed, is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.spec.errors import InputError
from tests.trained import CONFIG, named, saved, trained, weights
from weights_convert import convert, formats, load
from weights_convert.numbering import parameters


@pytest.fixture(params=["adam", "sgd"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def source(kind: str, tmp_path: Path) -> Path:
    return saved(tmp_path, *trained(kind))


def changed(source: Path, change: Any) -> Path:
    saved = torch.load(source, weights_only=True)
    change(saved["optimizer"])
    torch.save(saved, source)
    return source


def two_groups(optimizer: dict, named: bool) -> None:
    (group,) = optimizer["param_groups"]
    last = copy.deepcopy(group)
    last["params"], group["params"] = group["params"][:2], group["params"][2:]
    if named:
        keys = [f"module.{key}" for key in parameters(CONFIG)]
        group["param_names"], last["param_names"] = keys[2:], keys[:2]
    optimizer["param_groups"] = [group, last]


def other_step(optimizer: dict) -> None:
    optimizer["state"][1]["step"] += 1


def amsgrad(optimizer: dict) -> None:
    optimizer["state"][1]["max_exp_avg_sq"] = optimizer["state"][1]["exp_avg_sq"]


def steps(optimizer: dict, value: Any) -> None:
    for slots in optimizer["state"].values():
        slots["step"] = value


def turned(optimizer: dict) -> None:
    optimizer["state"][0]["exp_avg"] = optimizer["state"][0]["exp_avg"].flatten()


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda o: two_groups(o, False), "2 groups, and it does not say which parameter is which"),
        (other_step, "its parameters are at different steps, [3, 4]"),
        (amsgrad, "max_exp_avg_sq has no name elsewhere"),
        (turned, "exp_avg of parameter 0 is not of its shape"),
        (lambda o: o["param_groups"][0]["params"].pop(), "the network has"),
        (lambda o: o["state"][0].pop("exp_avg"), "one of its slots lacks parameters"),
        (lambda o: steps(o, torch.tensor(float("nan"))), "no whole number from 0 to 2147483647"),
        (lambda o: steps(o, torch.tensor(3e9)), "no whole number from 0 to 2147483647"),
        (lambda o: steps(o, torch.tensor([])), "no whole number from 0 to 2147483647"),
        (lambda o: steps(o, None), "no whole number from 0 to 2147483647"),
        (lambda o: steps(o, 2.5), "no whole number from 0 to 2147483647"),
        (lambda o: o["state"][0].update(exp_avg=[[1], [2, 3]]), "is not of its shape"),
        (lambda o: o["state"][0].update(exp_avg=o["state"][0]["exp_avg"] > 0), "is bool, expected"),
        (lambda o: named(o, ["a"] * 25), "its names of the parameters are not those"),
        (lambda o: named(o, [3] * 25), "its names of the parameters are not those"),
        (lambda o: named(o, ["fc.bias"] * 25), "its names of the parameters are not those"),
    ],
)
def test_what_cannot_be_carried_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: Any, reason: str
) -> None:
    """Catches a state guessed at, or dropped in silence; the weights come along all the same."""
    changed(source, change)
    assert main(["convert", str(source), str(tmp_path / "x.orbax")]) == 0
    out = capsys.readouterr().out
    assert "not carried: epoch, arch, optimizer (" in out
    assert reason in out
    assert load(tmp_path / "x.orbax").optimizer is None


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
def test_named_groups(source: Path, tmp_path: Path) -> None:
    """Catches groups in another order than the parameters', though they carry their names."""
    whole = load(source).optimizer
    found = load(changed(source, lambda o: two_groups(o, True))).optimizer
    assert found.slots["exp_avg"].keys() == whole.slots["exp_avg"].keys()
    first, third = parameters(CONFIG)[0], parameters(CONFIG)[2]
    assert np.array_equal(found.slots["exp_avg"][third], whole.slots["exp_avg"][third])
    assert np.array_equal(found.slots["exp_avg"][first], whole.slots["exp_avg"][first])


def decay_on_one(optimizer: dict) -> None:
    two_groups(optimizer, True)
    optimizer["param_groups"][1]["weight_decay"] = 0.5


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
@pytest.mark.parametrize(
    ("change", "said", "kept"),
    [
        (decay_on_one, "arch\n", {}),
        (lambda o: o["param_groups"][0].update(x={1: 2}), "arch, optimizer's x (a dict)", {}),
        (lambda o: o["param_groups"][0].update({5: 2}), "arch, optimizer's 5 (a int)", {}),
        (lambda o: o["param_groups"][0].update(lr=torch.tensor(0.5)), "arch\n", {"lr": 0.5}),
        (
            lambda o: o["param_groups"][0].update(betas=(torch.tensor(0.5), 0.75)),
            "not carried: epoch, arch\n",
            {"betas": (0.5, 0.75)},
        ),
        (lambda o: o["param_groups"][0].update(lr=float("nan")), "arch\n", {}),
    ],
)
def test_hyperparameters(
    source: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    said: str,
    kept: dict,
) -> None:
    """Catches one of a group or on a device lost in silence, or one group's given to all."""
    changed(source, change)
    for name in ("x.npz", "x.pth"):
        assert main(["convert", str(source), str(tmp_path / name)]) == 0
        assert said in capsys.readouterr().out
    groups = torch.load(tmp_path / "x.pth", weights_only=True)["optimizer"]["param_groups"]
    assert groups[0].items() >= kept.items()
    decays = [group["weight_decay"] for group in groups]
    assert decays == ([0, 0.5] if change is decay_on_one else [0])


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
def test_a_step_beyond_float32(source: Path, tmp_path: Path) -> None:
    """Catches a step rounded because PyTorch counts in float32."""
    changed(source, lambda o: steps(o, 2**24 + 1))
    convert(source, tmp_path / "x.npz")
    convert(tmp_path / "x.npz", tmp_path / "y.pth")
    assert load(tmp_path / "y.pth").optimizer.step == 2**24 + 1


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
@pytest.mark.parametrize("suffix", [".orbax", ".npz", ".pth"])
def test_a_parameter_without_state(source: Path, tmp_path: Path, suffix: str) -> None:
    """Catches one that never had a gradient given a state on its way back."""
    changed(source, lambda o: o["state"].pop(4))
    convert(source, tmp_path / f"x{suffix}")
    convert(tmp_path / f"x{suffix}", tmp_path / "back.pth")
    saved = torch.load(tmp_path / "back.pth", weights_only=True)["optimizer"]
    assert 4 not in saved["state"]
    assert len(saved["state"]) == len(parameters(CONFIG)) - 1


@pytest.mark.parametrize("kind", ["sgd"], indirect=True)
@pytest.mark.parametrize(
    ("state", "reason"),
    [
        (
            torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], 0.1).state_dict(),
            "it holds nothing",
        ),
        ({"state": {}}, "it is no state of an optimizer of PyTorch's"),
        ("adam", "it is no state of an optimizer of PyTorch's"),
    ],
    ids=["plain SGD", "no groups", "a name"],
)
def test_no_state_at_all(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], state: object, reason: str
) -> None:
    """Catches `not carried: optimizer` without a word of why."""
    data = torch.load(source, weights_only=True)
    torch.save(data | {"optimizer": state}, source)
    assert main(["convert", str(source), str(tmp_path / "x.npz")]) == 0
    assert f"optimizer ({reason}" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["sgd"], indirect=True)
def test_weights_only(source: Path, tmp_path: Path) -> None:
    """Catches a state carried against the user's will."""
    arguments = ["convert", str(source), str(tmp_path / "x.pth"), "--weights-only"]
    assert main(arguments) == 0
    assert torch.load(tmp_path / "x.pth", weights_only=True).keys() == set(weights())


@pytest.mark.parametrize("kind", ["sgd"], indirect=True)
def test_a_changed_moment_is_refused(source: Path, tmp_path: Path) -> None:
    """Catches a manifest that speaks of the weights alone."""
    convert(source, tmp_path / "x.safetensors")
    contents = formats.read(tmp_path / "x.safetensors")
    name = next(name for name in contents.arrays if name.startswith("opt_state.trace."))
    contents.arrays[name].flat[0] += 1
    formats.write(tmp_path / "y", "safetensors", contents.arrays, contents.metadata)
    with pytest.raises(InputError, match=r"does not hold the tensors .* optimizer\.momentum_buf"):
        load(tmp_path / "y")


@pytest.mark.parametrize("kind", ["adam"], indirect=True)
def test_a_changed_step_is_refused(source: Path, tmp_path: Path) -> None:
    """Catches a manifest that says nothing of the step, which a flipped bit changes."""
    convert(source, tmp_path / "x.safetensors")
    contents = formats.read(tmp_path / "x.safetensors")
    contents.arrays["opt_state.count"] = np.int32(7).reshape(())
    formats.write(tmp_path / "y", "safetensors", contents.arrays, contents.metadata)
    with pytest.raises(InputError, match=r"says optimizer .*'step': 3.*, found .*'step': 7"):
        load(tmp_path / "y")
