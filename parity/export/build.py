"""Building the ONNX model of one side's network, without metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from parity.spec.errors import InputError
from parity.spec.models import Config

if TYPE_CHECKING:
    import onnx
    from flax import nnx

FRAMEWORKS = ("torch", "jax")

# Family -> its outputs, in order; all others have `logits` alone.
OUTPUTS = {"icnet": ("logits", "logits4", "logits8", "logits16")}


def network(
    config: Config, arrays: Any, framework: str, size: tuple[int, int], batch: int | None
) -> onnx.ModelProto:
    """Build the ONNX model of one side's network, without metadata.

    Args:
        config: The network's configuration.
        arrays: Published key -> array.
        framework: `torch` or `jax`.
        size: Height and width of the images.
        batch: Number of images; None leaves it open.

    Raises:
        InputError: The network cannot process images of this size, or has no translation.
    """
    from parity.export.tuning import tuned

    try:
        config.check_input(*size)
    except ValueError as error:
        raise InputError(f"size: {error}") from None
    names: Sequence[str] = outputs_of(config)
    if framework == "jax":
        import jax_impl.state
        from parity.export import from_jax
        from weights_convert import to_jax

        port = predicting(jax_impl.state.build(config, to_jax(config, arrays)))
        return tuned(from_jax.graph_of(port, size, names, batch))
    import torch_impl.state
    from parity.export import from_torch

    reference = torch_impl.state.build(config, arrays).eval()
    return tuned(from_torch.graph_of(reference, size, names, batch))


def predicting(network: nnx.Module) -> Callable[[Any], Any]:
    """Return what a JAX network predicts, as a function that makes its modules anew.

    Those of another trace could not be updated, as `nnx.remat` around a layer does.
    """
    import jax
    from flax import nnx

    network.eval()
    graph, state = nnx.split(network)
    leaves, form = jax.tree.flatten(state)
    return lambda images: nnx.merge(graph, jax.tree.unflatten(form, leaves))(images)


def outputs_of(config: Config) -> tuple[str, ...]:
    """Return names of a network's outputs."""
    return OUTPUTS.get(config.family, ("logits",))
