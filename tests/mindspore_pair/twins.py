"""The network of `reference.py` in JAX and in PyTorch, and how they are compared with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from flax import nnx
from torch import nn
from torch.nn import functional

import jax_impl.layers
import torch_impl.layers
from parity import Port
from parity.trace.reading import TraceFile
from parity.trace.recorder import record_torch

TRACE = Path(__file__).parents[1] / "golden" / "mindspore_small.trace"
DECAY, EPS = 1e-2, 1e-8
SPARED = ("bn", "up_bn")  # MindSpore's Adam does not decay gamma and beta

# MindSpore's name -> the port's, and the axes: kernels are OIHW there, a transposed one's IOHW.
RULES = [
    (r"up\.weight", "up.kernel", (2, 3, 1, 0)),
    (r"(.*)\.weight", r"\1.kernel", (2, 3, 1, 0)),
    (r"(.*)\.bias", r"\1.bias"),
    (r"(.*bn)\.gamma", r"\1.scale"),
    (r"(.*bn)\.beta", r"\1.bias"),
    (r"(.*)\.moving_mean", r"\1.mean"),
    (r"(.*)\.moving_variance", r"\1.var"),
    (r"act\.w", "act.negative_slope"),
    (None, r".*num_batches_tracked"),  # counters, which MindSpore does not have
]


def rate(step):
    """The learning rate of a step, counted from 0."""
    return 5e-3 * (1 - step / 20) ** 0.9


class JaxNet(nnx.Module):
    """(N, H, W, 3) to (N, 2 H, 2 W, 3)."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 3, (3, 3), strides=2, padding="SAME", use_bias=False, rngs=rngs)
        self.bn = jax_impl.layers.BatchNorm2d(3, rngs=rngs)
        self.act = jax_impl.layers.PReLU(3, rngs=rngs)
        self.dilated = jax_impl.layers.Conv2d(3, 3, 3, padding=2, dilation=2, rngs=rngs)
        self.up = jax_impl.layers.ConvTranspose2dSame(3, 4, 3, 2, rngs=rngs)
        self.up_bn = jax_impl.layers.BatchNorm2d(4, eps=1e-3, momentum=0.2, rngs=rngs)
        self.resize = jax_impl.layers.BilinearX2(rngs=rngs)
        self.head = jax_impl.layers.Conv2d(4, 3, 1, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.act(self.bn(self.conv(x)))
        x = x + self.dilated(x)
        x = jax.nn.relu(self.up_bn(self.up(x)))
        return self.head(self.resize(x))


class TorchNet(nn.Module):
    """(N, 3, H, W) to (N, 3, 2 H, 2 W)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Conv2dSame(3, 3, 3, 2, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.act = nn.PReLU(3)
        self.dilated = nn.Conv2d(3, 3, 3, padding=2, dilation=2)
        self.up = torch_impl.layers.ConvTranspose2dSame(3, 4, 3, 2)
        self.up_bn = nn.BatchNorm2d(4, eps=1e-3, momentum=0.2)
        self.resize = torch_impl.layers.BilinearX2()
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.bn(self.conv(x)))
        x = x + self.dilated(x)
        x = functional.relu(self.up_bn(self.up(x)))
        return self.head(self.resize(x))


class Conv2dSame(nn.Conv2d):
    """A convolution to half of an even size, padded at the bottom and on the right alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(functional.pad(x, (0, 1, 0, 1)))


def jax_loss(logits: jax.Array, labels: jax.Array, weights: jax.Array) -> jax.Array:
    """Cross-entropy, weighted by class."""
    chosen = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    each = weights[labels]
    return (chosen * each).sum() / each.sum()


def adam() -> optax.GradientTransformation:
    """Adam as MindSpore's: coupled decay, and eps beside the uncorrected moment."""

    def decayed(parameters):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: not str(path[0]).strip("[']").startswith(SPARED), parameters
        )

    return optax.chain(
        optax.add_decayed_weights(DECAY, decayed),
        eps_hat_adam(),
        optax.scale_by_learning_rate(rate),
    )


def eps_hat_adam(b1: float = 0.9, b2: float = 0.999, eps: float = EPS):
    """Adam whose epsilon is added to the root of the moment before that is corrected."""

    def update(gradients, state, _=None):
        count = state.count + 1
        mu = optax.tree.update_moment(gradients, state.mu, b1, 1)
        nu = optax.tree.update_moment(gradients, state.nu, b2, 2)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        made = jax.tree.map(lambda m, v: scale * m / (jnp.sqrt(v) + eps), mu, nu)
        return made, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam(b1, b2).init, update)


def make_port(trace: str | Path = TRACE) -> Port:
    """The JAX side against the recording."""
    return Port(
        reference=str(trace),
        port=JaxNet(),
        weights=RULES,
        losses=(None, jax_loss),
        optimizers=(None, adam()),
        schedules=(None, rate, 19),
    )


def torch_state(arrays: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state of `TorchNet`, from MindSpore's."""
    names = {"gamma": "weight", "beta": "bias", "w": "weight"}
    names |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    found = {}
    for name, array in arrays.items():
        layer, _, leaf = name.rpartition(".")
        found[f"{layer}.{names.get(leaf, leaf)}"] = torch.tensor(array)
    return found


def torch_loss(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, weighted by class."""
    return functional.cross_entropy(logits, labels.long(), weights)


def torch_adam(network: nn.Module) -> torch.optim.Adam:
    """Adam as MindSpore's, but for its eps, which `schedule` sets at each step."""
    groups: dict[bool, list] = {True: [], False: []}
    for name, parameter in network.named_parameters():
        groups[name.partition(".")[0] not in SPARED].append(parameter)
    decays = [{"params": p, "weight_decay": DECAY * d} for d, p in groups.items()]
    return torch.optim.Adam(decays, rate(0), eps=EPS / (1 - 0.999) ** 0.5)


class Schedule:
    """The rates; and eps, which MindSpore adds to the root of the uncorrected moment."""

    def __init__(self, optimizer: torch.optim.Adam) -> None:
        self.optimizer, self.count = optimizer, 0

    def step(self) -> None:
        """Set rate and eps of the next step."""
        self.count += 1
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.count)
            group["eps"] = EPS / (1 - 0.999 ** (self.count + 1)) ** 0.5


def record_torch_twin(
    trace: TraceFile, path: Path, change: Callable[[TorchNet], None] | None = None
) -> None:
    """Record the PyTorch side on what MindSpore's was recorded on.

    Args:
        trace: MindSpore's.
        path: The trace to write.
        change: Changes the network before it is recorded.
    """
    network = TorchNet()
    if change is not None:
        change(network)
    state = torch_state(trace.arrays(trace.index["state"]))
    missing, unknown = network.load_state_dict(state, strict=False)
    assert not unknown, unknown
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    run = trace.runs["train", "float32", None]
    (x,) = trace.tree(run["args"], trace.array)
    options = {"loss": torch_loss, "targets": [trace.array(name) for name in run["targets"]]}
    record_torch(
        path, network, [x], optimizer=torch_adam, schedule=Schedule, rates=19, steps=3, **options
    )
