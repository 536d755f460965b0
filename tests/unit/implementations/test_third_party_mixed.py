"""Mixed precision on PyTorch's side: held against autocast, `GradScaler` and `Module.half`.

What is computed inside of a step is looked at, too: every operation and its precision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

import torch_impl.state
from parity.model_checks.small_networks import small
from parity.spec import draw
from parity.spec.training import scaling
from parity.spec.training.scaling import LossScale
from tests.training import ADAM, SGD, VOID, batch, trainer

HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 2.0**15  # so large that a gradient divided by it in float16 loses bits
cases = pytest.mark.parametrize(
    ("model", "level", "precision"),
    [(m, v, p) for m, p in (("genet", "fp16"), ("erfnet", "bf16")) for v in ("O1", "O2")],
)
PRODUCTS = ("convolution", "addmm", "mm", "mkldnn_convolution", "bmm")
LOSSES = ("_log_softmax", "nll_loss", "cross_entropy_loss")


def plain(model: str) -> tuple[torch.nn.Module, torch.Tensor, dict, Callable]:
    """The network in float32, its images and masks, and the loss of logits."""
    config, made = small(model, least=True)[0], batch(model, 0)
    network = torch_impl.state.build(config, draw.weights(config, 0)).train()
    network = network.to(memory_format=torch.channels_last)
    x = torch.from_numpy(made.images).permute(0, 3, 1, 2)
    masks = {k: torch.from_numpy(m) for k, m in made.masks.items()}
    masks = {k: m.permute(0, 3, 1, 2) if m.ndim == 4 else m for k, m in masks.items()}
    labels = torch.from_numpy(made.targets[0]).long()
    weights = torch.linspace(1, 2, config.num_classes, dtype=torch.float64).float()

    def loss(logits: torch.Tensor) -> torch.Tensor:
        assert logits.dtype == torch.float32
        return functional.cross_entropy(logits, labels, weights, ignore_index=VOID)

    return network, x.contiguous(memory_format=torch.channels_last), masks, loss


def by_autocast(model: str, half: torch.dtype) -> tuple[dict[str, torch.Tensor], dict, float]:
    """Gradients, statistics and loss as PyTorch's documentation of `torch.amp` makes them."""
    network, x, masks, loss = plain(model)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=SCALE)
    with torch.autocast("cpu", half):
        logits = network(x, masks) if masks else network(x)
    value = loss(logits.float())
    scaler.scale(value).backward()
    scaler.unscale_(optimizer)
    return gradients(network), dict(network.named_buffers()), value.item()


def by_half(model: str, half: torch.dtype) -> tuple[dict[str, torch.Tensor], dict, float]:
    """Train a network in half precision but for its batch norms, as Apex's O2 has it."""
    network, x, masks, loss = plain(model)
    network = network.to(half)
    whole = dict(plain(model)[0].named_buffers())
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.float()  # their scales are 1 + what is drawn: not what rounding left of them
            for key, value in plain(model)[0].get_submodule(name).named_parameters():
                module.get_parameter(key).data = value.data
            for key, _ in module.named_buffers():
                getattr(module, key).copy_(whole[f"{name}.{key}"])
    value = loss((network(x.to(half), masks) if masks else network(x.to(half))).float())
    (value * SCALE).backward()
    found = {k: g.float() / SCALE for k, g in gradients(network).items()}
    return found, dict(network.named_buffers()), value.item()


def gradients(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {k: p.grad for k, p in network.named_parameters() if p.grad is not None}


@cases
def test_gradients(model: str, level: str, precision: str) -> None:
    """Catches gradients divided by the scale in half precision, norms or a loss in it.

    Each moves a number by more than the last bit of a half.
    """
    expected, statistics, value = {"O1": by_autocast, "O2": by_half}[level](
        model, HALVES[precision]
    )
    made = trainer("torch", model, SGD, precision, level=level, loss_scale=SCALE)
    step = made.step(batch(model, 0), 0.0)
    assert not step.fault
    assert step.loss == pytest.approx(value, rel=1e-6)
    assert set(made.trained) <= expected.keys()
    for key in made.trained:
        found, right = made.masters[key].grad, expected[key]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-12, msg=lambda m, k=key: k + m)
    for key, buffer in made.model.named_buffers():
        torch.testing.assert_close(buffer, statistics[key], rtol=1e-5, atol=1e-7)


class Operations(TorchDispatchMode):
    """Notes every operation of PyTorch: its name, its tensors' precisions, and its numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, list[torch.dtype | None], list[float]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = [a.dtype if isinstance(a, torch.Tensor) else None for a in args]
        given = [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]
        singles = [a.item() for a in given if a.ndim == 0]
        numbers = [a for a in args if isinstance(a, float)]
        name = func.overloadpacket.__name__
        self.calls.append((name, inputs, [*singles, *numbers]))
        return out

    def named(self, *beginnings: str) -> list[tuple[str, list[torch.dtype | None]]]:
        """Operations whose names begin so."""
        return [(n, d) for n, d, _ in self.calls if n.startswith(beginnings)]


def floats(dtypes: list[torch.dtype | None]) -> set[torch.dtype]:
    return {d for d in dtypes if d is not None and d.is_floating_point}


@cases
def test_operations(model: str, level: str, precision: str) -> None:
    """Catches an operation in the wrong precision, forward, backward or in the optimizer's step.

    By the lists of PyTorch's documentation of `torch.amp`: products in half precision, losses in
    float32; and Apex's of O2: batch norms' own numbers in float32.
    """
    half, scale = HALVES[precision], 2.0**12 + 1  # no other number of a step
    made = trainer("torch", model, ADAM, precision, level=level, loss_scale=scale)
    with Operations() as seen:
        assert not made.step(batch(model, 0), 1e-3).fault
    products = seen.named(*PRODUCTS)
    assert len(products) > 10
    assert {d for _, dtypes in products for d in floats(dtypes)} == {half}
    losses = seen.named(*LOSSES)
    assert {n for n, _ in losses} >= {"_log_softmax", "_log_softmax_backward_data"}
    assert {d for _, dtypes in losses for d in floats(dtypes)} == {torch.float32}
    norms = seen.named("native_batch_norm", "_native_batch_norm_legit")
    assert len(norms) > 4
    for name, dtypes in norms:  # the first are the map, and its gradient
        own = dtypes[2:] if "backward" in name else dtypes[1:]
        assert floats(own) == {torch.float32}, name
    scaled = [d for n, d, x in seen.calls if n in ("div", "div_", "mul", "mul_") and scale in x]
    assert len(scaled) >= len(made.trained)
    assert {d for dtypes in scaled for d in floats(dtypes)} == {torch.float32}
    held = [*made.masters.values(), *(t for s in made.built.state.values() for t in s.values())]
    assert {t.dtype for t in held} == {torch.float32}
    assert len(held) > 3 * len(made.trained)
    updates = seen.named("_foreach", "addcdiv", "addcmul", "lerp", "_fused")
    assert {d for _, dtypes in updates for d in floats(dtypes)} <= {torch.float32}


@cases
def test_the_loss_of_a_validation(model: str, level: str, precision: str) -> None:
    """Catches a validation whose loss is that of logits in half precision."""
    made = trainer("torch", model, ADAM, precision, level=level)
    with Operations() as seen:
        made.evaluate(batch(model, 0))
    losses = seen.named(*LOSSES)
    assert losses
    assert {d for _, dtypes in losses for d in floats(dtypes)} == {torch.float32}


def test_the_weights_are_what_masters_round_to() -> None:
    """Catches masters that are missing: steps smaller than a half's last bit must add up."""
    made = trainer("torch", "genet", SGD, "fp16", level="O2", loss_scale=SCALE)
    before = {k: m.detach().clone() for k, m in made.masters.items()}
    for key, array in draw.weights(small("genet", least=True)[0], 0).items():
        if key in before:
            np.testing.assert_array_equal(before[key].numpy(), array)
    right = {k: m.double() for k, m in before.items()}
    for _ in range(4):
        assert not made.step(batch("genet", 0), 1e-6).fault
        for group in made.built.param_groups:
            for p in group["params"]:
                key = next(k for k, m in made.masters.items() if m is p)
                right[key] -= 1e-6 * made.built.state[p]["momentum_buffer"].double()
    for key in made.trained:
        torch.testing.assert_close(made.masters[key].double(), right[key], rtol=1e-6, atol=0)
        assert torch.equal(made.parameters[key], made.masters[key].to(made.parameters[key].dtype))
    moved = [k for k in made.trained if not torch.equal(made.masters[k], before[k])]
    assert len(moved) == len(made.trained)


def test_the_dynamic_scale() -> None:
    """Catches a scale that rises or falls otherwise than `torch.amp.GradScaler`'s."""
    parameter = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.SGD([parameter], lr=0.0)
    scaler, ours = torch.amp.GradScaler("cpu"), LossScale.of("dynamic")
    rng, bad = np.random.default_rng(0), {0, 1, 5}
    assert ours.value == scaler.get_scale()
    for i in range(3 * scaling.PATIENCE):
        overflow = i in bad or (i > 2200 and rng.random() < 1e-3)
        scaler.scale(parameter.sum())  # makes its scale
        parameter.grad = torch.full((1,), float("inf") if overflow else 1.0)
        scaler.step(optimizer)
        scaler.update()
        step = ours.outcome(0.5, "gradient" if overflow else "")
        assert (ours.value, step.skipped) == (scaler.get_scale(), overflow), i
    assert ours.value != scaling.FIRST


def test_an_overflow() -> None:
    """Catches a step that is made although a gradient overflowed, or half undone."""
    large = 2.0**30  # times the gradients: more than a half holds
    network, x, _, loss = plain("genet")
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=large)
    with torch.autocast("cpu", torch.float16):
        logits = network(x)
    scaler.scale(loss(logits.float())).backward()
    scaler.step(optimizer)
    scaler.update()
    made = trainer("torch", "genet", SGD, "fp16", level="O1", loss_scale="dynamic")
    made.scale.value = large
    before = made.snapshot()
    step = made.step(batch("genet", 0), 1.0)
    assert (step.skipped, step.scale, step.fault) == (True, scaler.get_scale(), "")
    assert scaler.get_scale() == large / 2
    after = made.snapshot()
    for key, value in network.named_parameters():
        assert np.array_equal(after.arrays[key], before.arrays[key])
        np.testing.assert_array_equal(after.arrays[key], value.detach().numpy())
    # PyTorch's own loop leaves the statistics of a batch whose step it skips; ours goes back.
    assert all(np.array_equal(after.arrays[k], a) for k, a in before.arrays.items())
