"""The public interface: ports of every sort, however weights are given and layers are called."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from parity import check
from parity.spec.errors import InputError
from tests.pair import MAP, SIZE, Ported, Reference, plain, port, reference

Capture = pytest.CaptureFixture[str]


def by_function(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n: arrays[k].transpose(a) if a else arrays[k] for n, (k, a) in MAP.items()}


def rules() -> list:
    found = [(r"num_batches_tracked", None)]
    for name, (key, axes) in MAP.items():
        found.append((key.replace(".", r"\."), name, axes))
    return found


# What is copied as it is may be given by its name alone.
SHORT = {name: (key, axes) if axes else key for name, (key, axes) in MAP.items()}
GIVEN = {"map": MAP, "short map": SHORT, "function": by_function, "rules": rules()}


@pytest.mark.parametrize("weights", GIVEN.values(), ids=GIVEN)
def test_weights_however_given(weights: object) -> None:
    """Catches a way of giving weights that loses, mixes or does not load them."""
    report = check(port(weights=weights))
    report.assert_faithful()
    assert len([c for c in report.checks if c.rung == "L0"]) == len(MAP)
    gradients = {(c.layer, str(c.quantity)) for c in report.checks if c.rung == "L3"}
    assert ("first", "gradient of kernel") in gradients
    assert ("last", "gradient of bias") in gradients


def test_weights_found_by_value() -> None:
    """Catches equal tensors that are not recognised, whatever their names and layouts."""
    p = port()
    state = reference().state_dict()
    flat = nnx.to_flat_state(nnx.state(p.port, nnx.Any(nnx.Param, nnx.BatchStat)))
    for path, leaf in flat:
        key, axes = MAP[".".join(map(str, path))]
        array = state[key].numpy()
        leaf.set_value(jnp.asarray(array.transpose(axes) if axes else array))
    report = check(dataclasses.replace(p, weights=None))
    report.assert_faithful()
    names = {c.layer: c.reference for c in report.checks if c.rung == "L0"}
    assert names == {name: key for name, (key, _) in MAP.items()}


def test_a_tensor_that_nothing_equals_is_shown_with_what_fits() -> None:
    """Catches a wrong value that the search by value hides by pairing it with nothing."""
    p = port()
    state = reference().state_dict()
    flat = nnx.to_flat_state(nnx.state(p.port, nnx.Any(nnx.Param, nnx.BatchStat)))
    for path, leaf in flat:
        key, axes = MAP[".".join(map(str, path))]
        array = state[key].numpy() * (2 if key == "head.bias" else 1)
        leaf.set_value(jnp.asarray(array.transpose(axes) if axes else array))
    failed = check(dataclasses.replace(p, weights=None), levels=("L0",)).failures()
    assert [(c.layer, c.reference) for c in failed] == [("last.bias", "head.bias")]
    assert "5 of 5 values differ" in failed[0].sentence()


def test_layers_are_paired_and_the_others_listed() -> None:
    """Catches a layer that is silently not compared, and one that is paired wrongly."""
    report = check(port(), levels=("L1", "L2"))
    pairs = {c.layer: c.reference for c in report.checks if c.rung == "L1"}
    assert pairs == {"first": "stem", "second": "norm", "last": "head"}
    assert "not paired, reference: act" in report.notes
    assert "switched off on both sides: drop" in report.notes


def test_layers_are_paired_by_value() -> None:
    """Catches a search by value that misses an activation without weights, or its layout."""

    class Named(Ported):
        def __init__(self, *, rngs: nnx.Rngs) -> None:
            super().__init__(rngs=rngs)
            self.bend = Bend()

        def __call__(self, x: jax.Array) -> dict:
            x = self.bend(self.second(self.first(x))).mean((2, 3))
            return {"parts": (x, x.sum(1)), "logits": self.last(x)}

    class Bend(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.nn.relu(x).transpose(0, 3, 1, 2)  # back to PyTorch's layout

    report = check(port(port=Named(rngs=nnx.Rngs(0))), levels=("L2",))
    report.assert_faithful()
    pairs = {c.layer: c.reference for c in report.checks}
    assert pairs["bend"] == "act"


def test_a_given_pair_that_does_not_exist_is_refused() -> None:
    """Catches a typing error in a mapping of layers that silently pairs nothing."""
    with pytest.raises(InputError, match="the port calls no layer 'frist'"):
        check(port(layers={"frist": "stem"}))


def test_several_inputs_integers_and_nested_outputs() -> None:
    """Catches an input that is cast, lost or swapped, and outputs matched in the wrong order."""
    images = np.random.default_rng(0).random(SIZE, np.float32)
    scale = np.array([2, 3])
    report = check(port(inputs=(images, scale), eval_inputs=(images, scale)))
    report.assert_faithful()
    outputs = {str(c.quantity) for c in report.checks if c.layer == "(network)" and c.rung == "L2"}
    assert {f"output {i} in eval mode" for i in range(3)} <= outputs


# Flax's batch norm computes its statistics in float32 and stores them as they are given.
@pytest.mark.filterwarnings("ignore:scatter inputs have incompatible types")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_other_precisions(precision: str) -> None:
    """Catches a working precision that is float32 in truth, or that clean ports fail in."""
    report = check(port(), precision=precision)
    report.assert_faithful()
    error = max(c.error for c in report.checks if c.rung == "L2" and c.kind == "numerics")
    assert error > 1e-4


class Raises(Ported):
    """Fails inside a layer."""

    def __call__(self, x: jax.Array) -> dict:
        return super().__call__(x[:, :, :, :2])


class Silent(Ported):
    """Returns nothing."""

    def __call__(self, x: jax.Array) -> tuple:
        super().__call__(x)
        return ()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": "images"}, "expected an array or a shape"),
        ({"inputs": (3.5,)}, "expected an array or a shape among them"),
        ({"inputs": ({3.5},)}, "input 0 is {3.5}, expected an array, a shape"),
        ({"weights": {**MAP, "third.bias": ("stem.bias", None)}}, "the port has no third.bias"),
        ({"weights": {**MAP, "last.bias": ("tail.bias", None)}}, "the reference has no tail.bias"),
        (
            {"weights": {k: v for k, v in MAP.items() if k != "last.bias"}},
            "nothing fills last.bias",
        ),
        ({"weights": {**MAP, "last.bias": ("norm.bias", None)}}, "nothing uses head.bias"),
        ({"weights": {**MAP, "first.kernel": ("stem.weight", None)}}, "first.kernel would be"),
        ({"weights": {**MAP, "first.kernel": ("stem.weight", (0, 1))}}, "no permutation"),
        ({"weights": rules()[:-1]}, "no rule for head.bias"),
        ({"weights": lambda arrays: {}}, "does not read stem.weight, stem.bias"),
        ({"weights": lambda arrays: 3}, "gave a int, expected a dict"),
        ({"reference": "a module"}, "cannot read a module: No such file or directory"),
        ({"port": 3}, "the port is a int, expected an NNX module"),
        ({"port": plain}, "function and needs its parameters"),
        ({"reference": Reference().to("meta")}, "is on meta, expected the cpu"),
        ({"inputs": (torch.zeros(SIZE, device="meta"),)}, "input 0 is on meta, expected the cpu"),
        ({"port": Ported}, "the port is the class Ported, expected a module made of it"),
        ({"port": Raises(rngs=nnx.Rngs(0))}, "the port raised .* in first"),
        ({"inputs": (2, 8, 10, 4)}, "the reference raised RuntimeError in stem"),
    ],
)
def test_what_cannot_be_compared_is_refused(changes: dict, message: str) -> None:
    """Catches bad input that ends in a traceback, or in a verdict."""
    with pytest.raises(InputError, match=message) as caught:
        check(port(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.* is deprecated")
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("compiler", "message"),
    [(torch.jit.script, "is of TorchScript"), (torch.compile, "is compiled by torch.compile")],
)
def test_a_compiled_reference_is_refused(compiler: Any, message: str, whole: bool) -> None:
    """Catches a traceback at a module that takes no hooks, or at one that is compiled again."""
    compiled = compiler(nn.Linear(4, 4))
    reference = compiled if whole else nn.Sequential(compiled)
    name = "the reference" if whole else "the reference's 0"
    with pytest.raises(InputError, match=f"^{name} {message}, expected"):
        check(port(reference=reference))


def test_no_outputs_is_no_agreement() -> None:
    """Catches a comparison of nothing that passes."""
    with pytest.raises(InputError, match="the port returned nothing, expected arrays"):
        check(port(port=Silent(rngs=nnx.Rngs(0))))


def test_the_oracle_is_not_quietly_float32() -> None:
    """Catches a float64 run that stays in float32 because the port casts, and tells nobody."""
    p = port()

    class Narrow(Ported):
        def __call__(self, x: jax.Array) -> dict:
            return jax.tree.map(lambda y: y.astype(jnp.float32), super().__call__(x))

    report = check(dataclasses.replace(p, port=Narrow(rngs=nnx.Rngs(0))), levels=("L2",))
    assert report.ok
    assert any("the port computes in float32 inside" in note for note in report.notes)


def test_shapes_are_not_broadcast() -> None:
    """Catches an output of the wrong shape that NumPy would have broadcast."""

    class Narrow(Ported):
        def __call__(self, x: jax.Array) -> dict:
            out = super().__call__(x)
            return {**out, "logits": out["logits"][:1]}

    report = check(port(port=Narrow(rngs=nnx.Rngs(0))), levels=("L2",))
    assert any("shape (1, 5), reference (2, 5)" in c.sentence() for c in report.failures())
