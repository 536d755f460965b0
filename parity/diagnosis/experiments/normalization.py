"""Changes of normalisation: eps, statistics, momentum, the variance's formula."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import COMMON, ODD, PLAIN, Changes, given, number, one

NORMS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
EPS = (1e-3, 1e-5, 1e-6, 1e-12, 1e-8, 1e-4, 1e-7, 0.0, 1e-2, 1e-9, 1e-10, 2e-5, 5e-5, 5e-6, 1e-1)
MOMENTA = (0.1, 0.01, 0.9, 0.99, 0.001, 0.03, 0.05, 0.0003)
# Several settings at once.
SETTINGS = "batch-norm-settings"
MOMENTUM_VARIANCE, EPS_VARIANCE = "batch-norm-momentum-variance", "batch-norm-eps-variance"
SMALL = 0.05  # a constant that is added and is not larger is taken for an eps


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    name = operation.name
    if name in NORMS:
        yield from _eps(operation)
    if name == "batch_norm":
        yield from _batch_norm(operation)
    elif name in ("layer_norm", "group_norm", "instance_norm"):
        yield from _inner(operation)
    elif name == "rms_norm":
        yield from _rms(operation)
    elif name in ("add", "clamp", "clamp_min") and _small(operation) is not None:
        yield from _added_eps(operation)
    elif name in SPREADS:
        yield from _ddof(operation)
    elif name == "normalize":
        yield from _normalize(operation)


def _eps(o: Operation) -> Changes:
    eps = o.arguments.get("eps")
    if eps is None:
        eps = torch.finfo(torch.float64).eps
    fault = Fault.BATCH_NORM_EPS if o.name == "batch_norm" else "norm-eps"
    for other in EPS:
        if other != eps:
            what = f"eps {number(other)} instead of {number(eps)}"
            yield given(o, fault, what, eps=other)
    if o.arguments.get("eps") is None:
        eps32 = float(torch.finfo(torch.float32).eps)
        yield given(o, fault, f"float32's eps, {eps32:g}", eps=eps32)
    if o.tensor("weight") is not None:
        yield one(o, "norm-scale", "no scale", lambda call: call(weight=None), PLAIN)
        yield one(
            o, "norm-scale", "a scale of 1 + weight", lambda call: call(weight=1 + call["weight"])
        )
    if o.tensor("bias") is not None:
        yield one(o, "norm-bias", "no bias", lambda call: call(bias=None), PLAIN)


def _batch_norm(o: Operation) -> Changes:
    m = o.arguments.get("momentum")
    training = bool(o.arguments.get("training"))
    if training and m is not None:
        for other in dict.fromkeys((1 - m, *MOMENTA)):
            if abs(other - m) > 1e-9:
                what = f"momentum {number(round(other, 9))} instead of {number(m)}"
                yield given(o, Fault.BATCH_NORM_MOMENTUM, what, momentum=other)
                both = f"biased variance stored, and {what}"
                replaced = _stored(biased_stored, other)
                yield one(o, MOMENTUM_VARIANCE, both, replaced, ODD)
        text = "the batch's biased variance stored in the running statistics"
        yield one(o, Fault.BIASED_RUNNING_VARIANCE, text, _stored(biased_stored))
        text = "normalising by the unbiased variance"
        yield one(o, "unbiased-variance", text, _stored(unbiased_used))
        text = "running statistics that are not updated"
        yield one(o, "statistics-not-updated", text, _stored(not_stored))
        yield one(
            o,
            Fault.BATCH_NORM_MODE,
            "the running statistics in train mode",
            lambda call: call(training=False),
        )
        yield from _biased_with_eps(o)
    elif not training:
        yield from _biased_with_eps(o)
        yield one(o, Fault.BATCH_NORM_MODE, "the batch's statistics in eval mode", batch_in_eval)


def _biased_with_eps(o: Operation) -> Changes:
    """What a batch norm of Flax or Keras has in common with none of PyTorch's settings at once."""
    eps, training = o.arguments["eps"], bool(o.arguments.get("training"))
    m = o.arguments.get("momentum")
    if m is None:
        return
    for other in (e for e in EPS[:4] if e != eps):
        for momentum in dict.fromkeys(round(x, 9) for x in (m, 1 - m, *MOMENTA[:4])):
            what = f"biased variance stored, eps {number(other)} instead of {number(eps)}"
            name = EPS_VARIANCE
            if abs(momentum - m) > 1e-9:
                what += f", and momentum {number(momentum)} instead of {number(m)}"
                name = SETTINGS
            if training:
                yield one(o, name, what, _stored(biased_stored, momentum, other), ODD)
            else:  # statistics stay as they are
                yield given(o, name, what, ODD, eps=other)


def _stored(
    formula: Callable[..., torch.Tensor], momentum: float | None = None, eps: float | None = None
) -> Callable[[Invocation], torch.Tensor]:
    def replacement(call: Invocation) -> torch.Tensor:
        m = call["momentum"] if momentum is None else momentum
        return formula(call, m) if eps is None else formula(call, m, eps=eps)

    return replacement


def biased_stored(call: Invocation, m: float, **others: float) -> torch.Tensor:
    """Return a batch norm that stores the batch's variance without n / (n - 1)."""
    x, mean, var = call["input"], call["running_mean"], call["running_var"]
    n = x.numel() // x.shape[1]
    # Of copies: what autograd keeps may not be changed.
    new_mean, new_var = mean.clone(), var.clone()
    y = call(momentum=m, running_mean=new_mean, running_var=new_var, **others)
    with torch.no_grad():
        mean.copy_(new_mean)
        var.copy_((1 - m) * var + (new_var - (1 - m) * var) * ((n - 1) / n))
    return y


def unbiased_used(call: Invocation, m: float) -> torch.Tensor:
    """Return a batch norm that divides by the square root of the unbiased variance."""
    x = call["input"]
    axes = [i for i in range(x.dim()) if i != 1]
    shape = [1, -1] + [1] * (x.dim() - 2)
    call(momentum=m)
    mean, var = x.mean(axes), x.var(axes, unbiased=True)
    y = (x - mean.reshape(shape)) / torch.sqrt(var.reshape(shape) + call["eps"])
    return _affine(y, call.get("weight"), call.get("bias"), shape)


def not_stored(call: Invocation, m: float) -> torch.Tensor:
    """Return a batch norm that leaves its running statistics alone."""
    del m
    return call(running_mean=call["running_mean"].clone(), running_var=call["running_var"].clone())


def batch_in_eval(call: Invocation) -> torch.Tensor:
    """Return a batch norm that normalises by the batch in eval mode, and stores nothing."""
    return call(training=True, running_mean=None, running_var=None)


def _affine(
    y: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, shape: Any
) -> torch.Tensor:
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def _inner(o: Operation) -> Changes:
    """Layer, group and instance norms: their variance and axes."""
    yield one(o, "unbiased-variance", "the unbiased variance", unbiased_inner)
    yield one(o, "eps-outside-root", "eps added to the deviation", eps_outside)
    yield one(o, "mean-not-subtracted", "the mean not subtracted", rms_inner, PLAIN)
    if o.name == "group_norm":
        x, groups = o.values()[0], int(o.arguments["num_groups"])
        for other in (1, 2, 4, 8, 16, 32, x.shape[1], x.shape[1] // max(groups, 1)):
            if other not in (groups, 0) and x.shape[1] % other == 0:
                text = f"{other} groups instead of {groups}"
                yield given(o, "norm-groups", text, PLAIN, num_groups=other)
        yield one(o, "group-order", "groups of channels taken in turn", groups_in_turn, PLAIN)


def _parts(call: Invocation) -> tuple[torch.Tensor, tuple[int, ...], list[int], Any]:
    """Return what is normalised, over which axes, and how scale and bias are shaped."""
    x = call["input"]
    if call.name in ("layer_norm", "rms_norm"):
        n = len(call["normalized_shape"])
        return x, tuple(range(-n, 0)), list(x.shape), list(x.shape[-n:])
    if call.name == "instance_norm":
        return x, tuple(range(2, x.dim())), list(x.shape), [1, -1] + [1] * (x.dim() - 2)
    grouped = x.reshape(x.shape[0], call["num_groups"], -1)
    return grouped, (2,), list(x.shape), [1, -1] + [1] * (x.dim() - 2)


def _normalized(
    call: Invocation, formula: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]
) -> torch.Tensor:
    x, axes, shape, affine = _parts(call)
    return _affine(formula(x, axes).reshape(shape), call.get("weight"), call.get("bias"), affine)


def unbiased_inner(call: Invocation) -> torch.Tensor:
    def formula(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        var = x.var(axes, unbiased=True, keepdim=True)
        return (x - x.mean(axes, keepdim=True)) / torch.sqrt(var + call["eps"])

    return _normalized(call, formula)


def eps_outside(call: Invocation) -> torch.Tensor:
    def formula(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        deviation = x.var(axes, unbiased=False, keepdim=True).sqrt()
        return (x - x.mean(axes, keepdim=True)) / (deviation + call["eps"])

    return _normalized(call, formula)


def rms_inner(call: Invocation) -> torch.Tensor:
    def formula(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
        return x / torch.sqrt(x.square().mean(axes, keepdim=True) + call["eps"])

    return _normalized(call, formula)


def groups_in_turn(call: Invocation) -> torch.Tensor:
    """Channel c belongs to group c mod groups."""
    x, groups = call["input"], call["num_groups"]
    order = torch.arange(x.shape[1]).reshape(-1, groups).T.reshape(-1)
    y = call(input=x[:, order], weight=None, bias=None)
    y = y[:, torch.argsort(order)]
    return _affine(y, call.get("weight"), call.get("bias"), [1, -1] + [1] * (x.dim() - 2))


def _rms(o: Operation) -> Changes:
    def centred(call: Invocation) -> torch.Tensor:
        x, n = call["input"], len(call["normalized_shape"])
        return call(input=x - x.mean(tuple(range(-n, 0)), keepdim=True))

    def outside(call: Invocation) -> torch.Tensor:
        def formula(x: torch.Tensor, axes: tuple[int, ...]) -> torch.Tensor:
            return x / (x.square().mean(axes, keepdim=True).sqrt() + eps)

        return _normalized(call, formula)

    given_eps = o.arguments.get("eps")
    eps = torch.finfo(torch.float64).eps if given_eps is None else float(given_eps)
    yield one(o, "mean-subtracted", "the mean subtracted", centred)
    yield one(o, "eps-outside-root", "eps added to the root of the mean square", outside)


def _small(o: Operation) -> float | None:
    """Return a small constant that is added or clamped to; None if there is none."""
    value = o.arguments.get("other", o.arguments.get("min"))
    numeric = isinstance(value, float) and 0 < value <= SMALL
    return float(value) if numeric and o.tensor("input") is not None else None


def _added_eps(o: Operation) -> Changes:
    eps = _small(o)
    assert eps is not None
    name = "other" if o.name == "add" else "min"
    for other in EPS:
        if other != eps:
            what = f"eps {number(other)} instead of {number(eps)}"
            yield given(o, "norm-eps", what, COMMON, **{name: other})


SPREADS: dict[str, Callable[..., Any]] = {
    "var": torch.var,
    "std": torch.std,
    "var_mean": torch.var_mean,
    "std_mean": torch.std_mean,
}


def _ddof(o: Operation) -> Changes:
    unbiased = o.arguments.get("correction", o.arguments.get("unbiased", True))
    text = "the biased variance (ddof 0)" if unbiased else "the unbiased variance (ddof 1)"

    def other(call: Invocation) -> Any:
        axes = call.get("dim")
        axes = tuple(range(call["input"].dim())) if axes is None else axes
        keep = bool(call.get("keepdim"))
        correction = 0 if unbiased else 1
        return SPREADS[o.name](call["input"], axes, correction=correction, keepdim=keep)

    yield one(o, "ddof", text, other)


def _normalize(o: Operation) -> Changes:
    eps = o.arguments.get("eps", 1e-12)
    for other in EPS:
        if other != eps:
            what = f"eps {number(other)} instead of {number(eps)}"
            yield given(o, "norm-eps", what, eps=other)

    def inside(call: Invocation) -> torch.Tensor:
        x = call["input"]
        root = (x.square().sum(call["dim"], keepdim=True) + call["eps"]).sqrt()
        return x / root

    yield one(o, "eps-inside-root", "eps inside the root", inside)
    dim, n = o.arguments.get("dim", 1), len(o.outputs[0].shape)
    for axis in range(n) if isinstance(dim, int) else ():
        if axis != dim % n:
            yield given(o, "norm-axis", f"along axis {axis} instead of {dim}", PLAIN, dim=axis)
    for p in (1, 2):
        if p != o.arguments.get("p"):
            yield given(o, "norm-order", f"the norm of order {p}", PLAIN, p=float(p))
