"""MindSpore's E-NET: against MindSpore itself in float32, and the ladder on a few blocks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from flax import nnx

import jax_impl.state
import torch_impl.state
from parity.diagnosis.check import check
from parity.model_checks.networks import port
from parity.spec import draw
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENET_BLOCKS
from tests.golden_vectors import Golden
from weights_convert import Checkpoint, formats, load, naming, to_jax

LIMIT = 1e-5  # both computed in float32
BLOCKS = ("downsample1_0", "asymmetric2_3", "upsample5_0")


@pytest.fixture(scope="module")
def checkpoint(golden: Path) -> Checkpoint:
    return load(golden / "enet_mindspore_c20.ckpt", "enet-mindspore")


def logits(checkpoint: Checkpoint, images: np.ndarray, side: str) -> np.ndarray:
    """(N, classes, H, W) of images (N, H, W, 3)."""
    config, arrays = checkpoint.config, checkpoint.arrays
    if side == "torch":
        model = torch_impl.state.build(config, arrays).eval()
        with torch.no_grad():
            return model(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
    network = jax_impl.state.build(config, to_jax(config, arrays))
    network.eval()
    graph, state = nnx.split(network)
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images)
    return np.asarray(found).transpose(0, 3, 1, 2)


@pytest.mark.parametrize("side", ["torch", "jax"])
def test_golden(side: str, golden: Path, checkpoint: Checkpoint) -> None:
    """Catches any difference from what MindSpore computes with its own checkpoint."""
    case = Golden(golden / "enet_mindspore_c20.npz")
    assert checkpoint.config == MODELS["enet-mindspore"]
    found = logits(checkpoint, case.images().astype(np.float32), side)
    assert found.dtype == np.float32
    assert found.shape == tuple(case["eval_logits_shape"])
    expected = case["eval_logits"]
    apart = found.ravel()[case["eval_logits_at"]] - expected
    # Logits that nearly cancel are measured against the largest.
    assert abs(apart).max() <= LIMIT * abs(expected).max()
    assert np.linalg.norm(apart) <= LIMIT * np.linalg.norm(expected)
    assert abs(np.linalg.norm(found) / case["eval_logits_l2"] - 1) <= LIMIT


@pytest.mark.parametrize("model", ["enet-mindspore", "enet-mindspore-encoder"])
def test_ladder(model: str) -> None:
    """Catches a port that differs: one block of each kind that MindSpore's variant changes."""
    blocks = tuple(b for b in ENET_BLOCKS if b.name in BLOCKS)
    blocks = (blocks[0], dataclasses.replace(blocks[1], in_channels=64, out_channels=64), blocks[2])
    config = dataclasses.replace(MODELS[model], num_classes=5, blocks=blocks)
    check(port(model, config, (16, 24), seed=3)).assert_faithful()


def test_checkpoint_of_the_encoder_alone(tmp_path: Path) -> None:
    """Catches a head that is lost on the way to MindSpore's names, or a whole network made up."""
    config, path = MODELS["enet-mindspore-encoder"], tmp_path / "encoder.ckpt"
    arrays = draw.weights(config, 0)
    named = naming.to_naming_scheme(config, arrays, "mindspore")
    assert {"pred.weight", "pred.bias", "encoder.initial_block.conv.weight"} <= named.keys()
    formats.write(path, "mindspore", named, {})
    found = load(path, "enet-mindspore-encoder")
    assert found.config == config
    counters = tuple(k for k in arrays if k.endswith("num_batches_tracked"))
    assert set(found.filled) == set(counters)
    assert all(np.array_equal(found.arrays[k], arrays[k]) for k in arrays if k not in counters)
