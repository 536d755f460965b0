"""Named arrays into a JAX network and out of it; `torch_impl/state.py` has the same names."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_impl.models import NETWORKS
from jax_impl.ops import float64_convolution
from parity.spec.models import Config
from parity.spec.tensors import check_names


def build(config: Config, arrays: Mapping[str, np.ndarray], dtype: str = "float32") -> nnx.Module:
    """Build the network with these weights, in train mode.

    Args:
        config: The network's configuration.
        arrays: Path joined by dots -> array (HWIO); every path of the network and no other.
        dtype: The dtype of parameters and statistics; counters are int32.

    Raises:
        InputError: A path is missing, left over, or of another shape.
        ValueError: `dtype` is float64 and JAX is not set to hold it, or a counter above 2^31.
    """
    if dtype == "float64":
        float64_convolution.use()
    network = NETWORKS[config.family]
    # Abstract, so that an unfilled leaf cannot pass as initialised.
    graph, target = nnx.split(nnx.eval_shape(lambda: network(config, rngs=OneKey(0))))
    leaves = nnx.to_flat_state(target)
    shapes = {name(path): leaf.shape for path, leaf in leaves}
    check_names(shapes, {k: v.shape for k, v in arrays.items()}, "arrays")
    filled = [
        (path, leaf.replace(to_device(arrays[name(path)], leaf.dtype, dtype)))
        for path, leaf in leaves
    ]
    return nnx.merge(graph, nnx.from_flat_state(filled))


class OneKey(nnx.Rngs):
    """Random keys for a network that is built abstractly: every draw returns the same key.

    Flax counts draws, and JAX would trace each count: three seconds for ENet.
    """

    def params(self) -> jax.Array:
        return jax.random.key(0)


def state(model: nnx.Module) -> dict[str, np.ndarray]:
    """Copy the network's arrays: dotted path -> array; counters int64, as in files."""
    return {path: to_host(array) for path, array in flat(nnx.state(model)).items()}


def flat(state: nnx.State) -> dict[str, jax.Array]:
    """Path joined by dots -> array."""
    return {name(path): leaf[...] for path, leaf in nnx.to_flat_state(state)}


def nested(arrays: Mapping[str, jax.Array]) -> nnx.State:
    """Convert back from `flat`, for `nnx.merge`."""
    return nnx.from_flat_state([(tuple(path.split(".")), a) for path, a in arrays.items()])


def name(path: tuple) -> str:
    return ".".join(str(part) for part in path)


def published(parameter: str) -> str:
    """Return the published key of a parameter, whose layer has the same path.

    A parameter of no layer has one name on both sides.
    """
    layer, _, leaf = parameter.rpartition(".")
    if not layer:
        return parameter
    return f"{layer}.{'bias' if leaf == 'bias' else 'weight'}"


def to_device(array: np.ndarray, target: np.dtype, dtype: str) -> jnp.ndarray:
    if jnp.issubdtype(target, jnp.integer):
        if array.size and abs(array).max() > np.iinfo(np.int32).max:
            raise ValueError(f"counter {array.max()} does not fit int32")
        return jnp.asarray(array, jnp.int32)
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(f"JAX holds no {dtype}: set jax_enable_x64")
    return jnp.asarray(array, dtype)


def to_host(array: jax.Array) -> np.ndarray:
    """Copy to the host; counters become int64, as in files."""
    return np.array(array, np.int64 if array.dtype == np.int32 else None)
