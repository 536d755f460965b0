"""File formats: what goes in comes out, whatever else comes is refused in one line."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import shutil
import stat
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import torch
from flax import nnx, serialization
from safetensors.numpy import save_file

from parity.spec.errors import InputError
from weights_convert import formats
from weights_convert.replacing import replacing

SUFFIX = {"torch": ".pth", "mindspore": ".ckpt"}  # else the format's name
SMALL = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.count": np.array(2**40)}


class Harmful:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"mkdir {self.path}",)


def equal(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether two sets of arrays have the same names, dtypes, shapes and bits."""

    def facts(arrays: dict[str, np.ndarray]) -> dict:
        return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}

    return facts(found) == facts(expected)


def refusal(path: Path) -> str:
    """The one line with which a file is refused."""
    with pytest.raises(InputError) as caught:
        formats.read(path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def torch_file(tmp_path: Path) -> Path:
    torch.save({k: torch.tensor(v) for k, v in SMALL.items()}, tmp_path / "small.pth")
    return tmp_path / "small.pth"


@pytest.fixture(scope="module")
def orbax_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("orbax") / "small"
    formats.write(path, "orbax", SMALL, {"parity": "{}"})
    return path


@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_dtype_and_layout_survives(tmp_path: Path, format: str) -> None:
    """Catches a cast, a lost sign of zero or NaN payload, and memory written as it lies."""
    base = np.array([[0.0, -0.0, np.nan], [np.inf, 1.5, -2.0]])
    arrays = {f"x.{name}": base.astype(formats.numpy_dtype(name)) for name in formats.DTYPES[:4]}
    arrays |= {"x.int64": np.array([-(2**62), 2**40 + 1]), "x.int32": np.array([7], np.int32)}
    arrays |= {"x.bool": np.array([True, False]), "y.scalar": np.array(2**33 + 1)}
    arrays |= {"y.transposed": base.T, "y.strided": np.arange(10)[::3]}
    arrays["x.float32"].view(np.uint32)[0, 2] = 0x7FC00001
    if format == "npz":
        with pytest.raises(InputError, match="bfloat16, which NumPy"):
            formats.write(tmp_path / "x", format, arrays, {})
        assert not os.listdir(tmp_path)
        del arrays["x.bfloat16"]
    path = tmp_path / f"x{SUFFIX.get(format, f'.{format}')}"
    formats.write(path, format, arrays, {"parity": '"said"'})
    found = formats.read(path)
    assert found.format == format
    assert equal(found.arrays, arrays)
    assert found.metadata["parity"] == '"said"'
    assert all(array.flags.writeable for array in found.arrays.values())


@pytest.mark.parametrize("format", formats.FORMATS)
@pytest.mark.parametrize("dtype", ["uint8", "complex64", ">f4"])
def test_other_dtypes_are_refused(tmp_path: Path, format: str, dtype: str) -> None:
    """Catches a tensor cast to what the format can hold."""
    arrays = {"good": np.zeros(2), "bad": np.zeros(2, dtype)}
    with pytest.raises(InputError, match=f"bad is {dtype}; expected float64"):
        formats.write(tmp_path / "x", format, arrays, {})
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("format", formats.FORMATS)
def test_content_decides(tmp_path: Path, format: str) -> None:
    """Catches a format told by the suffix."""
    for name in ("x.pth", "x.safetensors", "x.orbax", "x"):
        formats.write(tmp_path / name, format, SMALL, {})
        assert formats.sniff(tmp_path / name) == format
        assert equal(formats.read(tmp_path / name).arrays, SMALL)
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("x.PTH", "torch"),
        ("x.pt", "torch"),
        ("x.pth.tar", "torch"),
        ("x.safetensors", "safetensors"),
        ("x.orbax", "orbax"),
        ("x.msgpack", "msgpack"),
        ("x.npz", "npz"),
        ("x", "orbax"),
    ],
)
def test_suffix_of_an_output(name: str, format: str) -> None:
    """Catches an output in another format than its name says."""
    assert formats.format_for(Path(name)) == format


def test_unknown_suffix_lists_the_known() -> None:
    """Catches a format guessed for a suffix that is none of ours."""
    with pytest.raises(InputError, match=r"'.onnx', expected one of .pth, .pt, .tar, .safetensors"):
        formats.format_for(Path("x.onnx"))


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"hello, this is no checkpoint at all", "of no known format"),
        (b'{"a": 1,{', "of no known format"),
        (pickle.dumps([1, 2]), "a pickle, but not one of torch.save"),
        (b"PK\x03\x04" + bytes(100), "truncated or damaged"),
    ],
)
def test_files_of_no_known_format(tmp_path: Path, data: bytes, what: str) -> None:
    """Catches a file taken for a checkpoint by its suffix."""
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    assert what in refusal(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    """Catches every zip archive taken for a torch file."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("a.txt", "hello")
    assert "neither a torch file" in refusal(tmp_path / "x.zip")


def test_nothing_there_and_a_plain_directory(tmp_path: Path) -> None:
    """Catches a traceback for a wrong path."""
    assert "does not exist" in refusal(tmp_path / "nothing.pth")
    assert "not an Orbax checkpoint" in refusal(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_of_both_ages(tmp_path: Path, legacy: bool) -> None:
    """Catches files from before PyTorch 1.6 refused."""
    state = OrderedDict((k, torch.tensor(v)) for k, v in SMALL.items())
    torch.save(state, tmp_path / "x", _use_new_zipfile_serialization=not legacy)
    assert equal(formats.read(tmp_path / "x").arrays, SMALL)


@pytest.mark.parametrize("nest", ["state_dict", "model_state_dict", "model"])
def test_nested_state_dict(tmp_path: Path, nest: str) -> None:
    """Catches a training checkpoint refused, and what it holds besides dropped unsaid."""
    state = {k: torch.nn.Parameter(torch.tensor(v), v.dtype != int) for k, v in SMALL.items()}
    others = {"epoch": 3, "miou": np.float64(0.5), "best": np.float32(0.25), "optimizer": {"a": []}}
    torch.save({"epoch": 3, nest: state, **others}, tmp_path / "x")
    found = formats.read(tmp_path / "x")
    assert equal(found.arrays, SMALL)
    assert found.skipped == ("epoch", "miou", "best", "optimizer")


def test_views_of_one_storage(tmp_path: Path) -> None:
    """Catches a view read by its storage instead of its strides."""
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({"a": base.T, "b": base[1:3, ::2], "c": base}, tmp_path / "x")
    found = formats.read(tmp_path / "x").arrays
    assert equal(found, {k: v.numpy() for k, v in torch.load(tmp_path / "x").items()})


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ([1, 2], "holds a list"),
        (5, "holds a int"),
        ({"a": "b", "c": "d"}, "'a' (str), 'c' (str)"),
        ({"state_dict": {"a": 1}}, "'a' (int)"),
        ({"epoch": 1, "optimizer": {}}, "'epoch' (int), 'optimizer' (dict)"),
        ({0: torch.zeros(1)}, "the key 0"),
        ({}, "holds nothing"),
        ({"model": {"a": torch.zeros(1)}, "state_dict": {}}, "several networks: state_dict, model"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "a is complex64"),
        ({"a": torch.eye(2).to_sparse()}, "a is not dense"),
        ({"a": torch.zeros(1, device="meta")}, "a is not dense"),
        ({"a\nb": torch.zeros(1)}, r"'a\\nb'"),
    ],
)
def test_torch_files_of_something_else(tmp_path: Path, content: object, what: str) -> None:
    """Catches anything but named tensors taken for a state dict."""
    torch.save(content, tmp_path / "x.pth")
    assert what.replace("\\\\", "\\") in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("way", ["bare", "nested", "legacy", "plain pickle"])
def test_nothing_in_a_file_is_executed(tmp_path: Path, way: str) -> None:
    """Catches a file that runs a command when it is read."""
    path, trace = tmp_path / "x.pth", tmp_path / "executed"
    if way == "plain pickle":
        path.write_bytes(pickle.dumps(Harmful(trace)))
    else:
        content = {"state_dict": {}, "x": Harmful(trace)} if way == "nested" else Harmful(trace)
        torch.save(content, path, _use_new_zipfile_serialization=way != "legacy")
        assert "system" in refusal(path)
    refusal(path)
    assert not trace.exists()
    os.system(f"mkdir {trace}")  # or the test could not fail
    assert trace.exists()


@pytest.mark.parametrize("keep", [10, 100, -200, -1])
def test_truncated_torch_file(torch_file: Path, keep: int) -> None:
    """Catches half a file read as a whole one."""
    torch_file.write_bytes(torch_file.read_bytes()[:keep])
    assert "truncated or damaged" in refusal(torch_file)


def test_checksums_of_torch_files(torch_file: Path) -> None:
    """Catches flipped bits, which torch.load does not see."""
    data = torch_file.read_bytes()
    numbers = SMALL["a.weight"].tobytes()
    assert data.count(numbers) == 1
    torch_file.write_bytes(data.replace(numbers, numbers[:-1] + b"\x00"))
    assert torch.load(torch_file)["a.weight"][1, 2] != 5
    assert "damaged: Bad CRC-32" in refusal(torch_file)


def test_torch_files_without_checksums(tmp_path: Path) -> None:
    """Catches files whose checksums PyTorch was told not to compute taken for damaged."""
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({k: torch.tensor(v) for k, v in SMALL.items()}, tmp_path / "x")
    finally:
        torch.serialization.set_crc32_options(True)
    assert equal(formats.read(tmp_path / "x").arrays, SMALL)


@pytest.mark.parametrize("keep", [12, 100, -1])
def test_truncated_safetensors(tmp_path: Path, keep: int) -> None:
    """Catches half a file read as a whole one."""
    save_file(SMALL, tmp_path / "x")
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:keep])
    assert "not a whole safetensors file" in refusal(tmp_path / "x")


def test_safetensors_of_another_dtype(tmp_path: Path) -> None:
    """Catches a KeyError for a dtype that is not ours."""
    save_file({"a": np.zeros(2, np.uint8)}, tmp_path / "x")
    assert "a is U8" in refusal(tmp_path / "x")


@pytest.mark.parametrize("as_state", [False, True])
def test_what_nnx_users_save(tmp_path: Path, as_state: bool) -> None:
    """Catches arrays of JAX restored as JAX's, and an `nnx.State` saved as it is refused."""

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.kernel = nnx.Param(jnp.arange(6.0).reshape(2, 3))
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    state = nnx.state(Net())
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "x", state if as_state else nnx.to_pure_dict(state))
    found = formats.read(tmp_path / "x").arrays
    assert set(found) == {"kernel", "norm.bias", "norm.mean", "norm.scale", "norm.var"}
    assert all(type(array) is np.ndarray for array in found.values())
    np.testing.assert_array_equal(found["kernel"], np.arange(6.0).reshape(2, 3))


def test_orbax_reads_what_we_write(orbax_directory: Path) -> None:
    """Catches a directory that only we can read, or int64 halved where JAX holds none."""
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(orbax_directory)
    assert tree.keys() == {"a"}
    assert equal({f"a.{k}": v for k, v in tree["a"].items()}, SMALL)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_users_save(tmp_path: Path, save: Callable[..., None]) -> None:
    """Catches columns read as rows, and archives that NumPy does not read or write so."""
    arrays = SMALL | {"turned": np.asfortranarray(np.arange(6.0).reshape(2, 3))}
    save(tmp_path / "x.npz", **arrays)
    assert equal(formats.read(tmp_path / "x.npz").arrays, arrays)
    formats.write(tmp_path / "y.npz", "npz", arrays, {})
    with np.load(tmp_path / "y.npz") as found:
        assert equal(dict(found), arrays)


def npz(path: Path, name: str, header: dict[str, object], body: bytes) -> Path:
    """An archive of one .npy, with a header at will."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, file.getvalue() + body)
    return path


@pytest.mark.parametrize(
    ("name", "shape", "descr", "body", "what"),
    [
        ("a.npy", (2,), "<f4", bytes(4), "holds 4 bytes, but claims"),
        ("a.npy", (10**12, 10**9), "<f4", bytes(8), "holds 8 bytes, but claims"),
        ("a.npy", (-1,), "<f4", bytes(8), "holds 8 bytes, but claims"),
        ("a.npy", (1,), "|O", pickle.dumps(1), "holds objects"),
        ("a.txt.npy/b", (1,), "<f4", bytes(4), "expected only arrays"),
        (".npy", (1,), "<f4", bytes(4), "expected only arrays"),
        ("a.npy", (2**28,), "|b1", bytes(2**28), "would grow to"),
    ],
)
def test_hostile_npz(
    tmp_path: Path, name: str, shape: tuple[int, ...], descr: str, body: bytes, what: str
) -> None:
    """Catches objects unpickled, memory taken on a header's word, and a bomb unpacked."""
    header = {"descr": descr, "fortran_order": False, "shape": shape}
    path = npz(tmp_path / "x", name, header, body)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("b.npy", b"")
    assert what in refusal(path)


def test_npz_that_lies_about_its_size(tmp_path: Path) -> None:
    """Catches more unpacked than the archive says, and a name that comes twice."""
    header = {"descr": "|b1", "fortran_order": False, "shape": (2**22,)}
    path = npz(tmp_path / "x", "a.npy", header, bytes(2**22))
    data = path.read_bytes()
    size = (2**22 + 128).to_bytes(4, "little")
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, (1000).to_bytes(4, "little")))
    assert "Bad CRC" in refusal(path)
    path = npz(tmp_path / "y", "a.npy", header, bytes(2**22))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("a.npy", b"")
    assert "it holds a.npy more than once" in refusal(path)


def test_a_file_without_tensors(tmp_path: Path) -> None:
    """Catches an empty file read as a checkpoint."""
    save_file({}, tmp_path / "x")
    assert "holds no tensors" in refusal(tmp_path / "x")


def test_what_flax_users_save(tmp_path: Path) -> None:
    """Catches numbers as keys, Linen's collections, and JAX's arrays that Flax packs, refused."""

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.layers = nnx.List([nnx.Linear(2, 3, rngs=nnx.Rngs(0))])

    tree = nnx.to_pure_dict(nnx.state(Net()))
    (tmp_path / "x").write_bytes(serialization.msgpack_serialize(tree))
    assert set(formats.read(tmp_path / "x").arrays) == {"layers.0.kernel", "layers.0.bias"}
    variables = {"params": {"conv": {"kernel": jnp.ones(2, jnp.bfloat16)}}}
    variables["batch_stats"] = {"norm": {"mean": np.zeros(3)}}
    (tmp_path / "x").write_bytes(serialization.to_bytes(variables))
    found = formats.read(tmp_path / "x").arrays
    assert {name: array.dtype.name for name, array in found.items()} == {
        "conv.kernel": "bfloat16",
        "norm.mean": "float64",
    }


def test_flax_reads_what_we_write(tmp_path: Path) -> None:
    """Catches a file that only we can read, or int64 halved."""
    formats.write(tmp_path / "x", "msgpack", SMALL, {})
    tree = serialization.msgpack_restore((tmp_path / "x").read_bytes())
    assert tree.keys() == {"a"}
    assert equal({f"a.{k}": v for k, v in tree["a"].items()}, SMALL)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x81\xa1a\x01", "a is a int"),
        (b"\x81\xa1a" + b"\x81\xa1a" * 5000 + b"\xc0", "not a whole msgpack file"),
        (b"\x81\xa1a\xc7\xff\x01", "not a whole msgpack file"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "not a whole msgpack file"),
        (b"\x82\xa1a\xc0\xa1b\xc0", "holds nothing"),
        (b"\x82\xa1a\x01\xa1a\x01", "it holds a more than once"),
    ],
)
def test_hostile_msgpack(tmp_path: Path, data: bytes, what: str) -> None:
    """Catches a traceback, or memory taken on a length's word."""
    (tmp_path / "x").write_bytes(data)
    assert what in refusal(tmp_path / "x")


@pytest.mark.parametrize("lost", ["_METADATA", "manifest.ocdbt", "d"])
def test_damaged_orbax_directory(
    tmp_path: Path, orbax_directory: Path, lost: str, capfd: pytest.CaptureFixture
) -> None:
    """Catches a directory with a part missing read as whole, and pages printed about it."""
    path = tmp_path / "x"
    shutil.copytree(orbax_directory, path)
    shutil.rmtree(path / lost) if (path / lost).is_dir() else (path / lost).unlink()
    refusal(path)
    assert capfd.readouterr().err == ""


def test_one_damaged_array_among_many(tmp_path: Path) -> None:
    """Catches reads that outlive the one that failed: most times each of them prints a page."""
    noise = np.random.default_rng(0)
    arrays = {f"x.a{i}": noise.random(1000) for i in range(600)}
    formats.write(tmp_path / "x", "orbax", arrays, {})
    largest = max(tmp_path.rglob("d/*"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size * 9 // 10)
    code = (
        "import sys, pathlib; from weights_convert import formats\n"
        "for _ in range(4):\n"
        "    try: formats.read(pathlib.Path(sys.argv[1]))\n"
        "    except ValueError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    assert process.stdout.count("x is not a readable Orbax checkpoint: ") == 4
    assert process.stderr == ""


def test_a_folder_of_checkpoints_names_them(tmp_path: Path, orbax_directory: Path) -> None:
    """Catches a user of CheckpointManager left to guess which folder to name."""
    shutil.copytree(orbax_directory, tmp_path / "run" / "7" / "default")
    assert f"but {tmp_path / 'run' / '7' / 'default'} is one" in refusal(tmp_path / "run")


def test_orbax_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches Orbax left to find out, whose threads print pages."""
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(OSError, match="No space left"):
        formats.write(tmp_path / "x", "orbax", SMALL, {})
    assert not os.listdir(tmp_path)


# --- Whole or not at all


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("name", ["x.pth", "x.orbax"])
def test_a_rename_that_fails_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, failing: int
) -> None:
    """Catches half of what belongs together replaced: a file without its manifest, no directory."""

    def replace(new: str) -> None:
        arrays = SMALL | {"new": np.array(float(new == '"new"'))}
        with replacing(tmp_path / name) as path:
            formats.write(path, formats.format_for(path), arrays, {"parity": new})

    replace('"old"')
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    real, calls = os.replace, itertools.count(1)

    def fail_once(source: Path, target: Path) -> None:
        if next(calls) == failing:
            raise OSError(28, "No space left on device")
        real(source, target)

    monkeypatch.setattr("weights_convert.replacing.os.replace", fail_once)
    monkeypatch.setattr("weights_convert.replacing._exchange", lambda *_: False)  # two steps
    if failing == 3:  # the new one is there already, with a manifest that holds both
        replace('"new"')
        assert formats.read(tmp_path / name).metadata["parity"] == '"new"'
    else:
        with pytest.raises(InputError, match="No space left"):
            replace('"new"')
        after = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
        assert after == before


@pytest.mark.parametrize("name", ["x.pth", "x.safetensors", "x.orbax"])
def test_permissions(tmp_path: Path, name: str) -> None:
    """Catches a file that only its owner can read, as temporary files are."""
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / name) as path:
            formats.write(path, formats.format_for(path), SMALL, {"parity": "{}"})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o640}
    folders = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_dir()}
    assert folders == ({0o750} if name == "x.orbax" else set())


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    """Catches a link replaced by a file, what it pointed to left old."""
    (tmp_path / "real").mkdir()
    (tmp_path / "x.safetensors").symlink_to("real/y.safetensors")
    with replacing(tmp_path / "x.safetensors") as path:
        formats.write(path, "safetensors", SMALL, {})
    assert (tmp_path / "x.safetensors").is_symlink()
    assert os.listdir(tmp_path / "real") == ["y.safetensors"]
