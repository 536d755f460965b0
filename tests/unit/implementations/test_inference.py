"""The program that PyTorch predicts large images with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import torch_impl.evaluate
import torch_impl.state
from parity.model_checks.small_networks import small
from parity.spec import draw
from torch_impl.ops import inference


def network(model: str, dtype: str) -> tuple[torch.nn.Module, torch.Tensor]:
    """A small network with drawn weights and statistics, in eval mode, and an image."""
    config, size = small(model)
    image = draw.generator(0, "inference").random((1, 3, *size))
    x = torch.tensor(image, dtype=getattr(torch, dtype))
    built = torch_impl.state.build(config, draw.weights(config, 0), dtype).eval()
    return built, x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("model", ["enet", "erfnet", "icnet", "genet-extent2", "enet-mindspore"])
def test_same_results(model: str) -> None:
    """Catches a batch norm folded wrongly (eps, bias, transposed, grouped), or a wrong ReLU.

    In float64, where only the order of roundings differs. Their 2^-53 may grow 9,000 times; a batch
    norm whose eps is forgotten is off by 1e-5.
    """
    reference, x = network(model, "float64")
    program = inference.program(reference, x)
    with torch.inference_mode():
        expected = reference(x)
        expected = expected[0] if isinstance(expected, tuple) else expected
        found = program(x)
    scale = expected.abs().max()
    assert (found - expected).abs().max() <= 1e-12 * scale
    norms = [node for node in program.graph.nodes if node.target in inference.BATCH_NORMS]
    assert len(norms) < sum(isinstance(m, torch.nn.BatchNorm2d) for m in reference.modules()) / 2


def test_resizing_is_one_operation_in_inference_mode() -> None:
    """Catches a bilinear resize recorded as thirty operations: ICNet took twice its time."""
    reference, x = network("icnet", "float32")
    with torch.inference_mode():
        program = inference.program(reference, x)
    calls = [str(node.target) for node in program.graph.nodes]
    assert "aten.upsample_bilinear2d.default" in calls
    assert not [call for call in calls if "index" in call]
    assert not any(tensor.is_inference() for tensor in program.buffers())


def test_nan_stays() -> None:
    """Catches a ReLU that turns NaN into 0, behind which damaged weights look sound."""
    config = small("erfnet")[0]
    arrays = draw.weights(config, 0)
    arrays["encoder.initial_block.conv.weight"][0, 0, 0, 0] = np.nan
    predict = torch_impl.evaluate.predictor(config, arrays)
    images = np.zeros((1, 256, 512, 3), np.uint8)
    with pytest.raises(FloatingPointError, match="not finite"):
        predict(images)
    assert predict.programs


def test_train_mode_is_refused() -> None:
    """Catches a program that normalises by the recorded batch's statistics, or drops at random."""
    reference, x = network("erfnet", "float32")
    with pytest.raises(ValueError, match="train mode"):
        inference.program(reference.train(), x)


def test_nothing_is_computed_in_vain() -> None:
    """Catches ICNet's backbone run to its end for an output that nothing uses."""
    reference, x = network("icnet", "float32")
    convolutions = [
        node
        for node in inference.program(reference, x).graph.nodes
        if "convolution" in str(node.target)
    ]
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    for module in reference.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(count)
    reference(x)
    assert len(convolutions) < 0.8 * calls


def test_predictor_records_large_images_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a program used for another shape, recorded anew, or for small and float64 images."""
    monkeypatch.setattr(inference, "LARGE", 32 * 64)
    monkeypatch.setattr(inference, "MOST_PROGRAMS", 2)
    config = small("erfnet-encoder")[0]
    arrays = draw.weights(config, 0)
    fast = torch_impl.evaluate.predictor(config, arrays)
    wide = torch_impl.evaluate.predictor(config, arrays, "float64")
    rng = np.random.default_rng(0)
    for height, width in [(32, 64), (64, 32), (32, 64), (32, 32), (64, 64)]:
        images = rng.integers(0, 256, (1, height, width, 3), np.uint8)
        expected = fast.logits(images)
        with torch.inference_mode():
            found = fast._forward(images, recorded=True).permute(0, 2, 3, 1).numpy()
        limit = 1e-5 * np.abs(expected).max()  # float32's 2^-24 may grow 170 times
        np.testing.assert_allclose(found, expected, rtol=0, atol=limit)
        wide(images)
    assert sorted(fast.programs) == [(1, 3, 32, 64), (1, 3, 64, 32)]
    for program in fast.programs.values():
        assert torch.ops.aten.relu_.default in {node.target for node in program.graph.nodes}
    assert not wide.programs


@pytest.mark.skipif(inference.LAY_OUT is None, reason="PyTorch has no such operator")
@pytest.mark.parametrize("model", ["enet", "erfnet", "icnet", "genet-extent2", "enet-mindspore"])
def test_kernels_laid_out_give_the_same(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a kernel laid out for another padding, stride, dilation or group, or held twice."""
    reference, x = network(model, "float32")
    plain = inference.program(reference, x)
    monkeypatch.setattr(inference, "LARGE_KERNEL", 1)
    laid_out = inference.program(reference, x)
    assert any(node.target is inference.LAID_OUT for node in laid_out.graph.nodes)
    used = {node.target for node in laid_out.graph.nodes if node.op == "get_attr"}
    made = {n for n, _ in laid_out.named_buffers() if n.startswith(("folded", "laid_out"))}
    assert made <= used
    with torch.inference_mode():
        expected = plain(x)
        limit = 1e-5 * expected.abs().max()  # float32's 2^-24 may grow 170 times
        assert (laid_out(x) - expected).abs().max() <= limit
        x[0, 0, 0, 0] = torch.nan
        assert torch.equal(laid_out(x).isnan(), plain(x).isnan())
