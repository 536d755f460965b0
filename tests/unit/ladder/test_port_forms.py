"""Right ports in forms that others write them in, each beside a wrong one of the same form."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from parity import Port, check
from parity.ladder.weights import by_value
from parity.report.quantity import Kind

LINEAR: list = [(r"(.*)\.weight", r"\1.kernel", (1, 0)), (r"(.*)\.bias", r"\1.bias")]
RNGS = nnx.Rngs(0)


class Checkpointed(nn.Module):
    """Forgets its activations, and computes them again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def inner(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.dropout(self.a(x), 0.5, self.training)
        return torch.softmax(x.float(), -1).to(x.dtype)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(checkpoint(self.inner, x, use_reentrant=False))


class Softmax(nnx.Module):
    def __init__(self, factor: float = 1.0) -> None:
        self.a, self.b = nnx.Linear(4, 4, rngs=RNGS), nnx.Linear(4, 4, rngs=RNGS)
        self.factor = factor

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(jax.nn.softmax(self.a(x) * self.factor, -1))


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_what_is_computed_again_is_computed_alike(factor: float) -> None:
    """Catches casts and dropout that are left out, but not where a checkpoint runs again."""
    port = Port(Checkpointed(), Softmax(factor), (3, 4), weights=LINEAR)
    assert check(port, levels=("L3",)).ok == (factor == 1.0)


class Reentrant(Checkpointed):
    def forward(self, x: torch.Tensor) -> Any:
        return self.b(checkpoint(self.inner, x, use_reentrant=True))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_layers_whose_gradients_are_not_seen_are_named() -> None:
    """Catches layers compared forward alone without a word: hooks see no gradient in there."""
    report = check(Port(Reentrant(), Softmax(), (3, 4), weights=LINEAR), levels=("L1",))
    assert report.ok
    lacking = [(o.layer, o.quantity.kind, o.counts) for o in report.left_out if o.rung == "L1"]
    assert lacking == [("a", Kind.PARAMETER_GRADIENT, False)]


class TiedReentrant(Reentrant):
    """The checkpointed layer's weight has the other one's name among the parameters."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.b, self.a = nn.Linear(4, 4), nn.Linear(4, 4)
        self.a.weight = self.b.weight


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True")
def test_a_tied_layer_whose_gradients_are_not_seen_is_named() -> None:
    """Catches a layer taken for one without gradients, since its weight has another's name."""
    port = Softmax()
    port.b.kernel = port.a.kernel
    rules = [("a.weight", "a.kernel", (1, 0)), ("b.weight", None), LINEAR[1]]
    report = check(Port(TiedReentrant(), port, (3, 4), weights=rules), levels=("L1",))
    lacking = [o.layer for o in report.left_out if o.quantity.kind is Kind.PARAMETER_GRADIENT]
    assert lacking == ["a"]


class Folded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.c, self.norm = nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.d = nn.Conv2d(4, 4, 1)
        self.norm.running_var += torch.rand(4)
        self.norm.running_mean += torch.rand(4)

    def forward(self, x: torch.Tensor) -> Any:
        return self.d(torch.relu(self.norm(self.c(x))))


class Convolution(nnx.Module):
    def __init__(self) -> None:
        self.c, self.d = (nnx.Conv(n, 4, (1, 1), rngs=RNGS) for n in (3, 4))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.d(jax.nn.relu(self.c(x)))


def folded(eps: float) -> Any:
    """Return a function that folds the norm into the first convolution, by this epsilon."""

    def fold(a: Any) -> dict[str, np.ndarray]:
        scale = a["norm.weight"] / np.sqrt(a["norm.running_var"] + eps)
        kernel = a["c.weight"].transpose(2, 3, 1, 0) * scale
        bias = a["norm.bias"] - a["norm.running_mean"] * scale
        last = {"d.kernel": a["d.weight"].transpose(2, 3, 1, 0), "d.bias": a["d.bias"]}
        return {"c.kernel": kernel, "c.bias": bias} | last

    return fold


@pytest.mark.parametrize("eps", [1e-5, 1e-3])
def test_a_batch_norm_folded_into_a_convolution(eps: float) -> None:
    """Catches a folded convolution that fails since it gives more than the one of its name."""
    weights = folded(eps)
    report = check(Port(Folded(), Convolution(), (2, 3, 3, 3), weights=weights, train=False))
    assert report.ok == (eps == 1e-5)
    if report.ok:
        assert any("made of several" in o.reason for o in report.left_out)
    else:
        assert "eps 0.001 instead of 1e-05" in str(report.causes[0])


class Aside(Folded):
    """Its first output does not depend on what is folded; its second one does, if it has one."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        self.second = second

    def forward(self, x: torch.Tensor) -> Any:
        y = self.norm(self.c(x))
        out = {"out": self.d(torch.cat([x, x[:, :1]], 1)) + 0 * y}
        return out | {"second": y} if self.second else out


class ConvolutionAside(Convolution):
    def __call__(self, x: jax.Array) -> Any:
        return {"out": self.d(jnp.concatenate([x, x[..., :1]], -1)) + 0 * self.c(x)}


@pytest.mark.parametrize(("eps", "second"), [(1e-5, False), (1e-3, False), (1e-5, True)])
def test_a_wrong_fold_beside_a_right_output(eps: float, second: bool) -> None:
    """Catches a fold that is excused where no output that is compared depends on it."""
    inputs, weights = (2, 3, 3, 3), folded(eps)
    port = Port(Aside(second), ConvolutionAside(), inputs, weights=weights, train=False)
    report = check(port, levels=("L1", "L2"))
    assert report.ok == (eps == 1e-5 and not second)
    if not second:  # nor where layers that may be the ones were left out
        assert not check(port, levels=("L1", "L2"), layers="c").ok or eps == 1e-5
    if eps != 1e-5:
        assert any(c.layer == "c" for c in report.failures())


class Words(nn.Module):
    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.head = nn.Embedding(5, 4, padding_idx=1), nn.Linear(4, 4)
        self.tied = tied

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.head(self.words(ids))
        return x @ self.words.weight.T if self.tied else x


class WordsPort(nnx.Module):
    def __init__(self, stopped: bool, factor: float = 1.0, tied: bool = False) -> None:
        self.words, self.head = nnx.Embed(5, 4, rngs=RNGS), nnx.Linear(4, 4, rngs=RNGS)
        self.stopped, self.factor, self.tied = stopped, factor, tied

    def __call__(self, ids: jax.Array) -> jax.Array:
        x = self.words(ids)
        if self.stopped:
            x = jnp.where((ids == 1)[..., None], jax.lax.stop_gradient(x), x)
        x = self.head(x * self.factor)
        return self.words.attend(x) if self.tied else x


def words_port(
    stopped: bool,
    factor: float = 1.0,
    ids: Any = ((0, 1, 3), (4, 1, 1)),
    tied: bool = False,
) -> Port:
    reference = Words(tied)
    torch.nn.init.normal_(reference.words.weight)
    weights = [(r"words\.weight", "words.embedding"), *LINEAR]
    return Port(reference, WordsPort(stopped, factor, tied), np.array(ids), weights=weights)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("stopped", [True, False])
def test_what_a_layer_lacks_may_be_done_outside_of_it(stopped: bool, tied: bool) -> None:
    """Catches an embedding called wrong whose padding row is not trained, for another reason.

    A tied table has a gradient there nevertheless: that of its other use.
    """
    report = check(words_port(stopped, tied=tied))
    assert report.ok == stopped
    if stopped:
        assert any("outside of it" in o.reason for o in report.left_out)


def test_what_is_done_outside_hides_no_other_fault() -> None:
    """Catches a fault that is not looked for, since an embedding alone trains its padding row."""
    report = check(words_port(stopped=True, factor=1.001), levels=("L1", "L2", "L3"))
    fault = report.fault()
    assert fault is not None
    assert fault.layer != "words"
    assert not any("padding row" in str(cause) for cause in report.causes)


class Perceptron(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(torch.tanh(self.a(x)))


class Detached(nnx.Linear):
    """A layer whose bias is not trained where it is alone, nor in the network."""

    def __call__(self, x: jax.Array, *args: Any, **kwargs: Any) -> jax.Array:
        return x @ self.kernel[...] + jax.lax.stop_gradient(self.bias[...])


class Compensated(nnx.Module):
    """Trains, outside of the layer, what the layer alone does not."""

    def __init__(self) -> None:
        self.a, self.b = Detached(4, 4, rngs=RNGS), nnx.Linear(4, 3, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        bias = self.a.bias[...]
        return self.b(jnp.tanh(self.a(x) + bias - jax.lax.stop_gradient(bias)))


def test_a_wrong_gradient_of_a_layer_is_not_taken_back() -> None:
    """Catches a layer alone that trains its bias otherwise, excused since the network is right."""
    report = check(Port(Perceptron(), Compensated(), (5, 4), weights=LINEAR), ("L1", "L2", "L3"))
    assert {(c.rung, c.layer) for c in report.failures()} == {("L1", "a")}


@pytest.mark.parametrize("stopped", [True, False])
def test_a_tensor_of_which_the_reference_trains_a_part(stopped: bool) -> None:
    """Catches a stack, of which both sides train one part, that is compared with nothing."""
    reference = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    reference[0].requires_grad_(False)

    def port(p: Any, x: jax.Array) -> jax.Array:
        first = jax.tree.map(lambda a: a[0], p)
        first = jax.lax.stop_gradient(first) if stopped else first
        return jnp.tanh(x @ first["w"] + first["b"]) @ p["w"][1] + p["b"][1]

    def stack(a: Any) -> dict[str, np.ndarray]:
        kernels = np.stack([a["0.weight"].T, a["2.weight"].T])
        return {"w": kernels, "b": np.stack([a["0.bias"], a["2.bias"]])}

    params = {"w": jnp.zeros((2, 4, 4)), "b": jnp.zeros((2, 4))}
    report = check(Port(reference, port, (3, 4), params=params, weights=stack))
    assert report.ok == stopped
    assert not report.incomplete()


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_layer_of_weight_norm(factor: float) -> None:
    """Catches a reference refused because it keeps the weight that it computed last."""
    torch.manual_seed(0)
    with pytest.warns(FutureWarning):
        layer = nn.utils.weight_norm(nn.Linear(4, 3))

    def port(p: Any, x: jax.Array) -> jax.Array:
        length = jnp.sqrt((p["v"] ** 2).sum(0, keepdims=True))
        return x @ (factor * p["g"] * p["v"] / length) + p["b"]

    rules = [(r"0\.weight_g", "g", (1, 0)), (r"0\.weight_v", "v", (1, 0)), (r"0\.bias", "b")]
    params = {"g": jnp.zeros((1, 3)), "v": jnp.zeros((4, 3)), "b": jnp.zeros(3)}
    made = Port(nn.Sequential(layer), port, (2, 4), params=params, weights=rules)
    assert check(made, levels=("L0", "L2", "L3")).ok == (factor == 1.0)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.r = nn.RNN(3, 4, batch_first=True)

    def forward(self, x: torch.Tensor) -> Any:
        return self.r(x)[0]


class RecurrentPort(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.RNN(linen.SimpleCell(4, name="cell"), name="r")(x)


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_recurrent_layer_of_linen(factor: float) -> None:
    """Catches a carry that stays float32, since nobody sees the cell make it."""
    module = RecurrentPort()
    variables = module.init(jax.random.key(0), jnp.ones((2, 5, 3)))
    (prefix,) = {
        ".".join(str(part.key) for part in path[:-2])
        for path, _ in jax.tree_util.tree_flatten_with_path(variables["params"])[0]
    }

    def weights(a: Any) -> dict[str, np.ndarray]:
        return {
            f"{prefix}.i.kernel": a["r.weight_ih_l0"].T,
            f"{prefix}.i.bias": factor * (a["r.bias_ih_l0"] + a["r.bias_hh_l0"]),
            f"{prefix}.h.kernel": a["r.weight_hh_l0"].T,
        }

    port = Port(Recurrent(), module, (2, 5, 3), params=variables, weights=weights)
    report = check(port, levels=("L2",))
    assert report.compared >= 4  # the output in each mode, in each precision
    assert bool(report.failures()) == (factor != 1.0)


class Share(nn.Module):
    """PyTorch divides integers in its default type, and what was cast to float32 in that."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.cast = cast

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.head(x) * (mask.float().mean() if self.cast else mask.sum() / mask.numel())


class SharePort(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.head = nnx.Linear(4, 3, rngs=RNGS)
        self.factor = factor

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return self.head(x) * (self.factor * mask.sum() / mask.size)


@pytest.mark.parametrize(("cast", "factor"), [(False, 1.0), (True, 1.0), (True, 1 + 1e-6)])
def test_integers_that_are_divided(cast: bool, factor: float) -> None:
    """Catches a share of integers, float32 in a reference that should be float64."""
    inputs = ((2, 4), np.array([1, 1, 0]))
    port = Port(Share(cast), SharePort(factor), inputs, weights=LINEAR)
    assert check(port, levels=("L2", "L3")).ok == (factor == 1.0)


def test_equal_tensors_without_names_pair_by_use() -> None:
    """Catches fresh norms that are paired by the names that they happen to have."""
    source = {f"norm{i}.weight": np.ones(3) for i in (1, 2)}
    target = {name: np.ones(3) for name in ("last.scale", "first.scale")}
    found = by_value(source, target, (["norm1", "norm2"], ["first", "last"]))
    assert {name: key for name, (key, _) in found.items()} == {
        "first.scale": "norm1.weight",
        "last.scale": "norm2.weight",
    }


class Series(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 5, 1)

    def forward(self, x: torch.Tensor) -> Any:
        return self.b(self.a(x))


class SeriesPort(nnx.Module):
    def __init__(self) -> None:
        self.a, self.b = nnx.Conv(3, 4, 3, padding=1, rngs=RNGS), nnx.Conv(4, 5, 1, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(self.a(x) * 1.001)


def test_series_with_channels_last_behind_a_fault() -> None:
    """Catches a convolution of a series that fails by its shape, since a fault is before it."""
    rules = [(r"(.)\.weight", r"\1.kernel", (2, 1, 0)), (r"(.)\.bias", r"\1.bias")]
    last = {0: (0, 2, 1)}
    port = Port(Series(), SeriesPort(), (2, 7, 3), rules, input_layouts=last, output_layouts=last)
    report = check(port, levels=("L1", "L2"))
    assert {c.rung for c in report.failures()} == {"L2"}
    assert not any(c.note for c in report.failures())


def test_series_as_long_as_it_has_channels() -> None:
    """Catches a convolution behind a fault that is not turned, since its shape is the same."""
    torch.manual_seed(0)
    reference = nn.Sequential(nn.Conv1d(5, 5, 3, padding=1), nn.Tanh(), nn.Conv1d(5, 5, 1))
    rules = [
        (rf"{m}\.{a}", f"{n}.{b}", *axes)
        for m, n in (("0", "a"), ("2", "b"))
        for a, b, *axes in (("weight", "kernel", (2, 1, 0)), ("bias", "bias"))
    ]

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.a = nnx.Conv(5, 5, 3, padding=1, rngs=RNGS)
            self.b = nnx.Conv(5, 5, 1, rngs=RNGS)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.b(jnp.tanh(self.a(x) * 1.001))

    last = {0: (0, 2, 1)}
    port = Port(reference, Net(), (2, 5, 5), rules, input_layouts=last, output_layouts=last)
    report = check(port, levels=("L1", "L2"))
    assert not [c for c in report.failures() if c.rung == "L1"]
    assert report.failures()


class Narrow(nnx.Module):
    def __init__(self, factor: float) -> None:
        self.factor = factor
        self.a = nnx.Linear(4, 4, dtype=jnp.bfloat16, rngs=RNGS)
        self.b = nnx.Linear(4, 4, rngs=RNGS)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.b(jnp.tanh(self.factor * self.a(x).astype(x.dtype)))


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_layer_in_bfloat16_is_inexact_and_no_more(factor: float) -> None:
    """Catches a layer of a narrower type that is called another function, or cannot be run."""
    reference = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4))
    weights = {
        f"{there}.{leaf}": (f"{here}.{name}", axes)
        for here, there in (("0", "a"), ("2", "b"))
        for leaf, name, axes in (("kernel", "weight", (1, 0)), ("bias", "bias", None))
    }
    port = Port(reference, Narrow(factor), (5, 4), weights=weights)
    report = check(port, levels=("L1", "L2"))
    assert {c.kind for c in report.failures()} == {"numerics", *["structure"] * (factor != 1)}
    if factor != 1:
        return
    assert report.fault().layer == "a"
    assert all(np.isfinite(c.error) for c in report.failures() if c.layer != "(network)")
