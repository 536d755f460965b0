"""Faults of mixed precision on one side: what is computed inside, in another precision."""

from __future__ import annotations

from tests.mutation.fault import Fault

TORCH, JAX = "torch_impl/train.py", "jax_impl/train.py"


def torch(title: str, right: str, wrong: str, file: str = TORCH) -> Fault:
    return Fault("mixed precision", f"PyTorch: {title}", file, right, wrong, ("autocast",))


def jax(title: str, right: str, wrong: str, file: str = JAX) -> Fault:
    return Fault("mixed precision", f"JAX: {title}", file, right, wrong, ("trace",))


FAULTS: tuple[Fault, ...] = (
    torch(
        "norms in half precision at O2",
        "if not isinstance(module, layers.BatchNorm2d):",
        "for key, buffer in module._buffers.items():\n"
        "                if buffer.is_floating_point():\n"
        "                    module._buffers[key] = buffer.to(dtype)\n"
        "            if True:",
    ),
    torch(
        "gradients unscaled in half precision",
        "            gradient = gradient.to(self.dtype)\n",
        "            gradient = (gradient / self.scale.value).to(self.dtype) * self.scale.value\n",
    ),
    torch(
        "the loss of logits in half precision",
        "wide = [o.to(self.dtype) for o in",
        "wide = [o.log_softmax(1).to(self.dtype) for o in",
    ),
    torch(
        "nothing cast at O1",
        'self.half is not None and self.level == "O1"',
        "False",
    ),
    torch(
        "masters rounded to half precision",
        "parameter.detach().clone().requires_grad_()",
        "parameter.detach().to(dtype).float().requires_grad_()",
    ),
    torch("a loss that is not scaled", "(loss * self.scale.value).backward()", "loss.backward()"),
    torch(
        "weights that stay behind their masters",
        "self.parameters[key].copy_(master)",
        "pass",
    ),
    torch(
        "an overflow that nobody looks for",
        ").isfinite():\n            return",
        "):\n            return",
    ),
    torch(
        "statistics of a step that was skipped",
        "buffer.copy_(before)",
        "pass",
    ),
    jax(
        "norms in half precision at O2",
        'path: array if path.rpartition(".")[0] in norms else array.astype(dtype)',
        "path: array.astype(dtype)",
    ),
    jax(
        "gradients unscaled in half precision",
        "g.astype(state.trained[n].dtype) / scale",
        "(g / scale.astype(g.dtype)).astype(state.trained[n].dtype)",
    ),
    jax(
        "the loss of logits in half precision",
        "lambda o: o.astype(inputs.images.dtype), outputs",
        "lambda o: o, outputs",
    ),
    jax("nothing cast at O1", 'if self.half and level == "O1":', "if False:"),
    jax("a loss that is not scaled", "return value * scale, (value,", "return value, (value,"),
    jax(
        "statistics in half precision",
        "wide = x.astype(jnp.promote_types(x.dtype, scale.dtype))",
        "wide = x",
        "jax_impl/ops/normalization.py",
    ),
    jax(
        "masters rounded to half precision",
        "optax.apply_updates(state.trained, updates)",
        "optax.apply_updates({n: a.astype(half or a.dtype).astype(a.dtype) for n, a in"
        " state.trained.items()}, updates)",
    ),
    jax("an overflow that nobody looks for", "& (counts.sum() == 0)", "& True"),
)
