"""File formats: what goes in comes out, whatever else comes is refused in one line."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, serialization
from safetensors.numpy import save_file

from parity.spec.errors import InputError
from tests.checkpoints import SMALL, equal, refusal
from weights_convert import formats
from weights_convert.formats import msgpack_scan

SUFFIX = {"torch": ".pth", "mindspore": ".ckpt"}  # else the format's name


@pytest.mark.parametrize("format", formats.FORMATS)
def test_every_dtype_and_layout_survives(tmp_path: Path, format: str) -> None:
    """Catches a cast, a lost sign of zero or NaN payload, and memory written as it lies."""
    base = np.array([[0.0, -0.0, np.nan], [np.inf, 1.5, -2.0]])
    arrays = {
        f"x.{name}": base.astype(formats.base.numpy_dtype(name)) for name in formats.base.DTYPES[:4]
    }
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


def test_msgpack_without_compiled_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches files refused where msgpack has no compiled code, as in its oldest version."""
    unpack = msgpack_scan.msgpack.unpackb

    def by_python(data: bytes, **options: Any) -> Any:
        if hook := options.pop("object_pairs_hook", None):
            options["object_pairs_hook"] = lambda items: hook(item for item in items)
        return unpack(data, **options)

    monkeypatch.setattr(msgpack_scan.msgpack, "unpackb", by_python)
    formats.write(tmp_path / "x", "msgpack", SMALL, {})
    assert equal(formats.read(tmp_path / "x").arrays, SMALL)


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
