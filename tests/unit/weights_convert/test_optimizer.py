"""An optimizer's state carried between frameworks, as PyTorch and optax themselves hold it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx, serialization
from flax.training.train_state import TrainState

import jax_impl.state
import torch_impl.state
from parity.cli import main
from parity.spec.models import MODELS
from parity.spec.tensors import tensors
from tests.trained import CONFIG, TORCH, named, saved, step, trained, weights
from weights_convert import convert, formats, load, mindspore_adam, naming, to_jax
from weights_convert.formats.nested import nest
from weights_convert.numbering import parameters

OPTAX = {"adam": optax.adam(3e-4, 0.8, 0.99), "sgd": optax.sgd(0.1, momentum=0.9)}
SUFFIXES = [".pth", ".safetensors", ".npz", ".msgpack", ".orbax"]


@pytest.fixture(params=["adam", "sgd"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def training(kind: str) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    return trained(kind)


@pytest.fixture
def source(training: tuple, tmp_path: Path) -> Path:
    return saved(tmp_path, *training)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_there_and_back(training: tuple, source: Path, tmp_path: Path, suffix: str) -> None:
    """Catches a moment lost, swapped or transposed: the next step would be another."""
    model, optimizer = training
    convert(source, tmp_path / f"there{suffix}")
    done = convert(tmp_path / f"there{suffix}", tmp_path / "back.pth")
    assert done.manifest.optimizer["absent"] == []
    saved = torch.load(tmp_path / "back.pth", weights_only=True)
    again = torch_impl.state.build(CONFIG, weights())
    again.load_state_dict(saved["state_dict"])
    other = TORCH["adam" if "betas" in saved["optimizer"]["param_groups"][0] else "sgd"](
        again.parameters()
    )
    for group in other.param_groups:
        group["lr"] = 123.0  # what was saved counts
    other.load_state_dict(saved["optimizer"])
    for pair in ((model, optimizer), (again, other)):
        step(*pair, seed=9)
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_optax_goes_on(training: tuple, source: Path, tmp_path: Path, kind: str) -> None:
    """Catches a name that is not optax's: its next update would not be PyTorch's."""
    model, optimizer = training
    convert(source, tmp_path / "x.safetensors", to="jax")
    contents = formats.read(tmp_path / "x.safetensors")
    fields: dict[str, Any] = {}
    for name, array in contents.arrays.items():
        if name.startswith("opt_state."):
            _, field, *path = name.split(".", 2)
            fields.setdefault(field, {})[path[0] if path else ""] = jnp.asarray(array)
    if "count" in fields:
        fields["count"] = fields["count"][""]
    names = to_jax(CONFIG, load(tmp_path / "x.safetensors").arrays)
    kept = [name for name in names if name in fields.get("mu", fields.get("trace"))]
    params = {name: jnp.asarray(names[name]) for name in kept}
    state = optax.tree_utils.tree_set(OPTAX[kind].init(params), **fields)
    step(model, optimizer, seed=9)
    gradients = {k: p.grad.numpy() for k, p in model.named_parameters()}
    there = to_jax(CONFIG, weights() | gradients)
    updates, _ = OPTAX[kind].update({k: jnp.asarray(there[k]) for k in kept}, state, params)
    after = to_jax(CONFIG, torch_impl.state.state(model))
    for name in kept:
        np.testing.assert_allclose(params[name] + updates[name], after[name], rtol=2e-6, atol=2e-7)


def jax_training(kind: str, wrapped: bool) -> tuple[nnx.Module, Any]:
    model = jax_impl.state.build(CONFIG, to_jax(CONFIG, weights()))
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    tx = optax.chain(optax.clip(1.0), OPTAX[kind]) if wrapped else OPTAX[kind]
    state = tx.init(params)
    for i in range(2):
        gradients = jax.tree.map(lambda p, i=i: jnp.full_like(p, i + 0.5), params)
        _, state = tx.update(gradients, state, params)
    return model, state


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors"])
def test_what_flax_saves(tmp_path: Path, kind: str, wrapped: bool, suffix: str) -> None:
    """Catches optax's own tree, in a chain or not, that is not understood."""
    model, state = jax_training(kind, wrapped)
    tree = {
        **nest(jax_impl.state.state(model)),
        "opt_state": serialization.to_state_dict(jax.device_get(state)),
        "step": np.asarray(2, np.int32),
    }
    (tmp_path / "in").write_bytes(serialization.msgpack_serialize(jax.device_get(tree)))
    convert(tmp_path / "in", tmp_path / f"x{suffix}")
    found = load(tmp_path / f"x{suffix}")
    assert found.optimizer.kind == kind
    assert found.optimizer.step == (2 if kind == "adam" else None)
    assert list(next(iter(found.optimizer.slots.values()))) == parameters(CONFIG)
    last = {"adam": 0.2 * (0.8 * 0.5 + 1.5), "sgd": 0.9 * 0.5 + 1.5}[kind]
    if wrapped:  # clipped to 1
        last = {"adam": 0.2 * (0.8 * 0.5 + 1.0), "sgd": 0.9 * 0.5 + 1.0}[kind]
    for array in next(iter(found.optimizer.slots.values())).values():
        np.testing.assert_allclose(array, last, rtol=1e-6)


def test_mindspore_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches MindSpore's training checkpoints refused, or their moments named otherwise."""
    config = MODELS["enet-mindspore"]
    names = naming.names(config, "mindspore")
    rng, trained = np.random.default_rng(0), set(parameters(config))
    arrays = {n: rng.random(tensors(config)[k].shape, np.float32) for n, (k, _) in names.items()}
    moments = {
        f"{slot}.{name}": rng.random(arrays[name].shape, np.float32)
        for slot in ("moment1", "moment2")
        for name, (key, _) in names.items()
        if key in trained
    }
    beside = {"learning_rate": np.float32(0.1)[None]}
    steps = {"global_step": np.array([7], np.int32), **mindspore_adam.powers(7, (0.9, 0.999))}
    formats.write(tmp_path / "in.ckpt", "mindspore", arrays | moments | beside | steps, {})
    assert main(["convert", str(tmp_path / "in.ckpt"), str(tmp_path / "x.pth")]) == 0
    out = capsys.readouterr().out
    assert "optimizer adam, step 7, carried" in out
    assert "not carried: learning_rate\n" in out
    saved = torch.load(tmp_path / "x.pth", weights_only=True)["optimizer"]
    key = parameters(config)[5]
    name = next(n for n, (k, _) in names.items() if k == key)
    assert np.array_equal(saved["state"][5]["exp_avg_sq"].numpy(), moments[f"moment2.{name}"])
    assert float(saved["state"][5]["step"]) == 7
    convert(tmp_path / "x.pth", tmp_path / "back.ckpt")
    back = formats.read(tmp_path / "back.ckpt").arrays
    assert back.keys() == (arrays | moments | steps).keys()
    assert all(np.array_equal(back[k], v) for k, v in (arrays | moments | steps).items())


def test_which_count_is_the_step(tmp_path: Path) -> None:
    """Catches the count of a schedule taken for Adam's, because it comes first."""
    model, state = jax_training("adam", False)
    chained = {"0": {"count": np.int32(99)}, "1": serialization.to_state_dict(state)["0"]}
    tree = {**nest(jax_impl.state.state(model)), "opt_state": jax.device_get(chained)}
    (tmp_path / "in").write_bytes(serialization.msgpack_serialize(jax.device_get(tree)))
    found = load(tmp_path / "in")
    assert found.optimizer.step == 2
    assert found.skipped == ("opt_state.0.count",)


def test_amsgrad_of_optax(tmp_path: Path) -> None:
    """Catches AMSGrad carried as Adam, without its maxima."""
    model, _ = jax_training("adam", False)
    state = optax.amsgrad(0.1).init(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    tree = {
        **nest(jax_impl.state.state(model)),
        "opt_state": serialization.to_state_dict(jax.device_get(state)),
    }
    (tmp_path / "in").write_bytes(serialization.msgpack_serialize(jax.device_get(tree)))
    found = load(tmp_path / "in")
    assert found.optimizer is None
    assert "nu_max" in found.skipped[0]


@pytest.mark.parametrize("prefixes", [("accum", "stat"), ("adam_m", "adam_v"), ("vhat",)])
def test_other_optimizers_of_mindspore(tmp_path: Path, prefixes: tuple[str, ...]) -> None:
    """Catches a training checkpoint refused, or its state dropped in silence."""
    config = MODELS["enet-mindspore"]
    names = naming.names(config, "mindspore")
    arrays = {n: np.zeros(tensors(config)[k].shape, np.float32) for n, (k, _) in names.items()}
    state = {f"{p}.{n}": array for p in prefixes for n, array in arrays.items()}
    beside = {"momentum": np.float32([0.9]), "global_step": np.int32([3])}
    formats.write(tmp_path / "in.ckpt", "mindspore", arrays | state | beside, {})
    found = load(tmp_path / "in.ckpt")
    assert found.optimizer is None
    assert found.skipped[0] == "momentum"
    assert found.skipped[1].startswith(f"optimizer ({prefixes[0]}.")


@pytest.mark.parametrize("suffix", ["orbax", "msgpack"])
def test_flax_itself(tmp_path: Path, suffix: str) -> None:
    """Catches `nnx.Optimizer`, which counts in uint32, or a `TrainState`, in Python, refused."""
    model, _ = jax_training("adam", False)
    optimizer = nnx.Optimizer(model, optax.adam(0.1), wrt=nnx.Param)
    if suffix == "orbax":
        tree = {"model": nnx.state(model), "optimizer": nnx.state(optimizer)}
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "in", nnx.to_pure_dict(nnx.State(tree)))
    else:
        params, others = (nnx.to_pure_dict(s) for s in nnx.state(model, nnx.Param, ...))
        state = TrainState.create(apply_fn=None, params=params, tx=optax.adam(0.1))
        tree = serialization.to_state_dict(jax.device_get(state)) | {"batch_stats": others}
        data = serialization.msgpack_serialize(jax.device_get(tree))
        (tmp_path / "in").write_bytes(data)
    convert(tmp_path / "in", tmp_path / "x.npz")
    found = load(tmp_path / "x.npz")
    assert (found.optimizer.kind, found.optimizer.step) == ("adam", 0)
    assert load(tmp_path / "in").skipped == (
        ("optimizer.step",) if suffix == "orbax" else ("step",)
    )


@pytest.mark.parametrize("prefix", ["encoder.", "model.encoder.module."])
@pytest.mark.parametrize("kind", ["adam"], indirect=True)
def test_the_optimizer_of_somebody_s_encoder(source: Path, tmp_path: Path, prefix: str) -> None:
    """Catches the weights known without `encoder.`, and their state only with it."""
    whole = torch.load(source, weights_only=True)
    whole["state_dict"] = {prefix + k: v for k, v in whole["state_dict"].items()}
    named(whole["optimizer"], [prefix + key for key in parameters(CONFIG)])
    torch.save(whole, tmp_path / "x.pth")
    found = load(tmp_path / "x.pth").optimizer
    convert(source, tmp_path / "y.safetensors", to="jax")
    arrays = {
        re.sub(r"^(opt_state\.(?:mu|nu)\.)?(?!opt_state)", rf"\1{prefix}", name): array
        for name, array in formats.read(tmp_path / "y.safetensors").arrays.items()
    }
    formats.write(tmp_path / "z", "safetensors", arrays, {})
    for state in (found, load(tmp_path / "z").optimizer):
        for key, array in load(source).optimizer.flat().items():
            assert np.array_equal(state.flat()[key], array)
