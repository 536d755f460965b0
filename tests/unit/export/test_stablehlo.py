"""JAX's own deployment files: what they compute, what they say, and faults that must show."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from parity import cli, export
from parity.export import stablehlo, third_backend
from parity.export.stablehlo import open_program
from parity.model_checks.small_networks import small
from parity.spec import draw
from parity.spec.errors import InputError
from weights_convert import load

DEMO = Path(__file__).resolve().parents[3] / "parity" / "demo" / "enet.safetensors"
SIZE = "32x64"

Capture = pytest.CaptureFixture[str]


@pytest.mark.parametrize(("model", "batch"), [("genet-theta-plus", 1), ("icnet", None)])
def test_what_a_file_computes(model: str, batch: int | None, tmp_path: Path) -> None:
    """Catches outputs that are lost, in another order, or of a batch that was fixed."""
    config, size = small(model)
    arrays = draw.weights(config, 3)
    path = tmp_path / "network.stablehlo"
    path.write_bytes(stablehlo.serialized(config, arrays, size, batch))
    program = open_program(path)
    assert program.inputs == (("float32", (batch or "batch", *size, 3)),)
    checks = third_backend.of_program(program, config, arrays)
    assert [c.reference for c in checks] == list(export.outputs_of(config))
    assert all(c.ok and c.error < 1e-4 for c in checks), checks[0].sentence()
    assert not any(c.ok for c in third_backend.of_program(program, config, draw.weights(config, 4)))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stablehlo") / "enet.stablehlo"
    arguments = ["export", "enet", str(path), "--format", "stablehlo", "--weights", str(DEMO)]
    assert cli.main([*arguments, "--size", SIZE]) == 0
    return path


def test_the_file_stands_alone(exported: Path) -> None:
    """Catches a file that needs this program, or its weights, to be run."""
    program = jax.export.deserialize(bytearray(exported.read_bytes()))
    assert {"cpu", "cuda", "tpu"} <= set(program.platforms)
    images = draw.generator(0, "images").random((1, 3, 32, 64), np.float32)
    (found,) = program.call(images.transpose(0, 2, 3, 1))
    source = load(DEMO)
    expected = third_backend.reference(source.config, source.arrays, "float64", images)["logits"]
    apart = np.asarray(found).transpose(0, 3, 1, 2) - expected
    assert abs(apart).max() < 1e-3 * abs(expected).max()


def test_the_manifest_beside_it(exported: Path, capsys: Capture, tmp_path: Path) -> None:
    """Catches a file that does not say what it is, or says it of another file."""
    said, source = open_program(exported).manifest, load(DEMO)
    assert said is not None
    assert (said.network, said.config) == (source.network, source.config.describe())
    assert (said.labels, said.source_sha256) == (source.labels, source.sha256)
    assert said.preprocessing.size == (32, 64)
    assert cli.main(["inspect", str(exported)]) == 0
    out = capsys.readouterr().out
    for text in ("stablehlo, by jax.export", "1x32x64x3 float32", "1x32x64x20 float32", "enet"):
        assert text in out
    alone = tmp_path / "alone.stablehlo"
    alone.write_bytes(exported.read_bytes())
    assert cli.main(["inspect", str(alone)]) == 0
    assert "none: unverified" in capsys.readouterr().out


@pytest.mark.parametrize("beside", [True, False])
def test_a_damaged_file(beside: bool, exported: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches a traceback, or a changed byte that a manifest beside the file should tell of."""
    path = tmp_path / exported.name
    data = bytearray(exported.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data if beside else data[: len(data) // 3])
    if beside:
        own = Path(f"{exported}.manifest.json")
        (tmp_path / own.name).write_bytes(own.read_bytes())
    assert cli.main(["inspect", str(path)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert str(path) in err
    (tmp_path / "text.stablehlo").write_text("no program")
    with pytest.raises(InputError, match=r"no program of jax\.export's"):
        open_program(tmp_path / "text.stablehlo")


def test_a_wrong_file_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Catches a file that takes its name before it was read back and compared."""
    target, right = tmp_path / "enet.stablehlo", stablehlo.serialized
    target.write_bytes(b"old")

    def wrong(config: object, arrays: dict, *more: object) -> bytes:
        changed = {k: a * 1.5 if k.endswith("conv.weight") else a for k, a in arrays.items()}
        return right(config, changed, *more)  # type: ignore[arg-type]  # as given

    monkeypatch.setattr(stablehlo, "serialized", wrong)
    assert cli.main(["export", "enet", str(target), "--weights", str(DEMO), "--size", SIZE]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert f"cannot write {target}: read back and run, enet.stablehlo: logits" in err
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["enet.stablehlo"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["enet", "x.onnx", "--format", "stablehlo"], "ending in .stablehlo"),
        (["enet", "x.stablehlo", "--format", "onnx"], "ending in .onnx"),
        (["enet", "x.stablehlo", "--framework", "torch"], "JAX's own"),
        (["enet", "x.stablehlo", "--size", "4x4"], "7x7"),
    ],
)
def test_bad_input(
    arguments: list[str],
    named: str,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Catches a traceback, a second line, or something written."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *arguments, "--weights", str(DEMO)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
    assert not list(tmp_path.iterdir())
