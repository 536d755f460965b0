"""Changes of losses: what they average over, which labels count, softmax twice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments.change import ODD, PLAIN, Changes, given, one


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    """Changes of the losses of `torch.nn.functional`."""
    del among
    if operation.name == "cross_entropy":
        yield from _cross_entropy(operation)
    elif operation.name == "nll_loss":
        yield from _averages(operation)
    elif operation.name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"):
        yield from _regression(operation)
    elif operation.name == "kl_div":
        yield from _reductions(operation, ("sum", "mean", "batchmean"))
    elif operation.name == "binary_cross_entropy_with_logits":
        yield one(operation, Fault.SOFTMAX, "the sigmoid twice", _sigmoid_first)
        yield from _reductions(operation)
        for name, what in (("pos_weight", "weight of positives"), ("weight", "weights")):
            if operation.tensor(name) is not None:
                none: dict[str, Any] = {name: None}
                yield given(operation, "loss-weights", f"no {what}", **none)


def _cross_entropy(o: Operation) -> Changes:
    yield from _averages(o)
    x = o.tensor("input")
    assert x is not None
    text = "the softmax twice: probabilities taken for logits"
    yield one(o, Fault.SOFTMAX, text, lambda call: call(input=call["input"].softmax(1)))
    for axis in range(len(x.shape)):
        if axis != 1:
            text = f"a softmax over axis {axis} before that over the classes"
            yield one(o, Fault.SOFTMAX, text, _over(axis, False), PLAIN)
            text = f"the softmax over axis {axis} instead of the classes"
            yield one(o, Fault.SOFTMAX, text, _over(axis, True), PLAIN)
    for smoothing in (0.1, 0.05, 0.0):
        if smoothing != o.arguments.get("label_smoothing", 0.0):
            text = f"label smoothing {smoothing}"
            yield given(o, "label-smoothing", text, PLAIN, label_smoothing=smoothing)
    smoothing = o.arguments.get("label_smoothing", 0.0)
    if smoothing and len(x.shape) > 1 and x.shape[1] > 1:
        classes = x.shape[1]
        text = f"label smoothing {smoothing} shared by the other {classes - 1} classes alone"
        among_others = smoothing * classes / (classes - 1)
        yield given(o, "label-smoothing", text, label_smoothing=among_others)


def _over(axis: int, instead: bool) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        logs = call["input"].log_softmax(axis)
        if not instead:
            return call(input=logs)
        return functional.nll_loss(
            logs, call["target"], call["weight"], ignore_index=call["ignore_index"]
        )

    return replacement


def _averages(o: Operation) -> Changes:
    """Yield what a weighted loss with ignored labels is divided by, and which labels count."""
    yield from _reductions(o)
    if o.arguments.get("reduction") != "mean":
        return
    yield one(o, Fault.LOSS_MEAN, "the mean over all elements, ignored ones too", _scaled(_valid))
    text = "the weighted sum divided by the number of elements"
    yield one(o, Fault.LOSS_MEAN, text, _scaled(_weights_over_all), PLAIN)
    if o.tensor("weight") is not None:
        text = "the weighted sum divided by the number of valid elements, not by their weights"
        yield one(o, Fault.LOSS_CLASS_WEIGHTS, text, _scaled(_weights_over_valid))
        yield given(o, Fault.LOSS_CLASS_WEIGHTS, "no class weights", weight=None)
    text = "ignored labels counted as the last class"
    yield one(o, Fault.IGNORED_LABEL, text, _ignored_as(-1))
    yield one(o, Fault.IGNORED_LABEL, "ignored labels counted as the first class", _ignored_as(0))
    text = "ignored labels counted in the mean, with a loss of 0"
    yield one(o, Fault.LOSS_MEAN, text, _scaled(_counted), ODD)


def _reductions(o: Operation, every: Sequence[str] = ("sum", "mean")) -> Changes:
    for reduction in every:
        if reduction != o.arguments.get("reduction"):
            text = f"the {reduction}, not the {o.arguments.get('reduction')}"
            yield given(o, "loss-reduction", text, reduction=reduction)


def _labels(call: Invocation) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Labels, which of them count, and their weights."""
    labels, weight = call["target"], call.get("weight")
    counts = labels != call["ignore_index"]
    if weight is None:
        return labels, counts, None
    each = weight[torch.where(counts, labels, 0)] * counts
    return labels, counts, each


def _valid(call: Invocation) -> Any:
    """Return the share of elements that count; of weighted ones, those of a weight above 0."""
    _, counts, each = _labels(call)
    return (counts if each is None else each > 0).double().mean()


def _counted(call: Invocation) -> Any:
    return _labels(call)[1].double().mean()


def _weights_over_all(call: Invocation) -> Any:
    _, counts, each = _labels(call)
    return (counts if each is None else each).double().mean()


def _weights_over_valid(call: Invocation) -> Any:
    each = _labels(call)[2]
    assert each is not None
    return each.sum() / (each > 0).sum()


def _scaled(factor: Callable[[Invocation], Any]) -> Callable[[Invocation], Any]:
    return lambda call: call() * factor(call)


def _ignored_as(label: int) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        labels, counts, _ = _labels(call)
        classes = call["input"].shape[1]
        return call(target=torch.where(counts, labels, label % classes))

    return replacement


def _regression(o: Operation) -> Changes:
    yield from _reductions(o)
    yield one(o, "loss-scale", "half of it", lambda call: call() / 2)
    yield one(o, "loss-scale", "twice of it", lambda call: call() * 2)
    key = {"smooth_l1_loss": "beta", "huber_loss": "delta"}.get(o.name)
    for other in (0.1, 0.5, 1.0, 1 / 9, 2.0) if key else ():
        if key and other != o.arguments.get(key):
            text = f"{key} {other:g} instead of {o.arguments.get(key):g}"
            arguments: dict[str, Any] = {key: other}
            yield given(o, "loss-settings", text, **arguments)


def _sigmoid_first(call: Invocation) -> Any:
    return call(input=torch.sigmoid(call["input"]))
