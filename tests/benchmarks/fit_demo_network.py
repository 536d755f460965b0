"""Fits the small ENet that ships with `parity demo`, on scenes of its own.

    python -m tests.benchmarks.fit_demo_network parity/demo/enet.safetensors

Five minutes of one CPU thread. On 40 other scenes the mean IoU is 66.7 % over the 12 classes
present. The seeds decide all but the rounding; those of the demo's scenes, of the fit's and of the
held-out ones differ.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

import torch_impl.losses
import torch_impl.state
import weights_convert
from parity.data.cityscapes import CITYSCAPES
from parity.data.scenes import scene
from parity.demo import SIZE
from parity.spec import draw, metrics
from parity.spec.networks.enet import ENetConfig
from parity.spec.preprocessing import published, scale
from parity.spec.tensors import Tensor, tensors
from torch_impl.evaluate import Predictor

FITTED, HELD_OUT = 1, 2  # seeds of scenes; the demo's is 0
SCENES, EPOCHS, BATCH = 480, 6, 2
LEARNING_RATE, WARM_UP = 0.01, 0.1  # its peak, and the share of the steps before it


def fit(
    config: ENetConfig, images: np.ndarray, truth: np.ndarray, epochs: int = EPOCHS, seed: int = 0
) -> torch.nn.Module:
    """Fit a network from scratch, without dropout: it sees too little to learn by heart.

    Args:
        config: Which network.
        images: (N, H, W, 3) uint8.
        truth: (N, H, W) trainIds; void, the last, is a class like any other.
        epochs: How often it sees each image, half the time mirrored.
        seed: Of the weights it starts from, the order of images and the mirroring.
    """
    config = dataclasses.replace(config, dropout=(0.0, 0.0))
    model = torch_impl.state.build(config, initial_weights(config, seed))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # no such stub
    optimizer = torch.optim.Adam(model.parameters(), betas=(0.9, 0.99), fused=True)
    weights = class_weights(truth, config.num_classes)
    steps = len(images) // BATCH
    for epoch in range(epochs):
        rng, start, total = draw.generator(seed, "fit/order", epoch), time.perf_counter(), 0.0
        order, mirrored = rng.permutation(len(images)), rng.random(len(images)) < 0.5
        for step in range(steps):
            chosen = order[step * BATCH : (step + 1) * BATCH]
            x, y = (flip(pixels[chosen], mirrored[chosen]) for pixels in (images, truth))
            for group in optimizer.param_groups:
                group["lr"] = learning_rate((epoch * steps + step) / (epochs * steps))
            loss = torch_impl.losses.cross_entropy(
                model(torch.from_numpy(scale(x, "float32")).permute(0, 3, 1, 2)),
                torch.from_numpy(y),
                weights,
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        took = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {total / steps:.3f}, {took:.0f} s", flush=True)
    return model


def initial_weights(config: ENetConfig, seed: int) -> dict[str, np.ndarray]:
    """He et al. 2015 for kernels, PyTorch's defaults for the rest; published key -> array.

    But the branches of bottlenecks start at 0.2 of that and the logits at 0.3: after two epochs at
    a peak rate of 0.004 the mean IoU was 0.52, with all at full size 0.36.
    """
    constants = {"scale": 1.0, "var": 1.0, "slope": 0.25, "bias": 0.0, "mean": 0.0}

    def values(key: str, spec: Tensor) -> np.ndarray:
        if spec.kind == "count":
            return np.zeros(spec.shape, np.int64)
        if spec.kind in constants:
            size = 0.2 if key.endswith("ext_conv3.1.weight") else 1.0
            return np.full(spec.shape, size * constants[spec.kind], np.float32)
        fan_in = spec.shape[0] if spec.kind == "conv_transpose" else math.prod(spec.shape[1:])
        size = 0.3 if key == "transposed_conv.weight" else 1.0
        rng = draw.generator(seed, f"fit/{key}")
        return rng.normal(0.0, size * math.sqrt(2 / fan_in), spec.shape).astype(np.float32)

    return {key: values(key, spec) for key, spec in tensors(config).items()}


def class_weights(truth: np.ndarray, outputs: int) -> torch.Tensor:
    """1 / ln(1.02 + share of pixels): Paszke et al. 2016, 5.2."""
    share = np.bincount(truth.ravel(), minlength=outputs) / truth.size
    return torch.from_numpy(1 / np.log(1.02 + share)).float()


def learning_rate(progress: float) -> float:
    """Rises linearly, falls as half a cosine; progress from 0 to 1."""
    if progress < WARM_UP:
        return LEARNING_RATE * (progress + 0.001) / WARM_UP
    return LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def flip(pixels: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """(N, H, W, ...) with some of them mirrored left to right."""
    wide = mirrored.reshape(-1, *[1] * (pixels.ndim - 1))
    return np.where(wide, pixels[:, :, ::-1], pixels)


def scenes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (N, H, W, 3) uint8 and trainIds (N, H, W) uint8."""
    pairs = [scene(seed, index, *SIZE) for index in range(count)]
    train_ids = np.array(CITYSCAPES.train_ids, np.uint8)
    return np.stack([p for p, _ in pairs]), train_ids[np.stack([labels for _, labels in pairs])]


def iou(model: torch.nn.Module, images: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU of each class; see `parity.spec.metrics`."""
    predict = Predictor(model)
    matrix = sum(
        metrics.confusion(y[None], predict(x[None]), CITYSCAPES.outputs)
        for x, y in zip(images, truth, strict=True)
    )
    return metrics.iou(np.asarray(matrix), CITYSCAPES.void)


def ship(model: torch.nn.Module, path: Path) -> None:
    """Write it at half precision, torch-named, with a manifest."""
    state = {k: v.half() if v.is_floating_point() else v for k, v in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "enet.pth")
        source, order = Path(folder) / "enet.pth", "void-last"
        images = dataclasses.replace(published(ENetConfig(), order), size=SIZE)
        weights_convert.convert(source, path, to="torch", labels=order, preprocessing=images)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="safetensors file to write")
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"drawing {args.scenes} scenes", flush=True)
    ship(fit(ENetConfig(), *scenes(FITTED, args.scenes), args.epochs), args.out)
    checkpoint = weights_convert.load(args.out)
    model = torch_impl.state.build(checkpoint.config, checkpoint.arrays)
    share = iou(model, *scenes(HELD_OUT, 40))
    for name, value in zip(CITYSCAPES.classes, share, strict=True):
        print(f"{name:14} {100 * value:6.2f}")
    print(f"mean over present classes {100 * metrics.mean_iou_present(share):.2f}, 40 other scenes")


if __name__ == "__main__":
    main()
