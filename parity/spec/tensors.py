"""The tensors in a checkpoint of each network: the contract between files and both sides.

Keys are the published PyTorch names, in the order of the published `state_dict`; shapes are
PyTorch's (OIHW). Nothing here needs a framework, so a file can be checked without loading one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from parity.spec.errors import InputError, listed

if TYPE_CHECKING:
    from parity.spec.models import Config


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One entry of a checkpoint.

    Attributes:
        kind: Its kind, which determines its name and layout in other frameworks: `conv` or
            `conv_transpose` kernel, `linear` weight, `embedding`, `scale`, `bias`, `mean`, `var` or
            `count` of a norm, `slope` of a PReLU; `bare` for a parameter that belongs to no layer
            and has one name everywhere, such as a class token.
        shape: PyTorch's shape.
    """

    kind: str
    shape: tuple[int, ...]


# Buffers rather than parameters: nothing trains them.
STATISTICS = ("mean", "var", "count")

Entry = tuple[str, Tensor]


def tensors(config: Config) -> dict[str, Tensor]:
    """Return every tensor of the network's checkpoint.

    Returns:
        Published key -> kind and shape, in the published order.
    """
    return dict(_tensors(config))  # type: ignore[arg-type]  # a Config is a frozen dataclass


@functools.lru_cache(maxsize=64)
def _tensors(config: Config) -> tuple[Entry, ...]:
    """Compute `tensors`, which reading one file asks for dozens of times."""
    return tuple(config.tensors())


def layouts(config: Config) -> dict[str, tuple[str, ...]]:
    """Return the keys, in order, of other published classes of the network.

    `torch.optim` numbers parameters in the order of their registration, so an optimizer's state
    fits only the class that it was saved with.

    Returns:
        Name -> published keys; nothing where there is only the class whose order is `tensors`'.
    """
    found: dict[str, tuple[str, ...]] = getattr(config, "layouts", dict)()
    return found


def check_names(
    target: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], where: str
) -> None:
    """Refuse a set of named tensors that is not exactly the expected one.

    Args:
        target: Name -> shape of everything that must be there.
        found: Name -> shape of what is there.
        where: What holds the found ones, for the message.

    Raises:
        InputError: One line that counts the names missing, left over, or of another shape, and
            lists some of each.
    """
    missing = [f"{k} is missing" for k in target if k not in found]
    spare = [f"{k} is not expected" for k in found if k not in target]
    bent = [
        f"{k} is {_x(found[k])}, expected {_x(target[k])}"
        for k in target
        if k in found and tuple(found[k]) != tuple(target[k])
    ]
    groups = {"missing": missing, "not expected": spare, "of another shape": bent}
    if total := sum(map(len, groups.values())):
        counts = [f"{len(group):,} {what}" for what, group in groups.items() if group]
        # Each kind by turns: a hundred missing names must not hide the one that stands for them.
        faults = [f for row in itertools.zip_longest(*groups.values()) for f in row if f]
        raise InputError(
            f"{where}: {_count(total)} not match ({', '.join(counts)}): {listed(faults, '; ')}"
        )


def _x(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"


def _count(n: int) -> str:
    return "1 tensor does" if n == 1 else f"{n} tensors do"


def conv(
    name: str, inputs: int, outputs: int, kh: int, kw: int, bias: bool = False
) -> Iterator[Entry]:
    """Yield a convolution's tensors; `inputs` counts the channels of one group."""
    yield f"{name}.weight", Tensor("conv", (outputs, inputs, kh, kw))
    if bias:
        yield f"{name}.bias", Tensor("bias", (outputs,))


def conv_transpose(
    name: str, inputs: int, outputs: int, kh: int, kw: int, bias: bool = False
) -> Iterator[Entry]:
    """Yield a transposed convolution's tensors."""
    yield f"{name}.weight", Tensor("conv_transpose", (inputs, outputs, kh, kw))
    if bias:
        yield f"{name}.bias", Tensor("bias", (outputs,))


def linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[Entry]:
    """Yield a fully connected layer's tensors."""
    yield f"{name}.weight", Tensor("linear", (outputs, inputs))
    if bias:
        yield f"{name}.bias", Tensor("bias", (outputs,))


def embedding(name: str, tokens: int, channels: int) -> Iterator[Entry]:
    """Yield an embedding's tensors."""
    yield f"{name}.weight", Tensor("embedding", (tokens, channels))


def layer_norm(name: str, channels: int) -> Iterator[Entry]:
    """Yield a layer norm's tensors."""
    yield f"{name}.weight", Tensor("scale", (channels,))
    yield f"{name}.bias", Tensor("bias", (channels,))


def rms_norm(name: str, channels: int) -> Iterator[Entry]:
    """Yield an RMS norm's tensors."""
    yield f"{name}.weight", Tensor("scale", (channels,))


def batch_norm(name: str, channels: int) -> Iterator[Entry]:
    """Yield a batch norm's tensors."""
    yield f"{name}.weight", Tensor("scale", (channels,))
    yield f"{name}.bias", Tensor("bias", (channels,))
    yield f"{name}.running_mean", Tensor("mean", (channels,))
    yield f"{name}.running_var", Tensor("var", (channels,))
    yield f"{name}.num_batches_tracked", Tensor("count", ())


def prelu(name: str, slopes: int = 1) -> Iterator[Entry]:
    """Yield a PReLU's tensors."""
    yield f"{name}.weight", Tensor("slope", (slopes,))


def differences(config: Any, fields: Iterable[str]) -> dict[str, bool]:
    """Those of a config's fields that are not at their defaults, which are the published network's.

    Args:
        config: A dataclass.
        fields: Names of fields that are true or false.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return {f: getattr(config, f) for f in fields if getattr(config, f) != defaults[f]}
