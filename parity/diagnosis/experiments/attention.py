"""Changes of attention: scale, masks, causal offset, shared heads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from parity.capture.torch_operations import Invocation, Operation
from parity.diagnosis.catalogue import Fault
from parity.diagnosis.experiments import windows
from parity.diagnosis.experiments.change import (
    COMMON,
    ODD,
    PLAIN,
    Changes,
    given,
    maker,
    number,
    one,
)

LOWEST = float(torch.finfo(torch.float32).min)
# The last ones are too weak: in float64 they show in every row, not only in those without a key.
WEAK = (-50.0, -20.0, -10.0, -5.0, -1.0)
LOW = (-math.inf, -1e9, -1e10, -1e4, LOWEST, -1e30, -1e5, -100.0, *WEAK)
# Keys that are hidden by a finite score have equal weights in a row that sees none, whatever it is.
FINITE, FINITELY = -1e9, "and finite scores where masked"


def changes(operation: Operation, among: Sequence[Operation]) -> Changes:
    name = operation.name
    if name == "scaled_dot_product_attention":
        yield from _fused(operation)
    elif name == "softmax":
        yield from _unscaled(operation, among)
    elif name in ("masked_fill", "where"):
        yield from _masked(operation)
    elif name == "add":
        yield from _added(operation, among)
    elif name in ("tril", "triu"):
        now = int(operation.arguments.get("diagonal", 0))
        for shift in (-1, 1):  # in words that fit any number of keys, with a cache or without
            text = f"the mask's diagonal moved by {shift}"
            yield given(operation, "causal-offset", text, diagonal=now + shift)
        if now:
            text = "the mask's diagonal at 0, behind a cache, too"
            yield given(operation, "causal-offset", text, diagonal=0)
    elif name in ("repeat_interleave", "repeat", "expand"):
        yield from _repeated(operation)
    elif name in ("chunk", "split", "unbind"):
        yield from _parts(operation)


def attention(
    call: Invocation,
    scale: float | None = None,
    mask: torch.Tensor | None = None,
    rows: str = "",
    low: float = -math.inf,
    axis: int = -1,
    taken: Callable[[torch.Tensor], torch.Tensor] = lambda weights: weights,
) -> torch.Tensor:
    """Attention written out.

    Args:
        call: The fused function's call.
        scale: Of the scores; by default that of the call.
        mask: True where keys count, instead of the call's own; None for that.
        rows: What rows without any key give: `zero`, or what comes out if empty.
        low: What masked scores become.
        axis: The axis of the softmax.
        taken: Returns what the values are weighted with, of the softmax.
    """
    q, k, v = call["query"], call["key"], call["value"]
    if call.get("enable_gqa"):
        k, v = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (k, v))
    scale = scale_of(call) if scale is None else scale
    scores = q @ k.mT * scale
    given_mask = call.get("attn_mask") if mask is None else mask
    if given_mask is None and call.get("is_causal"):
        given_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if given_mask is None:
        return taken(scores.softmax(axis)) @ v
    if given_mask.dtype == torch.bool:
        scores = scores.masked_fill(~given_mask, low)
    else:
        scores = scores + given_mask
    weights = scores.softmax(axis)
    if rows == "zero":
        empty = (scores == -math.inf).all(-1, keepdim=True)
        weights = weights.masked_fill(empty, 0.0)
    return taken(weights) @ v


def scale_of(call: Invocation) -> float:
    """Return the factor of the scores."""
    scale = call.get("scale")
    return 1 / math.sqrt(call["query"].shape[-1]) if scale is None else float(scale)


def _fused(o: Operation) -> Changes:
    q, k = o.tensor("query"), o.tensor("key")
    if q is None or k is None:
        return
    d, heads, rows, keys = q.shape[-1], q.shape[-3], q.shape[-2], k.shape[-2]
    now = o.arguments.get("scale")
    now = 1 / math.sqrt(d) if now is None else float(now)
    for other, how in (
        (1.0, "not scaled"),
        (1 / math.sqrt(d), "scaled by 1 / sqrt(width of a head)"),
        (1 / d, "scaled by 1 / (width of a head)"),
        (1 / math.sqrt(d * heads), "scaled by 1 / sqrt(width of all heads)"),
        (math.sqrt(d), "scaled by sqrt(width of a head)"),
        (now * now, "scaled twice"),
        (1 / math.sqrt(heads), "scaled by 1 / sqrt(number of heads)"),
    ):
        if abs(other - now) > 1e-12:
            text = f"scores {how} ({number(other)}) instead of {number(now)}"
            yield given(o, "attention-scale", text, scale=other)
    causal, masked = bool(o.arguments.get("is_causal")), o.tensor("attn_mask") is not None
    if causal or masked:
        text = "no mask"
        yield one(o, "attention-mask", text, lambda call: call(attn_mask=None, is_causal=False))
    if not masked:
        if not causal:
            yield given(o, "attention-mask", "a causal mask", is_causal=True)
        for shift in sorted({-1, 1, keys - rows} - {0}):
            text = f"a causal mask moved by {shift}"
            yield one(o, "causal-offset", text, _causal(shift, -math.inf), PLAIN)
            if shift < 0:  # rows without a key
                for low in LOW[1:]:
                    how = f"{text}, and scores of {number(low)} where masked"
                    yield one(o, "causal-offset", how, _causal(shift, low), ODD)
        yield one(o, "causal-offset", "an anticausal mask", _anticausal, PLAIN)
        if causal:
            text = f"its mask inverted, {FINITELY}"
            yield one(o, "mask-sign", text, _hides_the_past, ODD)
        if causal:
            for low in LOW[1:]:
                text = f"scores of {number(low)} where masked"
                yield one(o, "mask-value", text, _low(low), PLAIN)
    else:
        yield from _given_mask(o)
    text = "the softmax over queries, not over keys"
    yield one(o, Fault.SOFTMAX, text, lambda call: attention(call, axis=-2))
    if k.shape[-3] != heads:
        yield one(o, "gqa-order", "keys and values tiled over heads, not repeated", _tiled)
    for order in itertools.permutations(("query", "key", "value")):
        if order != ("query", "key", "value") and q.shape == k.shape:
            text = f"its {', '.join(order)} in place of query, key, value"
            yield one(o, "qkv-order", text, _ordered(order), PLAIN)


def _unscaled(o: Operation, among: Sequence[Operation]) -> Changes:
    """Scores that the reference does not scale, such as T5's, scaled: a softmax of products."""
    made = maker(o, "input", among)
    keys = made.tensor("input") if made is not None and made.name == "matmul" else None
    if keys is None:
        return
    width = keys.shape[-1]
    for factor, how in (
        (1 / math.sqrt(width), "1 / sqrt(width of a head)"),
        (1 / width, "1 / (width of a head)"),
        (math.sqrt(width), "sqrt(width of a head)"),
    ):
        text = f"scores scaled by {how} ({number(factor)}), which are not scaled"
        yield one(o, "attention-scale", text, _scaled(factor))


def _scaled(factor: float) -> Callable[[Invocation], Any]:
    return lambda call: call(input=call["input"] * factor)


def _ordered(order: tuple[str, ...]) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        values = {name: call[other] for name, other in zip(QKV, order, strict=True)}
        return call(**values)

    return replacement


QKV = ("query", "key", "value")


def _causal(shift: int, low: float) -> Callable[[Invocation], torch.Tensor]:
    def replacement(call: Invocation) -> torch.Tensor:
        shape = (call["query"].shape[-2], call["key"].shape[-2])
        mask = torch.ones(shape, dtype=torch.bool).tril(shift)
        return attention(call, mask=mask, low=low)

    return replacement


def _anticausal(call: Invocation) -> torch.Tensor:
    shape = (call["query"].shape[-2], call["key"].shape[-2])
    return attention(call, mask=torch.ones(shape, dtype=torch.bool).triu())


def _hides_the_past(call: Invocation) -> torch.Tensor:
    shape = (call["query"].shape[-2], call["key"].shape[-2])
    return attention(call, mask=torch.ones(shape, dtype=torch.bool).triu(1), low=FINITE)


def _low(low: float) -> Callable[[Invocation], torch.Tensor]:
    return lambda call: attention(call, low=low)


def _given_mask(o: Operation) -> Changes:
    mask = o.tensor("attn_mask")
    assert mask is not None
    yield from windows.changes(o, "attn_mask")
    text = "rows without a key as zeros"
    yield one(o, "empty-rows", text, lambda call: attention(call, rows="zero"))
    if mask.dtype == "bool":
        text = "its mask inverted"
        yield one(o, "mask-sign", text, lambda call: call(attn_mask=~call["attn_mask"]))
        yield from _emptied(o, "attn_mask", lambda call, m: attention(call, mask=m, low=FINITE))
        text = "its mask's truth values added to the scores"
        yield one(o, "mask-sign", text, lambda call: call(attn_mask=call["attn_mask"].double()))
        for low in LOW[1:]:
            text = f"scores of {number(low)} where masked"
            yield one(o, "mask-value", text, _low(low))
    else:
        text = "its mask subtracted"
        yield one(o, "mask-sign", text, lambda call: call(attn_mask=-call["attn_mask"]))
        text = "its mask multiplied, not added"
        yield one(o, "mask-sign", text, _multiplied, PLAIN)
        for low in LOW:
            text = f"a mask of {number(low)} where it is lowest"
            yield one(o, "mask-value", text, _relowered(low), PLAIN)


def _multiplied(call: Invocation) -> torch.Tensor:
    q, k, v = call["query"], call["key"], call["value"]
    return (q @ k.mT * scale_of(call) * call["attn_mask"]).softmax(-1) @ v


def _relowered(low: float) -> Callable[[Invocation], torch.Tensor]:
    def replacement(call: Invocation) -> torch.Tensor:
        mask = call["attn_mask"]
        return call(attn_mask=torch.where(mask < -50, low, mask))

    return replacement


def _tiled(call: Invocation) -> torch.Tensor:
    q, k, v = (call[name] for name in QKV)
    times = q.shape[-3] // k.shape[-3]
    repeats = (*[1] * (k.dim() - 3), times, 1, 1)
    return call(key=k.repeat(repeats), value=v.repeat(repeats), enable_gqa=False)


def _masked(o: Operation) -> Changes:
    if o.name == "where":
        text = "its condition inverted"
        yield one(o, "mask-sign", text, lambda call: call(condition=~call["condition"]))
        yield from windows.changes(o, "condition", _is_low(o.arguments.get("input")))
        for key in ("input", "other"):
            value = o.arguments.get(key)
            if isinstance(value, float) and _is_low(value):
                yield from _lower(o, key, value)
                attend = _where(**{key: FINITE})
                yield from _emptied(o, "condition", attend, key == "input", value)
        return
    yield one(o, "mask-sign", "its mask inverted", lambda call: call(mask=~call["mask"]))
    yield from windows.changes(o, "mask", hides=True)
    value = o.arguments.get("value")
    if isinstance(value, int | float) and _is_low(value):
        yield from _lower(o, "value", float(value))
        yield from _emptied(
            o, "mask", lambda call, mask: call(mask=mask, value=FINITE), True, value
        )


def _added(o: Operation, among: Sequence[Operation]) -> Changes:
    """Yield other windows of a mask of numbers that is added to what a softmax is fed."""
    if not any(s.name == "softmax" and s.tensor("input") in o.outputs for s in among):
        return
    for name in ("input", "other"):
        value = o.tensor(name)
        if value is not None and value.shape[-2:] == o.outputs[0].shape[-2:]:
            yield from windows.changes(o, name)


def _is_low(value: Any) -> bool:
    """Return whether a number hides what stands at its place from a softmax."""
    return isinstance(value, int | float) and value < windows.LOW


def _where(**low: float) -> Callable[[Invocation, torch.Tensor], Any]:
    return lambda call, mask: call(condition=mask, **low)


def _emptied(
    o: Operation,
    name: str,
    attend: Callable[[Invocation, torch.Tensor], Any],
    hides: bool = False,
    low: float = -math.inf,
) -> Changes:
    """Yield masks by which some row sees no key.

    Args:
        o: The operation that masks.
        name: Its mask.
        attend: Calls it with another mask and finite scores.
        hides: Whether the mask is true where a key is hidden, not where it is seen.
        low: The scores of hidden keys in the reference.
    """

    def emptied(call: Invocation, seen: torch.Tensor) -> Any:
        return attend(call, ~seen if hides else seen)

    def inverted(call: Invocation) -> Any:
        return emptied(call, call[name] if hides else ~call[name])

    def moved(call: Invocation) -> Any:
        seen = (~call[name] if hides else call[name]).roll(-1, -1)
        seen[..., -1] = False
        return emptied(call, seen)

    def moved_alone(call: Invocation) -> Any:
        seen = (~call[name] if hides else call[name]).roll(-1, -1)
        seen[..., -1] = False
        return call(**{name: ~seen if hides else seen})

    # Where every row sees a key, such as behind a cache, scores need not be finite: this says less.
    yield one(o, "causal-offset", "its mask moved by -1", moved_alone, ODD)
    if math.isfinite(low):  # then an inverted mask needs no other scores
        return
    yield one(o, "mask-sign", f"its mask inverted, {FINITELY}", inverted, ODD)
    yield one(o, "causal-offset", f"its mask moved by -1, {FINITELY}", moved, ODD)


def _lower(o: Operation, key: str, value: float) -> Changes:
    for low in LOW:
        if low != value:
            text = f"{number(low)} where masked instead of {number(value)}"
            yield given(o, "mask-value", text, COMMON, **{key: low})


def _repeated(o: Operation) -> Changes:
    """Copies side by side for copies in turn, and the other way."""
    x, out = o.tensor("input"), o.outputs[0].shape
    if x is None or len(x.shape) != len(out):
        return
    if o.name == "repeat_interleave":

        def tiled(call: Invocation) -> torch.Tensor:
            x = call["input"]
            return x.repeat([m // n for m, n in zip(out, x.shape, strict=True)])

        yield one(o, "gqa-order", "copies in turn (tiled), not side by side", tiled)
    elif o.name == "repeat":

        def interleaved(call: Invocation) -> torch.Tensor:
            found = call.args[0]
            for axis, (m, n) in enumerate(zip(out, found.shape, strict=True)):
                found = found.repeat_interleave(m // n, axis) if m != n else found
            return found

        yield one(o, "gqa-order", "copies side by side, not in turn (tiled)", interleaved)


def _parts(o: Operation) -> Changes:
    """Yield the parts of a split, in another order."""
    n = len(o.outputs)
    if not 2 <= n <= 4 or len({v.shape for v in o.outputs}) > 1:
        return
    for order in itertools.permutations(range(n)):
        if order != tuple(range(n)):
            text = f"its parts in the order {order}"
            yield one(o, "qkv-order", text, _reordered(order), PLAIN)


def _reordered(order: tuple[int, ...]) -> Callable[[Invocation], Any]:
    def replacement(call: Invocation) -> Any:
        parts = tuple(call())
        return tuple(parts[i] for i in order)

    return replacement
