"""The ladder on published pairs, as their authors wrote them: `pytest -m transformers -n 0`.

What deviates is known, and is all that may be reported. docs/results/published_pairs.md shows it.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from types import ModuleType

import pytest

from parity import check
from parity.report.quantity import Kind

pytestmark = [
    pytest.mark.transformers,
    # Of transformers' own making: it says that its Flax classes will be removed.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def pairs() -> ModuleType:
    """The factories; transformers is installed where it is not."""
    try:
        return importlib.import_module("tests.published.pairs")
    except subprocess.CalledProcessError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"transformers cannot be installed: {error}")


@pytest.mark.parametrize("name", ["gpt2", "gpt2_head", "llama", "vit"])
def test_right_pairs_pass(pairs: ModuleType, name: str) -> None:
    """Catches a false alarm or a crash on a pair that is right, and a rung that compares nothing.

    They draw at their authors' rates in train mode, return dataclasses and caches, compute GELU and
    RoPE with constants in float32, and take their positions in other places.
    """
    report = check(getattr(pairs, name)())
    report.assert_faithful()
    assert not report.causes
    assert {c.rung for c in report.checks} == {"L0", "L1", "L2", "L3"}
    layers = {c.layer for c in report.checks if c.rung == "L2"}
    assert len(layers) > (10 if name == "gpt2_head" else 20)
    assert not [o for o in report.left_out if o.rung in ("L0", "L3")], "a weight or a gradient"


def test_bert_trains_its_padding_row(pairs: ModuleType) -> None:
    """Catches any other failure than the padding row's gradient, and that one unseen or unproved.

    PyTorch's class has `padding_idx=0`, so that row gets no gradient; Flax's has no such thing.
    """
    report = check(pairs.bert())
    failed = report.failures()
    assert {(c.layer, c.quantity.kind, c.quantity.path) for c in failed} == {
        ("embeddings.word_embeddings", Kind.PARAMETER_GRADIENT, "embedding")
    }
    assert {(c.rung, c.kind) for c in failed} == {
        (rung, kind) for rung in ("L1", "L3") for kind in ("structure", "numerics")
    }
    assert all(c.index[0] == 0 for c in failed), "a row of a real word"
    assert report.fault().layer == "embeddings.word_embeddings"
    assert "a padding row that is trained" in " ".join(map(str, report.causes))


def test_resnet_keeps_the_biased_variance(pairs: ModuleType) -> None:
    """Catches any other failure than the running variances, and one of them that is not seen.

    PyTorch keeps the unbiased variance of a batch in its running statistics, Flax the biased one.
    The pair is right in eval mode, so an inference check passes.
    """
    port = pairs.resnet()
    report = check(port)
    failed = report.failures()
    assert {c.rung for c in failed} == {"L1", "L2"}
    assert {(c.quantity.kind, c.quantity.path) for c in failed} == {(Kind.STATISTIC, "var")}
    norms = {n for n, _ in port.reference.named_modules() if n.endswith("normalization")}
    assert {c.reference for c in failed} == norms
    assert report.fault().layer == "embedder.embedder.normalization"
    assert "biased variance" in " ".join(map(str, report.causes))


def test_mistral_sees_one_key_more(pairs: ModuleType) -> None:
    """Catches a window that is off by one unseen, at another place, or without its cause.

    Flax's class masks by `jnp.triu(mask, -sliding_window)`; PyTorch's window holds the query, too.
    """
    report = check(pairs.mistral())
    fault = report.fault()
    assert fault.layer == "layers.0.self_attn.o_proj"
    assert "L1" not in {c.rung for c in report.failures()}, "every layer is right alone"
    assert report.parting.reference.startswith("scaled_dot_product_attention")
    assert [cause.fault for cause in report.causes] == ["attention-window"]
    assert "one key wider" in str(report.causes[0])


def test_xglm_trains_its_padding_row(pairs: ModuleType) -> None:
    """Catches an embedding blamed that the other side scales outside, or the row unproved.

    PyTorch's positions are made in float32, so both sides are near and not equal.
    """
    report = check(pairs.xglm())
    failed = report.failures()
    assert {(c.rung, c.layer, c.quantity.kind) for c in failed} == {
        ("L3", "embed_tokens", Kind.PARAMETER_GRADIENT)
    }
    assert [cause.fault for cause in report.causes] == ["padding-idx"]
