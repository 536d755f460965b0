"""The predictors of either side."""

from __future__ import annotations

import numpy as np
import torch

import jax_impl.evaluate
import torch_impl.evaluate
import torch_impl.state
import weights_convert
from parity.spec import draw
from parity.spec.networks.enet import ENetConfig
from parity.spec.preprocessing import Preprocessing

SIZE = (24, 40)


def test_predictions_are_the_first_maximum_of_the_logits() -> None:
    """Catches ties that go to the last class on either side, and another axis than the classes'."""
    config = ENetConfig()
    arrays = draw.weights(config, seed=0)
    kernel = arrays["transposed_conv.weight"]
    kernel[:, 7] = kernel[:, 3]
    kernel[:, 19] = kernel[:, 0]
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    named = weights_convert.to_jax(config, arrays)
    for side, state in ((torch_impl, arrays), (jax_impl, named)):
        predict = side.evaluate.predictor(config, state)
        logits, classes = predict.logits(images), predict(images)
        assert logits.shape == (1, *SIZE, 20)
        np.testing.assert_array_equal(logits[..., 7], logits[..., 3])
        np.testing.assert_array_equal(classes, logits.argmax(axis=-1))
        assert {0, 3} & set(np.unique(classes))  # else there was no tie to break
        assert not {7, 19} & set(np.unique(classes))


def test_float64_is_the_plain_formulation() -> None:
    """Catches a faster layout where exactness is asked for.

    Channels last, more equal pixels come out unequal by a rounding; max-pooling then picks another.
    """
    config = ENetConfig()
    arrays = draw.weights(config, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    logits = torch_impl.evaluate.predictor(config, arrays, "float64").logits(images)
    model = torch_impl.state.build(config, arrays, "float64").eval()
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().double() / 255)
    assert logits.dtype == np.float64
    np.testing.assert_array_equal(logits, expected.permute(0, 2, 3, 1).numpy())


def test_preprocessing() -> None:
    """Catches a mean or deviation left out, swapped, or applied to the wrong channel on a side."""
    config = ENetConfig()
    arrays = draw.weights(config, seed=0)
    images = np.random.default_rng(0).integers(0, 256, (1, *SIZE, 3), np.uint8)
    mean, std = (0.5, 0.25, 0.125), (0.2, 0.3, 0.4)
    expected = Preprocessing(mean=mean, std=std, channels="BGR")
    model = torch_impl.state.build(config, arrays, "float64").eval()
    x = torch.from_numpy(images.astype(np.float64)).flip(-1) / 255
    x = (x - torch.tensor(mean, dtype=torch.float64)) / torch.tensor(std, dtype=torch.float64)
    with torch.inference_mode():
        y = model(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1).numpy()
    named = weights_convert.to_jax(config, arrays)
    for side, state in ((torch_impl, arrays), (jax_impl, named)):
        found = side.evaluate.predictor(config, state, "float64", expected).logits(images)
        np.testing.assert_allclose(found, y, rtol=1e-9, atol=1e-12)
