"""Optimizers and schedules of both sides, against each other and against the libraries' own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch

import jax_impl.optim
import jax_impl.state
import torch_impl.optim
from parity.model_checks.small_networks import small
from parity.spec import draw
from parity.spec.models import MODELS
from parity.spec.recipes import RECIPES
from parity.spec.tensors import tensors
from parity.spec.training.optimizers import Group, Optimizer, idle, parameters
from parity.spec.training.schedules import Schedule
from weights_convert import naming

Arrays = dict[str, np.ndarray]
STEPS = 20
HEAD = (Group(("head.",), 10.0), Group(("conv_sub1.",), 0.5))
CASES = {
    "adam": ("enet", Optimizer("adam", 5e-4, 2e-4)),
    "adam, norms spared": ("erfnet", Optimizer("adam", 5e-4, 1e-2, decay="not-norms")),
    "adam, eps_hat": ("enet-mindspore", Optimizer("adam", 5e-4, 1e-4, eps=1e-3, eps_hat=True)),
    "adam, no decay": ("genet", Optimizer("adam", 1e-3, betas=(0.8, 0.99))),
    "adamw, matrices, groups": (
        "vit",
        Optimizer(
            *("adam", 1e-3, 0.1),
            decay="matrices",
            decoupled=True,
            groups=(Group(("head.",), 10.0),),
        ),
    ),
    "sgd, groups": ("icnet", Optimizer("sgd", 0.01, 1e-2, groups=HEAD)),
    "sgd, nesterov": ("genet", Optimizer("sgd", 0.1, 5e-4, nesterov=True)),
    "sgd, no momentum": ("genet", Optimizer("sgd", 0.1, 5e-4, momentum=0.0)),
}
case = pytest.mark.parametrize("name", CASES)


def setting(name: str) -> tuple[Any, Optimizer, Arrays, list[Arrays]]:
    """The network, the optimizer, its parameters and the gradients of 20 steps; published names."""
    model, optimizer = CASES[name]
    config = small(model, least=True)[0]
    drawn, keys = draw.weights(config, 0), parameters(config)
    unused = idle(config, keys)
    weights = {k: drawn[k].astype(np.float64) for k in keys if k not in unused}
    rng = np.random.default_rng(0)
    sizes = 10.0 ** rng.uniform(-5, 0, STEPS)
    gradients = [{k: s * rng.standard_normal(w.shape) for k, w in weights.items()} for s in sizes]
    return config, optimizer, weights, gradients


def rates(optimizer: Optimizer) -> list[float]:
    """Through a drop."""
    return [optimizer.lr * (1.0 if i < STEPS // 2 else 0.1) for i in range(STEPS)]


def in_torch(name: str, dtype: torch.dtype = torch.float64) -> list[Arrays]:
    config, optimizer, weights, gradients = setting(name)
    held = {k: torch.tensor(w, dtype=dtype, requires_grad=True) for k, w in weights.items()}
    built = torch_impl.optim.build(config, optimizer, held)
    made = []
    for i, rate in enumerate(rates(optimizer)):
        for key, parameter in held.items():
            parameter.grad = torch.tensor(gradients[i][key], dtype=dtype)
        torch_impl.optim.hyperparameters(optimizer, built, rate, i + 1).step()
        made.append({k: p.detach().numpy().copy() for k, p in held.items()})
    return made


def in_jax(name: str, dtype: str = "float64") -> list[Arrays]:
    config, optimizer, weights, gradients = setting(name)
    there = {key: (own, leaf) for own, (key, leaf) in naming.names(config, "jax").items()}

    def own(arrays: Arrays) -> dict:
        return {there[k][0]: there[k][1].array(a).astype(dtype) for k, a in arrays.items()}

    with jax.enable_x64(dtype == "float64"):
        held = own(weights)
        transform = jax_impl.optim.build(config, optimizer, held)

        @jax.jit
        def update(held: Any, state: Any, gradients: Any, told: Any) -> tuple:
            updates, state = transform.update(gradients, state, held, **told)
            return optax.apply_updates(held, updates), state

        state, made = transform.init(held), []
        for i, rate in enumerate(rates(optimizer)):
            told = jax_impl.optim.hyperparameters(optimizer, dtype, rate, i + 1)
            held, state = update(held, state, own(gradients[i]), told)
            made.append(
                {
                    k: np.asarray(leaf.inverse().array(np.asarray(held[name])))
                    for k, (name, leaf) in there.items()
                    if name in held
                }
            )
    return made


def steps(weights: Arrays, made: list[Arrays]) -> list[Arrays]:
    """What each step adds."""
    return [{k: b[k] - a[k] for k in a} for a, b in zip([weights, *made], made, strict=False)]


def apart(one: Arrays, other: Arrays) -> float:
    """The largest relative difference of a tensor."""
    assert one.keys() == other.keys()
    assert one
    return max(np.linalg.norm(one[k] - other[k]) / np.linalg.norm(other[k]) for k in one)


@case
def test_both_sides_take_the_same_steps(name: str) -> None:
    """Catches faults 27 to 32 and 34: eps, decay, momentum; decay shows in steps, not weights."""
    weights, ours, theirs = setting(name)[2], in_jax(name), in_torch(name)
    for a, b in zip(steps(weights, ours), steps(weights, theirs), strict=True):
        assert apart(a, b) <= 1e-10  # of a step, which is some 1e-3 of its weight
    assert apart(ours[-1], theirs[-1]) <= 1e-12


def test_float32_steps_are_as_exact_as_pytorchs() -> None:
    """Catches a correction of Adam's bias in float32: the first thousand steps too long."""
    name = "adam, no decay"
    exact = in_torch(name)
    errors = [
        apart(made[0], exact[0])
        for made in (in_jax(name, "float32"), in_torch(name, torch.float32))
    ]
    weights = {k: np.zeros_like(w) for k, w in setting(name)[2].items()}
    assert errors[0] <= 2 * errors[1] + 2**-23, (errors, len(weights))


@pytest.mark.parametrize("model", MODELS)
def test_published_key_of_a_jax_parameter(model: str) -> None:
    """Catches a parameter that decays, or learns, as another one should."""
    config = MODELS[model]
    trained = set(parameters(config))
    for own, (key, _) in naming.names(config, "jax").items():
        if key in trained:
            assert jax_impl.state.published(own) == key


@pytest.mark.parametrize("decay", ["all", "not-norms"])
def test_what_decays(decay: str) -> None:
    """Catches fault 30: PReLUs and other biases decay, batch norms only where all do."""
    config = MODELS["erfnet-mindspore"]
    made = Optimizer("adam", 1.0, 0.5, decay=decay).decays(config)
    norms = 0.5 if decay == "all" else 0.0
    assert made["encoder.initial_block.bn.weight"] == norms
    assert made["encoder.initial_block.bn.bias"] == norms
    assert made["encoder.initial_block.conv.bias"] == 0.5
    assert made["encoder.initial_block.conv.weight"] == 0.5
    kinds = tensors(MODELS["enet"])
    slopes = [k for k in kinds if kinds[k].kind == "slope"]
    everything = Optimizer("adam", 1.0, 0.5, decay=decay).decays(MODELS["enet"])
    assert slopes
    assert {everything[k] for k in slopes} == {0.5}


def test_what_adamw_decays() -> None:
    """Catches a decay of norms, biases, or a class token, and none of an embedding or a kernel."""
    made = Optimizer("adam", 1.0, 0.5, decay="matrices", decoupled=True)
    vit, decoder = made.decays(MODELS["vit"]), made.decays(MODELS["decoder"])
    decayed = {k for k, d in (vit | decoder).items() if d == 0.5}
    assert {"patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "head.weight"} <= decayed
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= decayed
    spared = {k for k, d in (vit | decoder).items() if d == 0.0}
    assert {"cls_token", "pos_embed", "norm.weight", "blocks.0.mlp.fc1.bias"} <= spared
    assert "model.norm.weight" in spared
    assert decayed | spared == vit.keys() | decoder.keys()


def test_decoupled_decay_is_adams() -> None:
    """Catches a setting of SGD that would be ignored."""
    with pytest.raises(ValueError, match="decoupled is true of sgd"):
        Optimizer("sgd", 0.1, 5e-4, decoupled=True)


def library(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> Any:
    """PyTorch's own scheduler of the schedule, which takes one step per epoch or per step."""
    s, unit = schedule, steps if schedule.per_step else 1
    kinds = torch.optim.lr_scheduler
    if s.kind == "step":
        return kinds.StepLR(optimizer, s.every, s.gamma)
    if s.kind == "multistep":
        return kinds.MultiStepLR(optimizer, list(s.milestones), s.gamma)
    if s.kind == "poly":
        return kinds.PolynomialLR(optimizer, s.length * unit, s.power)
    if s.kind == "cosine":
        return kinds.CosineAnnealingLR(optimizer, (s.length - s.warmup * s.after_warmup) * unit)
    return kinds.ConstantLR(optimizer, 1.0)


def of_optax(schedule: Schedule, steps: int) -> optax.Schedule:
    """Return the schedule as optax has it."""
    s, unit = schedule, steps if schedule.per_step else 1
    if s.kind == "step":
        return optax.exponential_decay(1.0, s.every, s.gamma, staircase=True)
    if s.kind == "multistep":
        return optax.piecewise_constant_schedule(1.0, dict.fromkeys(s.milestones, s.gamma))
    if s.kind == "poly":
        return optax.polynomial_schedule(1.0, 0.0, s.power, s.length * unit)
    if s.kind == "cosine":
        return optax.cosine_decay_schedule(1.0, (s.length - s.warmup * s.after_warmup) * unit)
    return optax.constant_schedule(1.0)


SCHEDULES = [
    pytest.param(stage.schedule, stage.epochs, id=f"{name}-{stage.name}")
    for name, recipe in RECIPES.items()
    for stage in recipe.stages
]


@pytest.mark.parametrize(("schedule", "epochs"), SCHEDULES)
def test_schedule_is_the_libraries(schedule: Schedule, epochs: int) -> None:
    """Catches fault 33, at every epoch of every recipe: a rate one epoch or one step off."""
    steps = 3
    plain = dataclasses.replace(schedule, warmup=0, after_warmup=False)
    begin = schedule.warmup if schedule.after_warmup else 0
    if begin:
        plain = dataclasses.replace(plain, length=schedule.length - begin)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = library(optimizer, plain, steps)
    optimizer.step()
    for _ in range(plain.first):
        scheduler.step()
    with jax.enable_x64(True):
        jaxs = of_optax(plain, steps)
        for epoch in range(epochs - begin):
            for step in range(steps):
                time = (epoch * steps + step if plain.per_step else epoch) + plain.first
                expected = scheduler.get_last_lr()[0]
                assert math.isclose(float(jaxs(time)), expected, rel_tol=1e-9, abs_tol=1e-12)
                made = schedule.factor(epoch + begin, step, steps)
                if epoch + begin >= schedule.warmup:
                    assert math.isclose(made, expected, rel_tol=1e-9, abs_tol=1e-12)
                else:  # by equal parts to what follows
                    peak = schedule.factor(schedule.warmup, 0, steps)
                    assert math.isclose(made, (epoch + begin + 1) / schedule.warmup * peak)
                if plain.per_step:
                    scheduler.step()
            if not plain.per_step:
                scheduler.step()


def test_icnets_last_step_has_rate_0() -> None:
    """Catches a count from 0 where the published loop counts from 1."""
    schedule = RECIPES["icnet-cityscapes"].stages[0].schedule
    assert schedule.factor(199, 9, 10) == 0
    assert schedule.factor(0, 0, 10) == (1 - 1 / 2000) ** 0.9
