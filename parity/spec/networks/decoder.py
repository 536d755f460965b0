"""A decoder of tokens in the style of Llama, with the names and shapes of Hugging Face's."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from parity.spec.tensors import Entry, embedding, linear, rms_norm


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A causal Transformer: RMS norms, rotary embedding, grouped queries, SwiGLU, no biases.

    Rotary embedding: Su et al. 2021; grouped-query attention: Ainslie et al. 2023; SwiGLU: Shazeer
    2020. The default is a small network, for checks; `of` finds any other from its checkpoint.

    Attributes:
        num_classes: Number of tokens of the vocabulary.
        width: Channels of a token.
        depth: Number of layers.
        query_width: Channels of the queries, all heads together.
        kv_width: Channels of the keys, and of the values; several query heads share one of theirs.
        head_dim: Channels of a head.
        mlp_width: Channels inside a layer's MLP.
        tied: Whether the logits are made with the embedding's weights, not with a head of its own.
        base: Base of the rotary embedding's wavelengths: 1e4 in Llama 2, 5e5 in Llama 3.
        eps: Added to the mean square by the norms.

    Raises:
        ValueError: A number is too small, or does not divide another that it must divide.
    """

    family: ClassVar[str] = "decoder"
    check_size: ClassVar[tuple[int, ...]] = (12,)
    halves: ClassVar[int] = 2  # of a head, which the rotary embedding turns by one angle
    unstored: ClassVar[tuple[str, ...]] = ("head_dim", "base", "eps")
    guessed: ClassVar[tuple[str, ...]] = ("head_dim",)  # by `of`, so that it divides what it must
    unnamed: ClassVar[tuple[str, ...]] = (
        *("num_classes", "width", "depth", "query_width", "kv_width", "mlp_width"),
    )

    num_classes: int = 96
    width: int = 128
    depth: int = 2
    query_width: int = 128
    kv_width: int = 64
    head_dim: int = 32
    mlp_width: int = 192
    tied: bool = False
    base: float = 10_000.0
    eps: float = 1e-5

    def __post_init__(self) -> None:
        counts = ("num_classes", "width", "depth", "query_width", "kv_width", "head_dim")
        for name in (*counts, "mlp_width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, expected 1 or more")
        for whole, part in (
            ("kv_width", "head_dim"),
            ("query_width", "kv_width"),
            ("head_dim", "halves"),
        ):
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(
                    f"{whole} is {getattr(self, whole)}, expected a multiple of"
                    f" {getattr(self, part)}, its {part}"
                )
        for name in ("base", "eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}, expected more than 0")

    @property
    def heads(self) -> int:
        """Return the number of query heads."""
        return self.query_width // self.head_dim

    @property
    def kv_heads(self) -> int:
        """Return the number of key and value heads."""
        return self.kv_width // self.head_dim

    def tensors(self) -> Iterator[Entry]:
        """Yield the tensors by published key; see `parity.spec.models.Config`."""
        q, kv = self.query_width, self.kv_width
        yield from embedding("model.embed_tokens", self.num_classes, self.width)
        for i in range(self.depth):
            layer = f"model.layers.{i}"
            yield from linear(f"{layer}.self_attn.q_proj", self.width, q, bias=False)
            yield from linear(f"{layer}.self_attn.k_proj", self.width, kv, bias=False)
            yield from linear(f"{layer}.self_attn.v_proj", self.width, kv, bias=False)
            yield from linear(f"{layer}.self_attn.o_proj", q, self.width, bias=False)
            yield from linear(f"{layer}.mlp.gate_proj", self.width, self.mlp_width, bias=False)
            yield from linear(f"{layer}.mlp.up_proj", self.width, self.mlp_width, bias=False)
            yield from linear(f"{layer}.mlp.down_proj", self.mlp_width, self.width, bias=False)
            yield from rms_norm(f"{layer}.input_layernorm", self.width)
            yield from rms_norm(f"{layer}.post_attention_layernorm", self.width)
        yield from rms_norm("model.norm", self.width)
        if not self.tied:
            yield from linear("lm_head", self.width, self.num_classes, bias=False)

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> DecoderConfig:
        """Return the variant that the shapes show; see `parity.spec.models.Config`.

        They show neither the channels of a head, nor the base, nor the eps: those of the default
        are assumed, of a head fewer where they would not divide the keys'.
        """
        usual = cls()

        def rows(key: str, default: int) -> int:
            found = shapes.get(key, (default,))
            return found[0] if found else 0

        table = shapes.get("model.embed_tokens.weight", ())
        table = table if len(table) == 2 else (usual.num_classes, usual.width)
        first = "model.layers.0"
        norms = [k for k in shapes if k.endswith(".input_layernorm.weight")]
        queries = rows(f"{first}.self_attn.q_proj.weight", usual.query_width)
        keys = rows(f"{first}.self_attn.k_proj.weight", usual.kv_width)
        return cls(
            num_classes=table[0],
            width=table[1],
            depth=max(len(norms), 1),
            query_width=queries,
            kv_width=keys,
            head_dim=math.gcd(usual.head_dim, queries, keys),
            mlp_width=rows(f"{first}.mlp.gate_proj.weight", usual.mlp_width),
            tied="lm_head.weight" not in shapes and bool(shapes),
        )

    @property
    def assumptions(self) -> dict[str, str]:
        """Return a remark on each field that no tensor shows, for when it is only assumed."""
        return {
            "head_dim": f"not shown by the weights; {self.head_dim} channels a head assumed",
            "base": f"not shown by the weights; {self.base:g} assumed for the rotary embedding",
            "eps": f"not shown by the weights; an eps of {self.eps:g} in the norms assumed",
        }

    def describe(self) -> dict[str, Any]:
        """Return the fields of the variant; see `parity.spec.models.Config`."""
        return dataclasses.asdict(self)

    def dropout_sites(self, length: int) -> dict[str, tuple[float, tuple[int, ...]]]:
        """Return no dropout sites; see `parity.spec.models.Config`."""
        del length
        return {}

    def check_input(self, length: int) -> None:
        """Refuse a sequence that the reference cannot process either.

        Raises:
            ValueError: It has no token.
        """
        if length < 1:
            raise ValueError(f"input is of {length} tokens, but decoder needs 1 or more")
