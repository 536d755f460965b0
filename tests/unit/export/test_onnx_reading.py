"""ONNX files from strangers: nothing but the file itself is ever opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parity import cli
from parity.export import guard
from parity.export.inspection import inspect, is_onnx
from parity.export.reading import open_network, read
from parity.spec.errors import InputError
from tests.fuzz.hostile.onnx_networks import PLACES, constant, filled, model, outside, shaped


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "beside.bin"])
def test_external_data(
    place: Callable[[TensorProto], onnx.ModelProto],
    location: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Catches another file that is opened, wherever in the model its name is hidden."""
    import onnxruntime

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("ONNX Runtime was given the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", never)
    path = tmp_path / "folder" / "x.onnx"
    path.parent.mkdir()
    for name in ("secret", "folder/beside.bin"):
        (tmp_path / name).write_bytes(bytes(36))
    path.write_bytes(place(outside(location)).SerializeToString())
    images = tmp_path / "images"
    images.mkdir()
    out = str(tmp_path / "out")
    for arguments in (
        ["infer", "--onnx", str(path), "--images", str(images), out],
        ["check", "enet", "--levels", "L0", "--onnx", str(path)],
    ):
        assert cli.main(arguments) == 2
        found = capsys.readouterr()
        assert (found.out, found.err.count("\n")) == ("", 1)
        assert "external data" in found.err
        assert location in found.err
    assert not os.path.exists(out)


def test_a_mention_alone_is_refused(tmp_path: Path) -> None:
    """Catches a tensor that names a file without saying that it lies there."""
    tensor = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    tensor.external_data.add(key="location", value="../secret")
    path = tmp_path / "x.onnx"
    path.write_bytes(PLACES["an initializer"](tensor).SerializeToString())
    with pytest.raises(InputError, match="external data"):
        read(path)


def described(key: str, text: str) -> bytes:
    """A network with an entry of metadata."""
    made = model()
    made.metadata_props.add(key=key, value=text)
    return made.SerializeToString()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not an ONNX file"),
        (b"no protobuf at all", "not an ONNX file"),
        (b"\x80\x04\x95", "not an ONNX file"),
        (model().SerializeToString()[:-5], "damaged"),
        (model([helper.make_node("NoSuch", ["input"], ["n"])]).SerializeToString(), "ONNX Runtime"),
        (model().SerializeToString().replace(b"Identity", b"\xe4dentity"), "ONNX Runtime"),
        (model().SerializeToString().replace(b"logits", b"\xe4ogits"), "not UTF-8"),
        (shaped(1, 3, "height", 8).SerializeToString().replace(b"h", b"\xe4"), "not UTF-8"),
        (described("a key", "a text").replace(b"key", b"k\xe4y"), "not UTF-8"),
        (described("a key", "a text").replace(b"text", b"t\xe4xt"), "not UTF-8"),
    ],
)
def test_no_networks(
    content: bytes, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches a traceback for no ONNX file, or none that can be run, and more than one line."""
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=named) as error:
        open_network(path)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_no_file(tmp_path: Path) -> None:
    """Catches a folder or nothing at all that ends in a traceback."""
    for path in (tmp_path, tmp_path / "no.onnx"):
        with pytest.raises(InputError, match="file"):
            open_network(path)


def test_other_inputs(tmp_path: Path) -> None:
    """Catches a network of something else than images that is fed images."""
    made = model()
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    path = tmp_path / "x.onnx"
    path.write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match="4 channels"):
        open_network(path)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3),
        np.array(2.5),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([-1, 2**40]),
        np.array([1, 2], np.uint8),
        np.array([2**63], np.uint64),
    ],
    ids=lambda array: f"{array.dtype} {array.shape}",
)
@pytest.mark.parametrize("raw", [True, False])
def test_whole_tensors_are_read(array: np.ndarray, raw: bool, tmp_path: Path) -> None:
    """Catches a guard that refuses what others write: values as bytes or one by one, any dtype."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    values = array.tobytes() if raw else array.reshape(-1).tolist()
    if array.dtype == np.float16 and not raw:
        values = array.view(np.uint16).reshape(-1).tolist()
    tensor = helper.make_tensor("w", kind, array.shape, values, raw=raw)
    path = tmp_path / "x.onnx"
    path.write_bytes(model([constant(tensor)], initializer=[tensor]).SerializeToString())
    assert inspect(path).tensors == {"w": (array.dtype.name, array.shape)}
    open_network(path)


def test_the_guard_reads_messages_as_protobuf_does(tmp_path: Path) -> None:
    """Catches fields that are not counted: a file of many could take all memory."""
    made = model(initializer=[numpy_helper.from_array(np.zeros(3, np.float32), "w")])
    made.graph.node[0].attribute.add(name="f", f=1.0, type=onnx.AttributeProto.FLOAT)
    made.metadata_props.add(key="a", value="b")

    def fields(message: onnx.ModelProto) -> int:
        found = 0
        for field, value in message.ListFields():
            several = value if hasattr(value, "append") else [value]
            packed = field.GetOptions().packed
            found += 1 if packed else len(several)
            if field.message_type is not None:
                found += sum(map(fields, several))
        return found

    data, count = made.SerializeToString(), fields(made)
    monkey = pytest.MonkeyPatch()
    with monkey.context() as patch:
        patch.setattr(guard, "MOST_FIELDS", count)
        guard.check_size(data)
        patch.setattr(guard, "MOST_FIELDS", count - 1)
        with pytest.raises(ValueError, match="more than"):
            guard.check_size(data)


def test_nothing_is_computed_before_there_is_an_image(tmp_path: Path) -> None:
    """Catches memory taken by a file of a few bytes as soon as it is opened."""
    path = tmp_path / "x.onnx"
    path.write_bytes(filled(2**45).SerializeToString())
    network = open_network(path)
    with pytest.raises(InputError, match="ONNX Runtime"):
        network(np.zeros((1, 3, 8, 8), np.float32))


# --- What `parity inspect` says


def test_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches facts that are not the file's."""
    made = model(initializer=[numpy_helper.from_array(np.zeros((2, 3), np.float16), "w")])
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    made.metadata_props.add(key="licence", value="its own")
    made.producer_name = "somebody"
    path, out = tmp_path / "x", tmp_path / "x.json"
    path.write_bytes(made.SerializeToString())
    assert cli.main(["inspect", str(path), "--tensors", "--json", str(out)]) == 0
    said = capsys.readouterr().out
    for line in (
        "format    onnx, version 10, operators ONNX 20",
        "made by   somebody",
        "input     input: batchx3x8x8 float32",
        "output    logits: 1x3x8x8 float32",
        "tensors   1: 1 float16",
        "numbers   6",
        "manifest  none: unverified",
        "metadata  licence: its own",
        "w  float16   2x3",
    ):
        assert line in said.splitlines()
    found = json.loads(out.read_text())
    assert found["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found["format"] == "onnx"
    assert found["inputs"] == {"input": {"dtype": "float32", "shape": ["batch", 3, 8, 8]}}
    assert found["metadata"] == {"licence": "its own"}


def test_inspect_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches another file that is opened, or an option that means nothing, when one only looks."""
    path = tmp_path / "x.onnx"
    path.write_bytes(PLACES["a branch"](outside("../secret")).SerializeToString())
    assert cli.main(["inspect", str(path)]) == 2
    assert "external data is refused" in capsys.readouterr().err
    assert cli.main(["inspect", str(path), "--model", "enet"]) == 2
    assert "--model is for checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (model().SerializeToString(), True),
        (b"", False),
        (b"\x08\x0a", False),
        (b"PK\x03\x04" + bytes(30), False),
        ((0x1208).to_bytes(8, "little") + b"{" + b" " * 20, False),  # safetensors
        (b"\x0a\x10\x0a\x01a\x12", False),  # MindSpore
    ],
)
def test_content_decides(data: bytes, expected: bool, tmp_path: Path) -> None:
    """Catches a checkpoint taken for an ONNX file, or one by its suffix."""
    path = tmp_path / "x.onnx"
    path.write_bytes(data)
    assert is_onnx(path) == expected
