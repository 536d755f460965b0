"""How each fault of a Transformer is injected; see `injections`."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.faults import attention_faults as faults
from parity.faults.injection import Arrays, Injection, assign, reweigh, substitute

NORMS, ATTENTION, ROTARY = ("LayerNorm", "RMSNorm"), ("Attention",), ("Rotary",)


def causal(layer: Any, fed: Arrays) -> bool:
    return layer.causal


def several(layer: Any, fed: Arrays) -> bool:
    return layer.heads > 1


def one_head(layer: Any, fed: Arrays) -> str:
    return "" if layer.heads > 1 else "there is one head"


def grouped(layer: Any, fed: Arrays) -> bool:
    return 1 < layer.kv_heads < layer.heads


def fused(layer: Any, fed: Arrays) -> bool:
    return hasattr(layer, "qkv")


def separate(layer: Any, fed: Arrays) -> bool:
    return hasattr(layer, "q_proj")


def gated(layer: Any, fed: Arrays) -> bool:
    return hasattr(layer, "gate_proj")


def square(layer: Any, fed: Arrays) -> bool:
    rows, columns = layer.kernel.shape
    return rows == columns > 1


def permuted(kernel: np.ndarray) -> np.ndarray:
    """Return a fused matrix whose keys and values are exchanged."""
    q, k, v = np.split(kernel, 3, axis=1)
    return np.concatenate((q, v, k), axis=1)


def triple(layer: Any, fed: Arrays) -> bool:
    """Return whether it makes queries, keys and values: three times its inputs."""
    rows, columns = layer.kernel.shape
    return columns == 3 * rows


def other_eps(layer: Any) -> float:
    return 1e-5 if layer.eps == 1e-6 else 1e-6


def other_base(layer: Any) -> float:
    return 5e5 if layer.base == 1e4 else 1e4


TRANSFORMERS = (
    Injection(Fault.GELU_TANH, "by a tanh", ("GELU",), substitute(faults.TanhGELU)),
    Injection(Fault.ACTIVATION, "SiLU for GELU", ("GELU",), substitute(faults.IsSiLU)),
    Injection(Fault.ACTIVATION, "GELU for SiLU", ("SiLU",), substitute(faults.IsGELU)),
    Injection(Fault.NORM_EPS, "1e-6 against 1e-5", NORMS, assign(eps=other_eps)),
    Injection(Fault.NORM_EPS_PLACE, "outside the root", NORMS, substitute(faults.EpsOutside)),
    Injection(Fault.NORM_EPS_PLACE, "left out", NORMS, assign(eps=0.0)),
    Injection(Fault.NORM_KIND, "mean subtracted", ("RMSNorm",), substitute(faults.Centred)),
    Injection(
        Fault.NORM_KIND, "mean not subtracted", ("LayerNorm",), substitute(faults.NotCentred)
    ),
    Injection(Fault.NORM_UNBIASED, "n - 1 for n", ("LayerNorm",), substitute(faults.Unbiased)),
    Injection(Fault.NORM_WEIGHT_OFFSET, "1 + w", NORMS, substitute(faults.OneMore)),
    Injection(Fault.NORM_LEFT_OUT, "left out", NORMS, substitute(faults.LeftOut)),
    Injection(Fault.ATTENTION_SCALE, "1 / d", ATTENTION, substitute(faults.ByD)),
    Injection(Fault.ATTENTION_SCALE, "none", ATTENTION, substitute(faults.Unscaled)),
    Injection(
        Fault.ATTENTION_SCALE,
        "of all heads' channels",
        ATTENTION,
        substitute(faults.ByWidth),
        equivalent=one_head,
    ),
    Injection(
        Fault.ATTENTION_SOFTMAX, "over the queries", ATTENTION, substitute(faults.OverQueries)
    ),
    Injection(Fault.CAUSAL_MASK, "none", ATTENTION, substitute(faults.NoMask), causal),
    Injection(Fault.CAUSAL_MASK, "sees the next", ATTENTION, substitute(faults.SeesNext), causal),
    Injection(Fault.CAUSAL_MASK, "not itself", ATTENTION, substitute(faults.NotItself), causal),
    Injection(Fault.MASK_SIGN, "hides the past", ATTENTION, substitute(faults.SeesLater), causal),
    Injection(
        Fault.CACHED_MASK, "from the first key", ATTENTION, substitute(faults.FromFirst), causal
    ),
    Injection(
        Fault.HEADS_MERGED, "not transposed", ATTENTION, substitute(faults.NotTransposed), several
    ),
    Injection(Fault.HEADS_SPLIT, "interleaved", ATTENTION, substitute(faults.Interleaved), several),
    Injection(Fault.GROUPED_HEADS, "tiled", ATTENTION, substitute(faults.Tiled), grouped),
    Injection(
        Fault.QKV_ORDER, "q, v, k", ("SelfAttention",), substitute(faults.QVK), fused, level="block"
    ),
    Injection(
        Fault.QKV_ORDER, "stored as q, v, k", ("Linear",), reweigh("kernel", permuted), triple
    ),
    Injection(
        Fault.QKV_PER_HEAD,
        "each head's in turn",
        ("SelfAttention",),
        substitute(faults.PerHead),
        fused,
        level="block",
    ),
    Injection(Fault.ROTARY_PAIRS, "neighbours", ROTARY, substitute(faults.Neighbours)),
    Injection(Fault.ROTARY_BASE, "another base", ROTARY, assign(base=other_base)),
    Injection(Fault.ROTARY_OFFSET, "from 1", ROTARY, substitute(faults.FromOne)),
    Injection(Fault.ROTARY_DIRECTION, "backwards", ROTARY, substitute(faults.Backwards)),
    Injection(Fault.CACHED_POSITIONS, "from 0 again", ROTARY, substitute(faults.FromZeroAgain)),
    Injection(
        Fault.ROTARY_TARGET,
        "keys not turned",
        ("SelfAttention",),
        substitute(faults.KeysNotTurned),
        separate,
        level="block",
    ),
    Injection(
        Fault.ROTARY_TARGET,
        "values turned",
        ("SelfAttention",),
        substitute(faults.ValuesTurned),
        separate,
        level="block",
    ),
    Injection(
        Fault.GATE,
        "gate and up swapped",
        ("Mlp",),
        substitute(faults.GateSwapped),
        gated,
        level="block",
    ),
    Injection(Fault.GATE, "added", ("Mlp",), substitute(faults.NotGated), gated, level="block"),
    Injection(
        Fault.POST_NORM, "after the sum", ("Block",), substitute(faults.PostNorm), level="block"
    ),
    Injection(
        Fault.POST_NORM,
        "after the sum",
        ("DecoderLayer",),
        substitute(faults.DecoderPostNorm),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "of normalised tokens",
        ("Block",),
        substitute(faults.NormalisedShortcut),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "of normalised tokens",
        ("DecoderLayer",),
        substitute(faults.DecoderNormalisedShortcut),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "branches in parallel",
        ("Block",),
        substitute(faults.Parallel),
        level="block",
    ),
    Injection(Fault.CLASS_TOKEN_PLACE, "last", ("Embed",), substitute(faults.TokenLast)),
    Injection(
        Fault.CLASS_TOKEN_POSITION, "without", ("Embed",), substitute(faults.TokenWithoutPlace)
    ),
    Injection(
        Fault.PATCH_ORDER,
        "columns first",
        ("PatchEmbed",),
        substitute(faults.ColumnsFirst),
        level="block",
    ),
    Injection(
        Fault.EMBEDDING_SCALE, "times its root", ("Embedding",), substitute(faults.TimesRoot)
    ),
    Injection(
        Fault.LINEAR_TRANSPOSED, "read", ("Linear",), substitute(faults.ReadTransposed), square
    ),
    Injection(
        Fault.LINEAR_TRANSPOSED, "stored", ("Linear",), reweigh("kernel", np.transpose), square
    ),
)
