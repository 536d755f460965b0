"""Optimizers as data, from which those of `torch.optim` and optax are built."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from parity.spec.models import Config
from parity.spec.tensors import STATISTICS, tensors

KINDS = ("adam", "sgd")
DECAYS = ("all", "not-norms", "matrices")
MATRICES = ("conv", "conv_transpose", "linear", "embedding")  # kinds of tensors
FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters with a separate learning rate.

    Attributes:
        prefixes: Prefixes of their published names.
        factor: Multiplies the schedule's rate.
    """

    prefixes: tuple[str, ...]
    factor: float

    def __post_init__(self) -> None:
        if not 0 <= self.factor < float("inf"):
            raise ValueError(f"factor is {self.factor}, expected 0 or more")


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """Adam (Kingma and Ba 2015), or SGD with momentum as PyTorch has it.

    Weight decay is coupled: added to the gradient before anything else is done with it. Or it is
    decoupled: Adam becomes AdamW (Loshchilov and Hutter 2019).

    Attributes:
        kind: One of `KINDS`.
        lr: The base learning rate, which the schedule scales.
        weight_decay: Factor of the weight that is added to its gradient, or decoupled to its step.
        decay: The parameters it applies to, one of `DECAYS`: `not-norms` leaves out scale and bias
            of norms, `matrices` everything but the weights of convolutions, fully connected layers
            and embeddings.
        betas: Adam's.
        eps: Adam's, added to the root of the corrected second moment.
        eps_hat: Whether it is added to the root of the uncorrected one instead, as MindSpore and
            TensorFlow do (section 2 of the paper, before algorithm 1 is reordered).
        decoupled: Whether the decay is; Adam's only.
        momentum: SGD's.
        nesterov: SGD's.
        groups: Parameters with another rate; of several that match, the first.

    Raises:
        ValueError: A field is none of these.
    """

    kind: str
    lr: float
    weight_decay: float = 0.0
    decay: str = "all"
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_hat: bool = False
    decoupled: bool = False
    momentum: float = 0.9
    nesterov: bool = False
    groups: tuple[Group, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"optimizer kind is {self.kind!r}, expected {' or '.join(KINDS)}")
        if self.decay not in DECAYS:
            raise ValueError(f"decay is {self.decay!r}, expected {' or '.join(DECAYS)}")
        if self.decoupled and self.kind != "adam":
            raise ValueError(f"decoupled is true of {self.kind}, expected false: it is Adam's only")
        for name in ("lr", "weight_decay", "eps"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not all(0 <= x < 1 for x in (*self.betas, self.momentum)):
            raise ValueError("betas and momentum are expected in [0, 1)")
        most = self.lr * max([1.0, *(group.factor for group in self.groups)])
        if self.kind == "adam":
            most /= 1 - self.betas[0]  # of the first step
        if most > FLOAT32_MAX:  # PyTorch takes no such number, JAX takes it for infinite
            raise ValueError(f"lr is {self.lr}, more than float32 can hold steps of")

    def eps_at(self, step: int) -> float:
        """Return the epsilon added to the root of the corrected second moment.

        Args:
            step: Number of the update, counted from 1.
        """
        return self.eps / (1 - self.betas[1] ** step) ** 0.5 if self.eps_hat else self.eps

    @property
    def slots(self) -> tuple[str, ...]:
        """Return the names, in PyTorch, of the arrays kept for every parameter."""
        if self.kind == "adam":
            return ("exp_avg", "exp_avg_sq")
        return ("momentum_buffer",) if self.momentum else ()

    def factor(self, key: str) -> float:
        """Return the factor of the schedule's rate for the parameter of this published name."""
        return next((g.factor for g in self.groups if key.startswith(g.prefixes)), 1.0)

    def decays(self, config: Config) -> dict[str, float]:
        """Published key of each parameter -> its weight decay."""
        kinds = tensors(config)
        norms = {k.rpartition(".")[0] for k, spec in kinds.items() if spec.kind == "scale"}
        spared = norms if self.decay == "not-norms" else set()
        decayed = MATRICES if self.decay == "matrices" else {spec.kind for spec in kinds.values()}
        return {
            key: self.weight_decay
            if kinds[key].kind in decayed and key.rpartition(".")[0] not in spared
            else 0.0
            for key in parameters(config)
        }


def parameters(config: Config) -> list[str]:
    """Published keys of everything that is trained, in the published order."""
    return [key for key, spec in tensors(config).items() if spec.kind not in STATISTICS]


def idle(config: Config, keys: Iterable[str]) -> set[str]:
    """Return those keys whose parameters the network holds but does not use.

    Their gradient is absent in PyTorch, so that nothing decays them, and 0 in JAX.
    """
    prefixes = getattr(config, "idle", ())
    return {key for key in keys if key.startswith(tuple(prefixes))} if prefixes else set()
