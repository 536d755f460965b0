"""ONNX files from strangers: nothing but the file itself is ever opened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from parity import cli
from parity.export.reading import open_network, read
from parity.spec.errors import InputError


def outside(location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[3, 3, 1, 1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def model(nodes: list[onnx.NodeProto] | None = None, **fields: Any) -> onnx.ModelProto:
    """A network that gives its input back, and whatever else."""
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 8, 8])
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 3, 8, 8])
    last = helper.make_node("Identity", ["input"], ["logits"])
    graph = helper.make_graph([*(nodes or []), last], "g", [image], [output], **fields)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def in_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return model(initializer=[tensor])


def in_attribute(tensor: TensorProto) -> onnx.ModelProto:
    return model([constant(tensor)])


def in_subgraph(tensor: TensorProto) -> onnx.ModelProto:
    branch = helper.make_graph(
        [constant(tensor)],
        "b",
        [],
        [helper.make_tensor_value_info("c", TensorProto.FLOAT, None)],
    )
    yes = helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.array(True)))
    nodes = [yes, helper.make_node("If", ["y"], ["z"], then_branch=branch, else_branch=branch)]
    return model(nodes)


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    made = model()
    opset = [helper.make_opsetid("", 20)]
    made.functions.append(helper.make_function("own", "f", [], ["c"], [constant(tensor)], opset))
    return made


def in_sparse(tensor: TensorProto) -> onnx.ModelProto:
    made = model()
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    sparse.dims.append(9)
    return made


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    made = model()
    made.training_info.add().initialization.initializer.append(tensor)
    return made


PLACES = (in_initializer, in_attribute, in_subgraph, in_function, in_sparse, in_training)


@pytest.mark.parametrize("place", PLACES)
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
    path.write_bytes(in_initializer(tensor).SerializeToString())
    with pytest.raises(InputError, match="external data"):
        read(path)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "not an ONNX file"),
        (b"no protobuf at all", "not an ONNX file"),
        (b"\x80\x04\x95", "not an ONNX file"),
        (model().SerializeToString()[:-5], "damaged"),
        (model([helper.make_node("NoSuch", ["input"], ["n"])]).SerializeToString(), "ONNX Runtime"),
    ],
)
def test_no_networks(content: bytes, named: str, tmp_path: Path) -> None:
    """Catches a traceback for what is no ONNX file, or none that can be run."""
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=named) as error:
        open_network(path)
    assert "\n" not in str(error.value)


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
