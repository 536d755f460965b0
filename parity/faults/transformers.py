"""How each fault of a Transformer is injected; see `injections`."""

from __future__ import annotations

from typing import Any

import numpy as np

from parity.diagnosis.catalogue import Fault
from parity.faults import faulty_attention as faulty
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
    Injection(Fault.GELU_TANH, "by a tanh", ("GELU",), substitute(faulty.TanhGELU)),
    Injection(Fault.ACTIVATION, "SiLU for GELU", ("GELU",), substitute(faulty.IsSiLU)),
    Injection(Fault.ACTIVATION, "GELU for SiLU", ("SiLU",), substitute(faulty.IsGELU)),
    Injection(Fault.NORM_EPS, "1e-6 against 1e-5", NORMS, assign(eps=other_eps)),
    Injection(Fault.NORM_EPS_PLACE, "outside the root", NORMS, substitute(faulty.EpsOutside)),
    Injection(Fault.NORM_EPS_PLACE, "left out", NORMS, assign(eps=0.0)),
    Injection(Fault.NORM_KIND, "mean subtracted", ("RMSNorm",), substitute(faulty.Centred)),
    Injection(
        Fault.NORM_KIND, "mean not subtracted", ("LayerNorm",), substitute(faulty.NotCentred)
    ),
    Injection(Fault.NORM_UNBIASED, "n - 1 for n", ("LayerNorm",), substitute(faulty.Unbiased)),
    Injection(Fault.NORM_WEIGHT_OFFSET, "1 + w", NORMS, substitute(faulty.OneMore)),
    Injection(Fault.NORM_LEFT_OUT, "left out", NORMS, substitute(faulty.LeftOut)),
    Injection(Fault.ATTENTION_SCALE, "1 / d", ATTENTION, substitute(faulty.ByD)),
    Injection(Fault.ATTENTION_SCALE, "none", ATTENTION, substitute(faulty.Unscaled)),
    Injection(
        Fault.ATTENTION_SCALE,
        "of all heads' channels",
        ATTENTION,
        substitute(faulty.ByWidth),
        equivalent=one_head,
    ),
    Injection(
        Fault.ATTENTION_SOFTMAX, "over the queries", ATTENTION, substitute(faulty.OverQueries)
    ),
    Injection(Fault.CAUSAL_MASK, "none", ATTENTION, substitute(faulty.NoMask), causal),
    Injection(Fault.CAUSAL_MASK, "sees the next", ATTENTION, substitute(faulty.SeesNext), causal),
    Injection(Fault.CAUSAL_MASK, "not itself", ATTENTION, substitute(faulty.NotItself), causal),
    Injection(Fault.MASK_SIGN, "hides the past", ATTENTION, substitute(faulty.SeesLater), causal),
    Injection(
        Fault.CACHED_MASK, "from the first key", ATTENTION, substitute(faulty.FromFirst), causal
    ),
    Injection(
        Fault.HEADS_MERGED, "not transposed", ATTENTION, substitute(faulty.NotTransposed), several
    ),
    Injection(Fault.HEADS_SPLIT, "interleaved", ATTENTION, substitute(faulty.Interleaved), several),
    Injection(Fault.GROUPED_HEADS, "tiled", ATTENTION, substitute(faulty.Tiled), grouped),
    Injection(
        Fault.QKV_ORDER, "q, v, k", ("SelfAttention",), substitute(faulty.QVK), fused, level="block"
    ),
    Injection(
        Fault.QKV_ORDER, "stored as q, v, k", ("Linear",), reweigh("kernel", permuted), triple
    ),
    Injection(
        Fault.QKV_PER_HEAD,
        "each head's in turn",
        ("SelfAttention",),
        substitute(faulty.PerHead),
        fused,
        level="block",
    ),
    Injection(Fault.ROTARY_PAIRS, "neighbours", ROTARY, substitute(faulty.Neighbours)),
    Injection(Fault.ROTARY_BASE, "another base", ROTARY, assign(base=other_base)),
    Injection(Fault.ROTARY_OFFSET, "from 1", ROTARY, substitute(faulty.FromOne)),
    Injection(Fault.ROTARY_DIRECTION, "backwards", ROTARY, substitute(faulty.Backwards)),
    Injection(Fault.CACHED_POSITIONS, "from 0 again", ROTARY, substitute(faulty.FromZeroAgain)),
    Injection(
        Fault.ROTARY_TARGET,
        "keys not turned",
        ("SelfAttention",),
        substitute(faulty.KeysNotTurned),
        separate,
        level="block",
    ),
    Injection(
        Fault.ROTARY_TARGET,
        "values turned",
        ("SelfAttention",),
        substitute(faulty.ValuesTurned),
        separate,
        level="block",
    ),
    Injection(
        Fault.GATE,
        "gate and up swapped",
        ("Mlp",),
        substitute(faulty.GateSwapped),
        gated,
        level="block",
    ),
    Injection(Fault.GATE, "added", ("Mlp",), substitute(faulty.NotGated), gated, level="block"),
    Injection(
        Fault.POST_NORM, "after the sum", ("Block",), substitute(faulty.PostNorm), level="block"
    ),
    Injection(
        Fault.POST_NORM,
        "after the sum",
        ("DecoderLayer",),
        substitute(faulty.DecoderPostNorm),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "of normalised tokens",
        ("Block",),
        substitute(faulty.NormalisedShortcut),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "of normalised tokens",
        ("DecoderLayer",),
        substitute(faulty.DecoderNormalisedShortcut),
        level="block",
    ),
    Injection(
        Fault.RESIDUAL,
        "branches in parallel",
        ("Block",),
        substitute(faulty.Parallel),
        level="block",
    ),
    Injection(Fault.CLASS_TOKEN_PLACE, "last", ("Embed",), substitute(faulty.TokenLast)),
    Injection(
        Fault.CLASS_TOKEN_POSITION, "without", ("Embed",), substitute(faulty.TokenWithoutPlace)
    ),
    Injection(
        Fault.PATCH_ORDER,
        "columns first",
        ("PatchEmbed",),
        substitute(faulty.ColumnsFirst),
        level="block",
    ),
    Injection(
        Fault.EMBEDDING_SCALE, "times its root", ("Embedding",), substitute(faulty.TimesRoot)
    ),
    Injection(
        Fault.LINEAR_TRANSPOSED, "read", ("Linear",), substitute(faulty.ReadTransposed), square
    ),
    Injection(
        Fault.LINEAR_TRANSPOSED, "stored", ("Linear",), reweigh("kernel", np.transpose), square
    ),
)
