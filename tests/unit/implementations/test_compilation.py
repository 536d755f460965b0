"""PyTorch's networks compiled by `torch.compile`."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from parity.cli import main
from parity.ladder import tolerances
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.training.losses import Loss
from parity.spec.training.optimizers import Optimizer
from parity.spec.training.trainer import Batch
from parity.training.dist_env import TORCHRUN
from torch_impl import layers
from torch_impl.evaluate import Predictor
from torch_impl.ops import compilation
from torch_impl.train import Trainer

# PyTorch's compiler uses what PyTorch has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="there is no C++ compiler, g++, which torch.compile needs"
)

JAX = "--compile is of PyTorch's network; JAX always compiles its own"
TRAIN = ["train", "enet-camvid", "--data", "y", "--out", "z"]


def network() -> torch.nn.Module:
    """Three classes: two convolutions, a batch norm with statistics and a ReLU."""
    torch.manual_seed(0)
    norm = layers.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.rand(4), torch.rand(4) + 0.5
    first, last = layers.Conv2d(3, 4, 3, padding=1), layers.Conv2d(4, 3, 3, padding=1)
    return torch.nn.Sequential(first, norm, torch.nn.ReLU(), last)


@needs_compiler
def test_the_same_numbers_and_nan_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a program that computes something else, is not compiled, or turns NaN into 0.

    The rule is that of numerics: the compiled program's error against float64 may not be more than
    `tolerances.K` times the network's own.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    images = draw.generator(0, "compile").integers(0, 256, (1, 16, 24, 3), np.uint8)
    predict, said = Predictor(network()), list[str]()
    predict.compile(said.append)
    classes = predict(images)
    (program,) = predict.programs.values()
    assert isinstance(program, compilation.Compiled)
    assert len(said) == 1
    assert said[0].startswith("torch.compile: ")
    assert said[0].endswith(" s for images of 1x3x16x24")
    np.testing.assert_array_equal(predict(images), classes)
    assert len(said) == 1  # compiled once

    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        found, own = program(x), predict.model(x)
        exact = network().double().eval()(x.double())
    size = exact.square().mean().sqrt()
    error, rounding = ((y - exact).square().mean().sqrt() for y in (found, own))
    floor = tolerances.floor("float32") * size
    assert error <= tolerances.K * rounding + floor
    assert rounding > 0
    np.testing.assert_array_equal(classes, found.argmax(1).numpy())

    held = dict(program.network.named_buffers())  # type: ignore[operator]  # a module
    with torch.inference_mode():
        held["folded_0"][0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="not finite"):
        predict(images)


@needs_compiler
def test_a_compiler_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a screen of PyTorch's frames."""

    def broken(*_: object) -> None:
        from torch._dynamo.exc import BackendCompilerFailed

        raise BackendCompilerFailed(broken, RuntimeError("fatal error: Python.h"), None)

    made = compilation.Compiled(network())
    monkeypatch.setattr(made, "fast", broken)
    with pytest.raises(InputError, match=r"torch.compile failed: .*Python\.h") as caught:
        made(torch.zeros(1, 3, 4, 4))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["bench", "--model", "genet-mean8", "--compile"], "nowhere-g++ is not there"),
        (
            ["predict", "x.png", "--weights", "x", "--out", "y", "--fit", "pad", "--compile"],
            "--compile with --fit pad",
        ),
        (
            ["predict", "x.png", "--weights", "n.onnx", "--out", "y", "--fit", "pad", "--compile"],
            "--compile is of PyTorch's network; n.onnx is run by ONNX Runtime",
        ),
        (
            ["predict", "x.png", "--weights", "x", "--out", "y", "--framework", "jax", "--compile"],
            "--compile is of PyTorch's network; x is run by JAX",
        ),
        (["miou", "--weights", "x", "--data", "y", "--frameworks", "jax", "--compile"], JAX),
        (["eval", "x", "--data", "y", "--framework", "jax", "--compile"], JAX),
        ([*TRAIN, "--framework", "jax", "--compile"], JAX),
        (["bench", "--train", "--devices", "2", "--compile"], "--devices with --compile"),
        (
            ["eval", "x", "--data", "y", "--framework", "jax", "--devices", "2", "--compile"],
            "--compile with 2 devices",
        ),
        ([*TRAIN, "--framework", "torch", "--compile"], "nowhere-g++ is not there"),
        (["eval", "x", "--data", "y", "--compile"], "nowhere-g++ is not there"),
    ],
)
def test_refused(
    argv: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Catches minutes of work, or a traceback, before it is told what cannot be compiled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.png").touch()
    monkeypatch.setenv("CXX", "nowhere-g++")
    assert main(argv) == 2
    captured = capsys.readouterr().err
    assert named in captured
    assert len(captured.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.png"]


def test_refused_to_each_of_several(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches processes that torchrun started and that compile, each for itself."""
    env = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": "1"}
    for name, value in (env | {"MASTER_ADDR": "127.0.0.1", TORCHRUN: "x"}).items():
        monkeypatch.setenv(name, value)
    assert main(["eval", "x", "--data", "y", "--framework", "torch", "--compile"]) == 2
    error = capsys.readouterr().err
    assert "--compile with 2 devices" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_refused(
    precision: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a run that rounds elsewhere than its precision says, before any data is read."""
    monkeypatch.setattr(compilation, "check_compiler", lambda: None)
    given = [*TRAIN, "--framework", "torch", "--precision", precision, "--compile"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert f"--compile with precision {precision}, expected fp32 or fp64" in error
    assert len(error.splitlines()) == 1
    for fine in ("fp32", "fp64"):
        compilation.check_precision(fine)


def test_never_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a network that runs uncompiled, and says nothing, past PyTorch's limit of programs.

    Nothing is compiled to machine code here: how programs are counted does not depend on that.
    """
    monkeypatch.setattr(compilation, "check_compiler", lambda: None)
    monkeypatch.setattr(compilation, "MOST", 9)  # one more than PyTorch has by itself
    made, traced = compilation.Compiled(network().eval()), list[int]()

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        traced.append(1)
        return graph

    torch.compiler.reset()
    made.fast = torch.compile(made.network, dynamic=False, backend=backend)
    with torch.inference_mode():
        for side in range(1, 10):
            made(torch.zeros(1, 3, side, 4))
        with pytest.raises(InputError, match=r"more than 9 programs.*images of 1x3x10x4") as caught:
            made(torch.zeros(1, 3, 10, 4))
    torch.compiler.reset()
    assert len(traced) == 9
    assert "\n" not in str(caught.value)


def test_float64_is_refused() -> None:
    """Catches exact numbers by a compiler."""
    with pytest.raises(InputError, match="dtype float64"):
        Predictor(network().double(), "float64").compile()


@needs_compiler
@pytest.mark.long
def test_a_compiled_step_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a step that trains otherwise, statistics that are not updated, and NaN as 0.

    In float64: a loss or parameter may be off by what sums in another order round to.
    """
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    config = dataclasses.replace(MODELS["genet-mean8"], depth=10, width=1)
    arrays = draw.weights(config, 0)
    rng = draw.generator(0, "compile")
    images, labels = rng.random((2, 32, 32, 3)), rng.integers(0, 10, 2, np.int32)
    batch = Batch(images, (labels,), {}, np.arange(2))
    optimizer, loss = Optimizer("sgd", lr=0.1), Loss("cross_entropy")
    made = [Trainer(config, optimizer, loss, arrays, precision="fp64") for _ in range(2)]
    said: list[str] = []
    made[0].compile(said.append)
    for _ in range(2):
        ours, theirs = (trainer.step(batch, 0.1) for trainer in made)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    ours, theirs = (trainer.evaluate(batch) for trainer in made)
    np.testing.assert_array_equal(ours[0], theirs[0])
    assert ours[1] == pytest.approx(theirs[1], rel=1e-12)
    assert len(said) == 2  # a step, and a prediction
    one, other = (trainer.snapshot().arrays for trainer in made)
    for key, array in other.items():
        np.testing.assert_allclose(one[key], array, rtol=1e-10, atol=1e-13, err_msg=key)
        assert not np.array_equal(array, arrays[key]) or "fc" in key or array.ndim == 0, key
    for trainer in made:
        with torch.no_grad():
            next(iter(trainer.parameters.values())).fill_(torch.nan)
    faults = [trainer.step(batch, 0.1).fault for trainer in made]
    assert faults[0] == faults[1]
    assert "nan" in faults[0]
