"""Naming schemes: each framework's names of tensors and order of axes.

The layer's path is the same in each, except in MindSpore's ports: `weights_convert.paths`.

The published PyTorch names and shapes are canonical; `parity.spec.tensors` lists them.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from parity.spec.errors import InputError, listed
from parity.spec.models import FAMILIES, MODELS, Config, config_of
from parity.spec.tensors import Tensor, check_names, tensors
from weights_convert.memory import contiguous
from weights_convert.paths import MINDSPORE, in_order, renamed, rules_of


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One kind of tensor in one naming scheme.

    Attributes:
        name: The last part of its key.
        axes: The canonical axis that each axis is; None if they are the same.
    """

    name: str
    axes: tuple[int, ...] | None = None

    def shape(self, canonical: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(canonical[i] for i in self.axes) if self.axes else canonical

    def array(self, canonical: np.ndarray) -> np.ndarray:
        return canonical.transpose(self.axes) if self.axes else canonical

    def inverse(self) -> Leaf:
        """Return the permutation back to the canonical axes."""
        return Leaf(self.name, tuple(np.argsort(self.axes).tolist()) if self.axes else None)


NAMING_SCHEMES = {
    "torch": {
        "conv": Leaf("weight"),  # (O, I, H, W)
        "conv_transpose": Leaf("weight"),  # (I, O, H, W)
        "linear": Leaf("weight"),  # (O, I)
        "embedding": Leaf("weight"),  # (tokens, channels)
        "scale": Leaf("weight"),
        "bias": Leaf("bias"),
        "shift": Leaf("bias"),  # the bias of a batch norm
        "mean": Leaf("running_mean"),
        "var": Leaf("running_var"),
        "count": Leaf("num_batches_tracked"),
        "slope": Leaf("weight"),
    },
    "jax": {
        "conv": Leaf("kernel", (2, 3, 1, 0)),  # (H, W, I, O)
        "conv_transpose": Leaf("kernel", (2, 3, 1, 0)),  # (H, W, O, I)
        "linear": Leaf("kernel", (1, 0)),  # (I, O)
        "embedding": Leaf("embedding"),
        "scale": Leaf("scale"),
        "bias": Leaf("bias"),
        "shift": Leaf("bias"),
        "mean": Leaf("mean"),
        "var": Leaf("var"),
        "count": Leaf("num_batches_tracked"),
        "slope": Leaf("negative_slope"),
    },
    "mindspore": {  # which counts no batches
        "conv": Leaf("weight"),
        "conv_transpose": Leaf("weight"),
        "linear": Leaf("weight"),
        "scale": Leaf("gamma"),
        "bias": Leaf("bias"),
        "shift": Leaf("beta"),
        "mean": Leaf("moving_mean"),
        "var": Leaf("moving_variance"),
        "slope": Leaf("w"),
    },
}

# Parameters of no layer, which have one name in every scheme; see `parity.spec.tensors.Tensor`.
BARE = "bare"

COUNTERS = r".*\.num_batches_tracked"

# Family -> what published files of it may lack beside counters, all of a pattern or none: it
# becomes 0. ERFNet's lack the classifier that only served to train the encoder.
ABSENT = {"erfnet": (r"encoder\.output_conv\..*",)}

FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32")
LARGEST_COUNT = 2.0**62  # of what a floating-point counter may say; int64 holds it


def check(naming_scheme: str | None) -> None:
    """Refuse an unknown naming scheme.

    Raises:
        InputError: Lists the known ones.
    """
    if naming_scheme is not None and naming_scheme not in NAMING_SCHEMES:
        raise InputError(
            f"naming scheme is {naming_scheme!r}, expected one of {', '.join(NAMING_SCHEMES)}"
        )


def names(config: Config, naming_scheme: str) -> dict[str, tuple[str, Leaf]]:
    """Return a naming scheme's names and axes for a network's tensors.

    Returns:
        The naming scheme's name -> published key and how it is laid out, in the published order, or
        MindSpore's own; without those that have no name there.

    Raises:
        InputError: The network has no such names.
    """
    return dict(_names(config, naming_scheme))  # type: ignore[arg-type]  # a Config is a frozen dataclass


@functools.lru_cache(maxsize=64)
def _names(config: Config, naming_scheme: str) -> dict[str, tuple[str, Leaf]]:
    """Compute `names`, which reading one file asks for a dozen times."""
    target, found = tensors(config), {}
    if naming_scheme == "mindspore" and config.family not in MINDSPORE:
        raise InputError(f"{config.family} has no mindspore names, only {', '.join(MINDSPORE)} do")
    for key, spec in target.items():
        if spec.kind == BARE:
            found[key] = (key, Leaf(key.rpartition(".")[2]))
            continue
        path = key.rpartition(".")[0]
        normal = spec.kind == "bias" and f"{path}.running_mean" in target
        leaf = NAMING_SCHEMES[naming_scheme].get("shift" if normal else spec.kind)
        there = renamed(path, rules_of(config)) if naming_scheme == "mindspore" else path
        if leaf and there:
            found[f"{there}.{leaf.name}"] = (key, leaf)
    return (
        {name: found[name] for name in in_order(found)} if naming_scheme == "mindspore" else found
    )


def carried(
    config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str
) -> dict[str, np.ndarray]:
    """Return what a naming scheme keeps of a network: arrays without a name in it become 0."""
    kept = {key for key, _ in names(config, naming_scheme).values()}
    return {k: a if k in kept else np.zeros_like(a) for k, a in arrays.items()}


def absent(config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str) -> tuple[str, ...]:
    """Return the published keys that these arrays lack and may lack: nameless here, or `ABSENT`.

    Counters too: files are older than they are, and batch norms of Flax count nothing.
    """
    there = {key: name for name, (key, _) in names(config, naming_scheme).items()}
    needed = r"encoder\.output_conv\..*" if getattr(config, "encoder_only", False) else ""
    lost = {key for key in tensors(config) if key not in there}
    lost |= {key for key in there if re.fullmatch(COUNTERS, key) and there[key] not in arrays}
    for pattern in ABSENT.get(config.family, ()):
        group = [key for key in there if pattern != needed and re.fullmatch(pattern, key)]
        if not any(there[key] in arrays for key in group):
            lost.update(group)
    return tuple(key for key in tensors(config) if key in lost)


def detect(keys: Iterable[str], family: str | None = None) -> str:
    """Return the naming scheme with most characteristic last name parts; torch if none has any.

    Args:
        keys: Names of tensors.
        family: The network, where it is known; not all have MindSpore names.
    """
    last = [key.rpartition(".")[2] for key in keys]
    known = {d: {leaf.name for leaf in kinds.values()} for d, kinds in NAMING_SCHEMES.items()}
    shared = set.intersection(*known.values())
    possible = [d for d in NAMING_SCHEMES if d != "mindspore" or family in (None, *MINDSPORE)]
    return max(possible, key=lambda d: sum(part in known[d] - shared for part in last))


def to_naming_scheme(
    config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str
) -> dict[str, np.ndarray]:
    """Name and lay out a network's tensors for a framework.

    Args:
        config: The network's configuration.
        arrays: Published key -> array of PyTorch's shape.
        naming_scheme: A key of `NAMING_SCHEMES`.

    Returns:
        The naming scheme's name -> array; those not transposed are the same arrays.

    Raises:
        InputError: A key is missing, left over, or of another shape.
    """
    target = tensors(config)
    _check(config, {key: spec.shape for key, spec in target.items()}, arrays, "arrays")
    return {
        name: leaf.array(arrays[key]) for name, (key, leaf) in names(config, naming_scheme).items()
    }


def to_canonical(
    config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str, where: str = "arrays"
) -> dict[str, np.ndarray]:
    """Convert tensors to published names and axes, the inverse of `to_naming_scheme`.

    Args:
        config: The network's configuration.
        arrays: The naming scheme's name -> array; counters may be int32, as JAX keeps them, or
            whole floating-point numbers.
        naming_scheme: A key of `NAMING_SCHEMES`.
        where: What holds the arrays, for the message.

    Returns:
        Published key -> array of PyTorch's shape in C order, in the published order; those already
        in this layout are not copied; counters int64; 0 for those that are `absent`.

    Raises:
        InputError: A name is missing, left over, of another shape, or of a wrong dtype.
    """
    target = tensors(config)
    lost = absent(config, arrays, naming_scheme)
    every = names(config, naming_scheme).items()
    found = {name: (key, leaf) for name, (key, leaf) in every if key not in lost}
    shapes = {name: leaf.shape(target[key].shape) for name, (key, leaf) in found.items()}
    _check(config, shapes, arrays, where)
    _check_numbers({name: target[key].kind for name, (key, _) in found.items()}, arrays, where)
    own = contiguous({k: leaf.inverse().array(arrays[name]) for name, (k, leaf) in found.items()})
    own = {k: a.astype(np.int64, copy=False) if _counts(target[k]) else a for k, a in own.items()}
    float_ = next(a.dtype for key, a in own.items() if target[key].kind != "count")
    zeros = {k: np.zeros(target[k].shape, np.int64 if _counts(target[k]) else float_) for k in lost}
    return {key: own[key] if key in own else zeros[key] for key in target}


def float_counters(
    config: Config, arrays: Mapping[str, np.ndarray], naming_scheme: str
) -> tuple[str, ...]:
    """Return the published keys of counters that are floating-point numbers in these arrays."""
    target, known = tensors(config), names(config, naming_scheme).items()
    return tuple(
        key
        for name, (key, _) in known
        if _counts(target[key]) and name in arrays and arrays[name].dtype.name in FLOATS
    )


def present_name(config: Config, name: str) -> str:
    """Return a tensor's current name, where an earlier version of this program used another."""
    for pattern, present in getattr(config, "former_names", ()):
        if found := re.fullmatch(pattern, name):
            return found.expand(present)
    return name


def present_names(config: Config, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Return named tensors with their current names; see `present_name`."""
    return {present_name(config, name): array for name, array in arrays.items()}


def config_in(network: str, arrays: Mapping[str, np.ndarray], naming_scheme: str) -> Config:
    """Return the variant of a network that has these tensors; see `config_of`.

    Args:
        network: A family.
        arrays: The naming scheme's name -> array.
        naming_scheme: A key of `NAMING_SCHEMES`.

    Raises:
        ValueError: The network is unknown, or a shape has no classes.
    """
    if naming_scheme == "mindspore":
        known = {n: leaf for c in _variants(network) for n, leaf in names(c, naming_scheme).items()}
        return config_of(network, {known[k][0]: a.shape for k, a in arrays.items() if k in known})
    shapes = {}
    for name, array in arrays.items():
        path, dot, last = name.rpartition(".")
        kinds = [kind for kind, leaf in NAMING_SCHEMES[naming_scheme].items() if leaf.name == last]
        for kind in kinds:
            back = NAMING_SCHEMES[naming_scheme][kind].inverse()
            if back.axes is None or len(back.axes) == array.ndim:
                shapes[f"{path}.{NAMING_SCHEMES['torch'][kind].name}"] = back.shape(array.shape)
                break
        else:
            last = NAMING_SCHEMES["torch"][kinds[0]].name if kinds else last
            shapes[f"{path}{dot}{last}"] = array.shape
    return config_of(network, shapes)


def _variants(family: str) -> list[Config]:
    """Return MindSpore's variants, which together have every tensor that one of them may have."""
    names(MODELS[family], "mindspore")  # refuses a family that has none
    made: list[Any] = [MODELS[f"{family}-mindspore"], MODELS[f"{family}-mindspore-encoder"]]
    relu = [dataclasses.replace(c, decoder_relu=False) for c in made if family == "enet"]
    return [MODELS[family], *made, *relu]


def family_in(arrays: Iterable[str], naming_scheme: str) -> str:
    """Return the family whose names occur most among these; `enet` if none occurs."""
    known, found = known_names(naming_scheme), set(arrays)
    return max(known, key=lambda family: len(known[family] & found))


def check_known(found: Iterable[str], naming_scheme: str, where: str) -> None:
    """Refuse names that occur in no network, so that no network is reported as the closest.

    Args:
        found: The names.
        naming_scheme: Their presumed naming scheme.
        where: What holds them, for the message.

    Raises:
        InputError: No network has any of them in that naming scheme.
    """
    there = set(found)
    counts = {
        (f, d): len(known & there) for d in NAMING_SCHEMES for f, known in known_names(d).items()
    }
    if any(count for (_, d), count in counts.items() if d == naming_scheme):
        return
    family, other = max(counts, key=lambda pair: counts[pair])
    count = counts[family, other]
    but = (
        f", read as names of {naming_scheme}: {count} are {other} names of {family}"
        if count
        else ""
    )
    has = f"it has {listed(found)}" if there else "it has no weights"
    raise InputError(f"{where} has no name of a known network ({', '.join(FAMILIES)}){but}; {has}")


@functools.cache
def known_names(naming_scheme: str) -> dict[str, set[str]]:
    """Return family -> the names of its tensors."""
    families = [f for f in FAMILIES if naming_scheme != "mindspore" or f in MINDSPORE]
    return {
        f: set(names(MODELS.get(f"{f}-{naming_scheme}", MODELS[f]), naming_scheme))
        for f in families
    }


def _whole(counter: np.ndarray) -> bool:
    """Return whether a floating-point counter is a whole number in range."""
    number = float(counter)
    return number.is_integer() and 0 <= number <= LARGEST_COUNT


def _counts(spec: Tensor) -> bool:
    return spec.kind == "count"


def _check(
    config: Config,
    target: Mapping[str, tuple[int, ...]],
    arrays: Mapping[str, np.ndarray],
    where: str,
) -> None:
    if not target.keys() & arrays.keys():  # else all of the network's names would be listed
        raise InputError(
            f"{where}: all {len(target)} tensors of {config.family} are missing, such as"
            f" {next(iter(target))}; found instead: {listed(arrays)}"
        )
    check_names(target, {name: array.shape for name, array in arrays.items()}, where)


def _check_numbers(kinds: Mapping[str, str], arrays: Mapping[str, np.ndarray], where: str) -> None:
    expected = {
        name: INTEGERS + FLOATS if kind == "count" else FLOATS for name, kind in kinds.items()
    }
    wrong = [
        f"{name} is {arrays[name]}, expected a whole number from 0 to {LARGEST_COUNT:.3g}"
        for name, kind in kinds.items()
        if kind == "count" and arrays[name].dtype.name in FLOATS and not _whole(arrays[name])
    ]
    wrong += [
        f"{name} is {arrays[name].dtype}, expected {' or '.join(dtypes)}"
        for name, dtypes in expected.items()
        if arrays[name].dtype.name not in dtypes
    ]
    if wrong:
        raise InputError(f"{where}: {listed(wrong, '; ')}")
