"""ViT on both sides: names, shapes, and another formulation of its blocks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import jax_impl.state
import torch_impl.state
from parity.spec import draw
from parity.spec.models import config_of
from parity.spec.networks.vit import ViTConfig
from parity.spec.tensors import tensors
from weights_convert import to_jax

TINY = ViTConfig(num_classes=3, side=12, patch=4, width=24, depth=2, mlp_width=20, head_dim=8)
# Of timm's vit_tiny_patch16_224, 5,717,416 parameters.
PUBLISHED = ViTConfig(
    num_classes=1000, side=224, patch=16, width=192, depth=12, mlp_width=768, head_dim=64
)


def test_parameters_are_counted() -> None:
    """Catches a network of another size than the published one."""
    sizes = [np.prod(t.shape) for t in tensors(PUBLISHED).values()]
    assert sum(int(n) for n in sizes) == 5_717_416
    assert (PUBLISHED.heads, PUBLISHED.tokens, PUBLISHED.check_size) == (3, 197, (224, 224))


def test_tensors_are_those_of_the_network() -> None:
    """Catches a contract of names and shapes that the networks do not keep."""
    weights = draw.weights(TINY, 0)
    a = torch_impl.state.build(TINY, weights)
    b = jax_impl.state.build(TINY, to_jax(TINY, weights))
    expected = {key: spec.shape for key, spec in tensors(TINY).items()}
    assert {k: tuple(v.shape) for k, v in a.state_dict().items()} == expected
    assert list(a.state_dict()) == list(expected)
    assert dataclasses.replace(config_of("vit", expected), eps=TINY.eps) == TINY
    arrays = jax_impl.state.state(b)
    for key, array in to_jax(TINY, torch_impl.state.state(a)).items():
        np.testing.assert_array_equal(arrays.pop(key), array)
    assert not arrays


@pytest.mark.parametrize("config", [PUBLISHED, dataclasses.replace(PUBLISHED, side=384)])
def test_shapes_show_the_variant(config: ViTConfig) -> None:
    """Catches a field that is guessed although the shapes show it."""
    assert config_of("vit", {key: spec.shape for key, spec in config.tensors()}) == config


def test_blocks_are_pytorchs_own() -> None:
    """Catches a block that normalises, adds or attends otherwise than the encoder of `torch.nn`."""
    model = torch_impl.state.build(TINY, draw.weights(TINY, 0), "float64")
    x = torch.tensor(np.random.default_rng(0).normal(size=(2, 7, TINY.width)))
    for block in model.blocks:
        theirs = nn.TransformerEncoderLayer(
            *(TINY.width, TINY.heads, TINY.mlp_width, 0.0, "gelu", TINY.eps, True, True),
            dtype=torch.float64,
        )
        names = {
            "self_attn.in_proj_": "attn.qkv.",
            "self_attn.out_proj.": "attn.proj.",
            "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.",
            "norm1.": "norm1.",
            "norm2.": "norm2.",
        }
        state = block.state_dict()
        theirs.load_state_dict(
            {a + leaf: state[b + leaf] for a, b in names.items() for leaf in ("weight", "bias")}
        )
        expected = theirs.train()(x)
        torch.testing.assert_close(block(x), expected, rtol=0, atol=1e-12)
        x = expected.detach()


def test_embedding_of_an_image() -> None:
    """Catches patches in another order, a class token at the end, or one without a position."""
    model = torch_impl.state.build(TINY, draw.weights(TINY, 0), "float64")
    images = torch.tensor(np.random.default_rng(0).random((2, 3, 12, 12)))
    kernel, bias = model.patch_embed.proj.weight, model.patch_embed.proj.bias
    expected = [model.cls_token[0, 0].expand(2, -1)]
    for i in range(3):
        for j in range(3):
            patch = images[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            expected.append(patch.flatten(1) @ kernel.flatten(1).T + bias)
    tokens = torch.stack(expected, 1) + model.pos_embed
    found = model.embed(model.patch_embed(images), model.cls_token, model.pos_embed)
    torch.testing.assert_close(found, tokens, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(12, 16), (16, 16)])
def test_other_sizes_are_refused(size: tuple[int, int]) -> None:
    """Catches an image that fails deep inside, or is classified with positions of another."""
    model = torch_impl.state.build(TINY, draw.weights(TINY, 0))
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]}, but this vit needs 12x12"):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 0}, {"side": 13}, {"head_dim": 7}, {"num_classes": 0}, {"eps": 0.0}],
    ids=str,
)
def test_config_refuses_nonsense(wrong: dict) -> None:
    """Catches a table that cannot be built."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        dataclasses.replace(TINY, **wrong)
