"""What MindSpore's Adam needs to go on. That it does is shown in `test_real_mindspore`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.tensors import STATISTICS, tensors
from tests.checkpoints import equal
from tests.registered import trained
from weights_convert import convert, formats, load, mindspore_adam, naming

CONFIG = MODELS["enet-mindspore-encoder"]


def checkpoint(step: int, betas: tuple[float, float] | None) -> dict[str, np.ndarray]:
    """As MindSpore saves a network and its Adam."""
    network = naming.to_naming_scheme(CONFIG, weights(CONFIG, 0), "mindspore")
    kinds = tensors(CONFIG)
    trained = [
        name
        for name, (key, _) in naming.names(CONFIG, "mindspore").items()
        if kinds[key].kind not in STATISTICS
    ]
    rng = np.random.default_rng(0)
    found = {
        f"{slot}.{name}": rng.random(network[name].shape, np.float32)
        for slot in ("moment1", "moment2")
        for name in trained
    }
    found["global_step"] = np.array([step], np.int32)
    for name, beta in zip(mindspore_adam.POWERS, betas or (), strict=betas is not None):
        value = np.float32(1)
        for _ in range(step):
            value *= np.float32(beta)
        found[name] = np.array(value)
    return network | found


@pytest.mark.parametrize("middle", ["a.pth", "a.npz", "a.safetensors"])
@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.8, 0.99995)])
def test_powers_there_and_back(middle: str, betas: tuple, tmp_path: Path) -> None:
    """Catches MindSpore's Adam that begins again after it was carried: powers lost, or of 0.9."""
    arrays = checkpoint(20, betas)
    formats.write(tmp_path / "in.ckpt", "mindspore", arrays, {})
    found = load(tmp_path / "in.ckpt")
    assert found.skipped == ()
    assert found.optimizer.hyperparameters == {"betas": list(betas)}
    convert(tmp_path / "in.ckpt", tmp_path / middle, to="torch" if middle == "a.pth" else "jax")
    convert(tmp_path / middle, tmp_path / "out.ckpt")
    assert equal(formats.read(tmp_path / "out.ckpt").arrays, arrays)


@pytest.mark.parametrize("step", [0, 1, 3_000, 200_000])
def test_any_number_of_steps(step: int, tmp_path: Path) -> None:
    """Catches a power of 1 or of 0, which tells no beta, taken for a fault."""
    state = {"global_step": np.array([step], np.int32)}
    made = mindspore_adam.powers(step, (0.9, 0.999))
    assert all(0 <= float(p) <= 1 and p.dtype == np.float32 for p in made.values())
    formats.write(tmp_path / "a.ckpt", "mindspore", checkpoint(1, None) | state | made, {})
    found = load(tmp_path / "a.ckpt").optimizer
    assert found is not None
    assert found.step == step
    convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    back = formats.read(tmp_path / "b.ckpt").arrays
    assert equal({name: back[name] for name in made}, made)


def test_powers_that_do_not_fit_the_step(tmp_path: Path) -> None:
    """Catches a state carried as of step 20 whose corrections are those of another step."""
    arrays = checkpoint(20, (0.9, 0.999)) | mindspore_adam.powers(0, (0.9, 0.999))
    formats.write(tmp_path / "a.ckpt", "mindspore", arrays, {})
    found = load(tmp_path / "a.ckpt")
    assert found.optimizer is None
    assert found.skipped == ("optimizer (beta1_power is 1, which no beta gives after 20 steps)",)


def test_a_file_without_powers(tmp_path: Path) -> None:
    """Catches the files refused that lack them, such as earlier ones of ours."""
    formats.write(tmp_path / "a.ckpt", "mindspore", checkpoint(20, None), {})
    convert(tmp_path / "a.ckpt", tmp_path / "b.ckpt")
    assert equal(formats.read(tmp_path / "b.ckpt").arrays, checkpoint(20, (0.9, 0.999)))


def test_a_state_without_hyperparameters(tmp_path: Path) -> None:
    """Catches a file of ours that is refused: JAX's state says no betas, its powers then do."""
    formats.write(tmp_path / "a.ckpt", "mindspore", checkpoint(20, None), {})
    convert(tmp_path / "a.ckpt", tmp_path / "a.npz", to="jax")
    assert load(tmp_path / "a.npz").optimizer.hyperparameters == {}
    convert(tmp_path / "a.npz", tmp_path / "b.ckpt")
    convert(tmp_path / "b.ckpt", tmp_path / "c.pth")
    convert(tmp_path / "c.pth", tmp_path / "d.ckpt")
    assert equal(formats.read(tmp_path / "d.ckpt").arrays, checkpoint(20, (0.9, 0.999)))


def test_groups_with_betas_of_their_own(tmp_path: Path) -> None:
    """Catches powers of betas that no group has, in a file that is refused when it is read."""
    network, optimizer = trained({k: t.shape for k, t in tensors(CONFIG).items()}, "adam", halves)
    content = {"state_dict": network.state_dict(), "optimizer": optimizer.state_dict()}
    torch.save(content, tmp_path / "a.pth")
    model = "enet-mindspore-encoder"
    with pytest.raises(InputError, match=r"groups have different betas.*--weights-only"):
        convert(tmp_path / "a.pth", tmp_path / "b.ckpt", model)
    assert not (tmp_path / "b.ckpt").exists()
    convert(tmp_path / "a.pth", tmp_path / "b.ckpt", model, weights_only=True)
    assert load(tmp_path / "b.ckpt").optimizer is None


def halves(network: torch.nn.Module) -> list[dict]:
    every = list(network.parameters())
    middle = len(every) // 2
    return [{"params": every[:middle]}, {"params": every[middle:], "betas": (0.5, 0.6)}]


@pytest.mark.parametrize("betas", [None, [0.9], [0.9, 1.5], "ab"])
def test_betas_that_are_none(betas: object) -> None:
    """Catches nonsense from a file that ends in a traceback."""
    with pytest.raises(InputError, match="expected two numbers"):
        mindspore_adam.powers(3, betas)
