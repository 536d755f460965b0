"""Checkpoints carried from file to file: bit by bit, or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_formats import SMALL, equal

import torch_impl.state
from parity.cli import main
from parity.console import working
from parity.spec.data.cityscapes import CITYSCAPES
from parity.spec.data.preprocessing import Preprocessing
from parity.spec.draw import weights
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from parity.spec.networks.enet import ENetConfig
from parity.spec.networks.genet import GENetConfig
from weights_convert import convert, dialects, formats, load, manifest
from weights_convert.formats import sidecar
from weights_convert.hashes import file_sha256
from weights_convert.optimizer import parameters

Capture = pytest.CaptureFixture[str]

CONFIGS = {
    "20 classes": ENetConfig(),
    "12 classes": ENetConfig(num_classes=12),
    "ReLU, PReLU": ENetConfig(num_classes=12, encoder_relu=True, decoder_relu=False),
}
ARRAYS = {name: weights(config, 0) for name, config in CONFIGS.items()}

# Kind of checkpoint -> file name, `--to`.
KINDS = {
    "pth": ("x.pth", "torch"),
    "nested": ("x.tar", "torch"),
    "torch safetensors": ("torch.safetensors", "torch"),
    "jax safetensors": ("jax.safetensors", "jax"),
    "orbax": ("x.orbax", "jax"),
}


def write(path: Path, kind: str, config: ENetConfig, arrays: dict[str, np.ndarray]) -> Path:
    """A checkpoint such as other people's programs write, without a manifest."""
    _, dialect = KINDS[kind]
    named = dialects.to_dialect(config, arrays, dialect)
    if kind == "nested":
        state = {f"module.{k}": torch.tensor(v) for k, v in named.items()}
        torch.save({"epoch": 7, "state_dict": state, "optimizer": {"param_groups": []}}, path)
    else:
        formats.write(path, formats.format_for(path), named, {})
    return path


def fails(capsys: Capture, *argv: object) -> str:
    """The one line with which `parity convert` refuses."""
    assert main(["convert", *map(str, argv)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("parity convert: error: ")
    return err


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """One file of every kind and config, written when it is first asked for."""
    folder = tmp_path_factory.mktemp("sources")

    def source(kind: str, name: str = "20 classes") -> Path:
        path = folder / name / KINDS[kind][0]
        path.parent.mkdir(exist_ok=True)
        return path if path.exists() else write(path, kind, CONFIGS[name], ARRAYS[name])

    return source


@pytest.fixture
def pth(sources: Callable[[str, str], Path]) -> Path:
    return sources("pth")


@pytest.mark.parametrize("target", ["pth", "torch safetensors", "jax safetensors", "orbax"])
@pytest.mark.parametrize("source", KINDS)
def test_every_direction(
    sources: Callable, tmp_path: Path, source: str, target: str, capsys: Capture
) -> None:
    """Catches a direction in which a bit, a name or an order is lost."""
    name, dialect = KINDS[target]
    assert main(["convert", str(sources(source)), str(tmp_path / name), "--to", dialect]) == 0
    assert capsys.readouterr().err == ""
    written = formats.read(tmp_path / name)
    config, expected = CONFIGS["20 classes"], ARRAYS["20 classes"]
    assert written.format == formats.format_for(tmp_path / name)
    assert equal(written.arrays, dialects.to_dialect(config, expected, dialect))


@pytest.mark.parametrize("name", ["12 classes", "ReLU, PReLU"])
def test_every_variant_all_the_way_round(sources: Callable, tmp_path: Path, name: str) -> None:
    """Catches a variant of the network that is taken for another on the way."""
    path = sources("nested", name)
    for step in ("a.safetensors", "b.safetensors", "c", "d.pt"):
        convert(path, tmp_path / step)
        path = tmp_path / step
    found = load(path)
    assert equal(found.arrays, ARRAYS[name])
    assert found.config == CONFIGS[name]


def test_default_names(sources: Callable, tmp_path: Path) -> None:
    """Catches safetensors that stay in the names of their own framework."""
    jax_named = convert(sources("torch safetensors"), tmp_path / "a.safetensors")
    torch_named = convert(sources("jax safetensors"), tmp_path / "b.safetensors")
    assert (jax_named.dialect, torch_named.dialect) == ("jax", "torch")
    assert convert(sources("jax safetensors"), tmp_path / "c.pth").dialect == "torch"
    assert convert(sources("pth"), tmp_path / "d.pth", to="jax").dialect == "jax"
    assert load(tmp_path / "d.pth").dialect == "jax"


def test_summary(sources: Callable, tmp_path: Path, capsys: Capture) -> None:
    """Catches a summary that hides what was not carried, or counts wrongly."""
    assert main(["convert", str(sources("nested")), str(tmp_path / "x.safetensors")]) == 0
    out = capsys.readouterr().out
    assert "not carried: epoch, optimizer\n" in out
    assert "enet: num_classes 20, encoder_relu False, decoder_relu True" in out
    model = torch_impl.state.build(CONFIGS["20 classes"], ARRAYS["20 classes"])
    parameters = sum(p.numel() for p in model.parameters())
    assert f"{len(model.state_dict())}, with {parameters:,} parameters" in out
    assert f"{(tmp_path / 'x.safetensors').stat().st_size:,} bytes" in out


def test_real_checkpoint(shared: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches the public checkpoint refused, or a number of it changed."""
    source = shared / "checkpoints" / "enet_cityscapes_20c.pth"
    for step in ("a.safetensors", "b.orbax", "c.pth"):
        assert main(["convert", str(source), str(tmp_path / step), "--labels", "void-last"]) == 0
        source = tmp_path / step
    original = torch.load(
        shared / "checkpoints" / "enet_cityscapes_20c.pth", map_location="cpu", weights_only=True
    )
    found = torch.load(tmp_path / "c.pth", weights_only=True)
    assert [f"module.{key}" for key in found] == list(original)
    assert all(found[k.removeprefix("module.")].equal(v) for k, v in original.items())
    assert load(tmp_path / "c.pth", "enet").labels == "void-last"
    assert (
        "enet: num_classes 20, encoder_relu False, decoder_relu True, void-last"
        in capsys.readouterr().out
    )


def loaded_modules(*argv: object) -> set[str]:
    """The frameworks that a process of its own has loaded after `parity convert`."""
    code = (
        "import sys; from parity.cli import main\n"
        f"assert main({['convert', *map(str, argv)]!r}) == 0\n"
        "print('loaded', *{'torch', 'jax', 'orbax', 'flax'} & sys.modules.keys())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=os.getcwd()
    )
    return set(process.stdout.splitlines()[-1].split()[1:])


def test_no_framework_is_loaded_in_vain(sources: Callable, tmp_path: Path) -> None:
    """Catches seconds spent on importing what no file needs."""
    safetensors = tmp_path / "a.safetensors"
    assert loaded_modules(sources("torch safetensors"), safetensors) == set()
    assert loaded_modules(sources("pth"), safetensors) == {"torch"}


def test_named_variants(sources: Callable, tmp_path: Path, capsys: Capture) -> None:
    """Catches a number of classes that was not asked for."""
    assert load(sources("pth", "12 classes"), "enet-camvid").config == CONFIGS["12 classes"]
    assert load(sources("pth", "12 classes"), "enet").config == CONFIGS["12 classes"]
    message = fails(capsys, sources("pth"), tmp_path / "x.pth", "--model", "enet-camvid")
    assert "has 20 classes, but enet-camvid has 12" in message
    message = fails(capsys, sources("pth"), tmp_path / "x.pth", "--model", "unet")
    assert "unknown model 'unet', expected one of enet, enet-camvid" in message
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_manifest(pth: Path, tmp_path: Path, name: str) -> None:
    """Catches a manifest that is lost, or says something else than what is there."""
    assert load(pth).manifest is None
    done = convert(pth, tmp_path / "first.safetensors", labels="void-first")
    first = load(tmp_path / "first.safetensors")
    convert(tmp_path / "first.safetensors", tmp_path / name, to="torch")
    found = load(tmp_path / name)
    assert found.manifest == manifest.Manifest(
        network="enet",
        config={"num_classes": 20, "encoder_relu": False, "decoder_relu": True},
        dialect="torch",
        labels="void-first",  # from the first conversion
        preprocessing=Preprocessing((512, 1024), classes=("void", *CITYSCAPES.classes), void=0),
        optimizer=None,
        source_sha256=first.sha256,
        tensors=done.manifest.tensors,  # the same in every format
        tensors_sha256=done.manifest.tensors_sha256,
        tool_version=manifest.tool_version(),
    )
    convert(tmp_path / name, tmp_path / "last.pth", labels="void-last")
    assert load(tmp_path / "last.pth").labels == "void-last"


def test_hash_of_a_file_and_of_a_directory(pth: Path, tmp_path: Path) -> None:
    """Catches a hash that is not of the bytes, or does not see a renamed file."""
    assert load(pth).sha256 == hashlib.sha256(pth.read_bytes()).hexdigest()
    hashes = set()
    for name in ("a", "b"):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text("same")
        hashes.add(file_sha256(tmp_path / "x"))
        (tmp_path / "x" / name).unlink()
    assert len(hashes) == 2


def change_tensor(path: Path) -> None:
    contents = formats.read(path)
    contents.arrays["transposed_conv.kernel"][0, 0, 0, 0] += 1
    path.unlink()
    formats.write(path, "safetensors", contents.arrays, contents.metadata)


def change_manifest(**entries: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        contents = formats.read(path)
        said = sidecar.unseal(contents.metadata["parity"], "it") | entries
        path.unlink()
        formats.write(path, "safetensors", contents.arrays, {"parity": sidecar.seal(said)})

    return change


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (change_tensor, "does not hold the tensors its manifest was written for"),
        (change_manifest(network="erfnet"), "says network erfnet, found enet"),
        (change_manifest(config={"num_classes": 3}), "says config {'num_classes': 3}, found"),
        (change_manifest(dialect="torch"), "says dialect torch, found jax"),
        (change_manifest(labels="void"), "says labels 'void', expected one of void-last"),
        (change_manifest(version=99), "is not of version 2 of parity-suite's"),
        (change_manifest(more=1), "expected exactly network, config"),
        (change_manifest(tensors=[]), "expected objects as config and tensors"),
        (change_manifest(preprocessing={"mean": [0, 0, 0]}), "three numbers with a decimal point"),
    ],
)
def test_manifest_that_does_not_fit(
    pth: Path, tmp_path: Path, change: Callable[[Path], None], what: str
) -> None:
    """Catches weights that are not those which the manifest speaks of."""
    convert(pth, tmp_path / "x.safetensors")
    change(tmp_path / "x.safetensors")
    with pytest.raises(InputError, match=what):
        load(tmp_path / "x.safetensors")


def test_manifests_of_others_and_damaged_ones(pth: Path, tmp_path: Path) -> None:
    """Catches a foreign file taken for ours, and a damaged one passed over."""
    shutil.copy(pth, tmp_path / "x.pth")
    beside = tmp_path / "x.pth.manifest.json"
    beside.write_text('{"tool": "another"}')
    assert load(tmp_path / "x.pth").manifest is None
    version_1 = '{"tool": "parity-suite", "version": 1}'
    for text, what in (("{", "no JSON object"), (version_1, "of an older version")):
        beside.write_text(text)
        with pytest.raises(InputError, match=what):
            load(tmp_path / "x.pth")
    beside.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="damaged"):
        load(tmp_path / "x.pth")


def test_bad_sources(tmp_path: Path, capsys: Capture) -> None:
    """Catches a traceback, a page of usage, or a file written for a source that is none."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "empty.pth").touch()
    target = tmp_path / "x.safetensors"
    for name, what in (
        ("missing.pth", "does not exist"),
        ("", "is a directory, but not an Orbax checkpoint"),
        ("empty.pth", "is empty"),
        ("empty.pth/x", "does not exist"),
        ("x" * 300, "File name too long"),
    ):
        message = fails(capsys, tmp_path / "in" / name, target)
        assert what in message
        assert str(tmp_path / "in" / name) in message
    assert os.listdir(tmp_path) == ["in"]


def test_offending_keys(tmp_path: Path, capsys: Capture) -> None:
    """Catches a checkpoint with a fault converted all the same, or only one fault told."""
    arrays = dict(ARRAYS["20 classes"])
    arrays["regular9_9.weight"] = arrays.pop("regular1_1.ext_conv1.0.weight")
    arrays["regular1_2.ext_conv1.0.weight"] = arrays["regular1_2.ext_conv1.0.weight"][:, :3]
    formats.write(tmp_path / "in.pth", "torch", arrays, {})
    message = fails(capsys, tmp_path / "in.pth", tmp_path / "x.orbax")
    assert "in.pth: 3 tensors do not match" in message
    assert "regular1_1.ext_conv1.0.weight is missing" in message
    assert "regular9_9.weight is not expected" in message
    assert "regular1_2.ext_conv1.0.weight is 16x3x1x1, expected 16x64x1x1" in message
    assert os.listdir(tmp_path) == ["in.pth"]


def test_bad_targets(pth: Path, tmp_path: Path, capsys: Capture) -> None:
    """Catches work done, or something lost, for a target that cannot be written."""
    (tmp_path / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").touch()
    for name, what in (
        ("x.onnx", "unknown suffix '.onnx', expected one of .pth"),
        ("nothing/x.pth", "is not a folder"),
        ("file/x.pth", "is not a folder"),
        ("folder", "not an Orbax checkpoint: not replaced"),
        ("file", "is not an Orbax checkpoint: not replaced"),
        ("x" * 300, "File name too long"),
    ):
        message = fails(capsys, pth, tmp_path / name)
        assert what in message
        assert str(tmp_path / name) in message
    (tmp_path / "folder").rename(tmp_path / "folder.pth")
    assert "is a directory, expected a file" in fails(capsys, pth, tmp_path / "folder.pth")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder.pth"]
    assert os.listdir(tmp_path / "folder.pth") == ["kept"]
    assert (tmp_path / "file").read_text() == "kept"


def test_source_and_target_in_one(sources: Callable, tmp_path: Path, capsys: Capture) -> None:
    """Catches a source that its own conversion overwrites."""
    shutil.copy(sources("pth"), tmp_path / "x.pth")
    shutil.copytree(sources("orbax"), tmp_path / "x.orbax")
    (tmp_path / "link.pth").symlink_to("x.pth")
    os.link(tmp_path / "x.pth", tmp_path / "hard.pth")
    (tmp_path / "x.orbax" / "inside.pth").write_bytes((tmp_path / "x.pth").read_bytes())
    for source, target, what in (
        ("x.pth", "x.pth", "are the same"),
        ("x.pth", "../" + tmp_path.name + "/x.pth", "are the same"),
        ("x.pth", "link.pth", "are the same"),
        ("x.pth", "hard.pth", "are the same"),
        ("x.orbax", "x.orbax", "are the same"),
        ("x.orbax", "x.orbax/y.pth", "one lies in the other"),
        ("x.orbax/inside.pth", "x.orbax", "one lies in the other"),
    ):
        assert what in fails(capsys, tmp_path / source, tmp_path / target)
    assert equal(load(tmp_path / "x.pth").arrays, ARRAYS["20 classes"])
    assert equal(load(tmp_path / "x.orbax").arrays, ARRAYS["20 classes"])


def test_choices(pth: Path, tmp_path: Path) -> None:
    """Catches an unknown dialect or order of labels that passes for a known one."""
    with pytest.raises(InputError, match="to is 'keras', expected one of torch, jax"):
        convert(pth, tmp_path / "x.pth", to="keras")
    with pytest.raises(InputError, match="labels is 'none', expected one of void-last, void-first"):
        convert(pth, tmp_path / "x.pth", labels="none")
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_replaces_what_is_there(sources: Callable, tmp_path: Path, name: str) -> None:
    """Catches remains of the old checkpoint, or of temporary files, beside the new one."""
    for source, labels in (("12 classes", "void-first"), ("20 classes", None)):
        convert(sources("pth", source), tmp_path / name, labels=labels)
        expected = [name] if name != "x.pth" else [name, f"{name}.manifest.json"]
        assert sorted(os.listdir(tmp_path)) == expected
    found = load(tmp_path / name)
    assert found.config.num_classes == 20
    assert found.labels is None


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_a_full_disk_costs_nothing(
    pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str
) -> None:
    """Catches an old checkpoint lost, or a temporary file left, when writing fails."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    formats.write(tmp_path / name, formats.format_for(Path(name)), SMALL, {"parity": "{}"})
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"weights_convert.replacing.os.{call}", full)
            patch.setattr("weights_convert.replacing._exchange", lambda *_: False)
            message = fails(capsys, pth, tmp_path / name)
        assert f"cannot write {tmp_path / name}: No space left on device" in message
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors"])
def test_what_was_written_is_read_back(
    pth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Catches a file that does not hold what it should counted as written."""
    real = formats.write

    def wrong(path: Path, format: str, arrays: dict, metadata: dict, optimizer: None) -> None:
        key = next(iter(arrays))
        real(path, format, {**arrays, key: -arrays[key]}, metadata, optimizer)

    monkeypatch.setattr(formats, "write", wrong)
    with pytest.raises(InputError, match=r"read back, .* differ"):
        convert(pth, tmp_path / name)
    assert not os.listdir(tmp_path)


def test_names_that_a_terminal_would_obey(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a key of the file that writes lines of its own into the summary or the error."""
    arrays = {k: torch.from_numpy(np.array(v)) for k, v in weights(MODELS["enet"], 0).items()}
    torch.save({"state_dict": arrays, "x\x1b[2J\nverified": 1}, tmp_path / "a")
    assert main(["convert", str(tmp_path / "a"), str(tmp_path / "b.npz")]) == 0
    assert "not carried: x\\x1b[2J\\nverified\n" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "no\nsuch"), str(tmp_path / "b.npz")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("name", [b"\xff.npz", "\u00e9.npz".encode()])
def test_a_name_that_the_output_cannot_show(tmp_path: Path, name: bytes) -> None:
    """Catches a traceback after the work is done, because a name cannot be printed."""
    arrays = weights(GENetConfig(depth=10, width=1), 0)
    formats.write(tmp_path / "in", "safetensors", arrays, {})
    command = [sys.executable, "-m", "parity.cli", "convert", tmp_path / "in"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii:strict"}
    target = os.fsencode(tmp_path) + b"/" + name
    done = subprocess.run([*command, target], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"verified  read back" in done.stdout


def test_progress_of_a_path_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a path such as a[/b].npz taken for markup: a traceback on a terminal."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    with working() as progress:
        progress("reading a[/b].npz")
    assert "a[/b].npz" in sys.stderr.getvalue()


class Terminal(io.StringIO):
    """Says that a person looks at it."""

    def isatty(self) -> bool:
        return True


def test_lost_tensors_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches trained weights, or their moments, that go unnamed behind a counter."""
    config = MODELS["erfnet-mindspore"]
    arrays = {k: torch.from_numpy(np.array(v)) for k, v in weights(config, 0).items()}
    ones = {k: torch.ones(arrays[k].shape) for k in parameters(config)}
    state = {i: {"momentum_buffer": array} for i, array in enumerate(ones.values())}
    optimizer = {"state": state, "param_groups": [{"params": list(state)}]}
    torch.save({"state_dict": arrays, "optimizer": optimizer}, tmp_path / "a.pth")
    command = ["convert", str(tmp_path / "a.pth"), str(tmp_path / "b.ckpt")]
    assert main([*command, "--model", "erfnet-mindspore"]) == 0
    out = capsys.readouterr().out
    for name in ("weight", "bias"):
        assert f" encoder.output_conv.{name}," in out
        assert f" optimizer.momentum_buffer.encoder.output_conv.{name}," in out
