"""ONNX files of both sides: what they compute, what they say, and faults that must show."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from parity import cli, export
from parity.export import from_jax, functions, primitives, third_backend, tuning
from parity.export.reading import open_network
from parity.model_checks.small_networks import models, small, ties
from parity.report.report import ONNX, Check, Report
from parity.spec import draw
from parity.spec.errors import InputError
from parity.spec.models import MODELS
from weights_convert.formats import KEY

DEMO = Path(__file__).resolve().parents[3] / "parity" / "demo" / "enet.safetensors"
SIDES = ("torch", "jax")

# PyTorch's exporter takes seconds for each: one network of each sort of layer.
OF_TORCH = ("enet", "enet-mindspore", "erfnet-imagenet", "genet-theta-plus", "icnet", "vit")
# Attention's primitives have no translation, and a decoder's inputs are no images.
OF_JAX = [model for model in models() if MODELS[model].family not in ("vit", "decoder")]


def written(
    folder: Path, model: str, side: str, batch: int | None = None
) -> tuple[Path, third_backend.Arrays]:
    """A model's small network as a file of one side, and its weights."""
    path = folder / f"{side}.onnx"
    path.write_bytes(serialized(model, side, batch))
    return path, draw.weights(made_small(model, side)[0], 3)


@functools.cache
def serialized(model: str, side: str, batch: int | None) -> bytes:
    """PyTorch's exporter takes seconds."""
    config, size = made_small(model, side)
    made = export.network(config, draw.weights(config, 3), side, size, batch)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString()


def made_small(model: str, side: str) -> tuple[Any, tuple[int, int]]:
    """Export with PyTorch; of MindSpore's ENet only what ENet lacks."""
    return small(model, least=(model, side) == ("enet-mindspore", "torch"))


def assert_alike(checks: list[Check], outputs: int = 1) -> None:
    assert len(checks) == outputs
    for check in checks:
        assert check.ok, check.sentence()
        assert check.error < 1e-4, check.sentence()


@pytest.mark.parametrize("model", OF_JAX)
def test_jax_side(model: str, tmp_path: Path) -> None:
    """Catches a primitive, layout, stride or padding that is lost on the way from the jaxpr."""
    path, arrays = written(tmp_path, model, "jax")
    config = small(model)[0]
    checks = third_backend.checks(path, config, arrays)
    assert_alike(checks, len(export.outputs_of(config)))


@pytest.mark.parametrize("model", OF_TORCH)
def test_torch_side(model: str, tmp_path: Path) -> None:
    """Catches an operator that PyTorch's exporter, our translation or the tuning gets wrong."""
    path, arrays = written(tmp_path, model, "torch")
    config = made_small(model, "torch")[0]
    assert_alike(third_backend.checks(path, config, arrays), len(export.outputs_of(config)))


@pytest.mark.parametrize("model", ["enet", "erfnet", "genet-extent2", "icnet"])
def test_equation_by_equation(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Catches a translation of a primitive that is hidden by the rule for its whole function."""
    monkeypatch.setattr(functions, "TABLE", {})
    monkeypatch.setattr(tuning, "RULES", ())
    config, size = small(model)
    arrays, path = draw.weights(config, 3), tmp_path / "plain.onnx"
    made = export.network(config, arrays, "jax", size, None)
    assert not {"MaxPool", "MaxUnpool", "ConvTranspose", "LeakyRelu", "Resize"} & {
        node.op_type for node in made.graph.node
    }
    path.write_bytes(made.SerializeToString())
    assert_alike(third_backend.checks(path, config, arrays), len(export.outputs_of(config)))


def test_a_file_is_not_blamed_for_what_overflows(tmp_path: Path) -> None:
    """Catches a file that is called wrong, or passes, where the network itself is not finite."""
    config, size = small("genet-extent2")
    arrays, report = draw.weights(config, 3), Report("genet", "float32")
    arrays["fc.weight"] = np.full_like(arrays["fc.weight"], 3e38)
    path = tmp_path / "large.onnx"
    path.write_bytes(export.network(config, arrays, "jax", size, None).SerializeToString())
    third_backend.add(report, [path], config, arrays)
    assert not report.failures()
    assert not report.ok
    assert "not finite in float32" in report.reason()


def test_attention_is_refused() -> None:
    """Catches a file of a ViT from JAX that is another network, or a traceback."""
    config = MODELS["vit"]
    with pytest.raises(InputError, match="no translation to ONNX for JAX's dot_general with two"):
        export.network(config, draw.weights(config, 3), "jax", config.check_size, None)


def test_nothing_is_logged_without_torchvision(tmp_path: Path) -> None:
    """Catches the exporter's lines on torchvision, which it misses and does not need."""
    program = (
        "import sys\n"
        "from parity.export import build\n"
        "from parity.spec import draw\n"
        "from parity.spec.networks.genet import GENetConfig\n"
        "sys.modules['torchvision'] = None\n"
        "config = GENetConfig(depth=10, width=1)\n"
        "build.network(config, draw.weights(config, 3), 'torch', (32, 32), None)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("", "")


def test_ties(tmp_path: Path) -> None:
    """Catches maxima that return to another place than PyTorch's where several are equal."""
    config, size = small("enet")
    arrays = ties(draw.weights(config, 3), config)
    path = tmp_path / "ties.onnx"
    made = export.network(config, arrays, "jax", size, None)
    path.write_bytes(made.SerializeToString())
    images = np.round(draw.generator(0, "ties").random((2, 3, *size), np.float32) * 2) / 2
    expected = third_backend.reference(config, arrays, "float64", images)["logits"]
    (found,) = open_network(path)(images)
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()


@pytest.mark.parametrize("side", SIDES)
def test_batches(side: str, tmp_path: Path) -> None:
    """Catches a batch that was fixed while it was traced, and images that mix."""
    path, arrays = written(tmp_path, "enet", side)
    config, size = small("enet")
    network = open_network(path)
    assert (network.batch, network.size) == (None, size)
    images = draw.generator(1, "batch").random((3, 3, *size), np.float32)
    (three,) = network(images)
    assert three.shape == (3, config.num_classes, *size)
    expected = third_backend.reference(config, arrays, "float32", images)["logits"]
    assert abs(three - expected).max() < 1e-5 * abs(expected).max()
    for i in range(3):
        (one,) = network(images[i : i + 1])
        np.testing.assert_allclose(one[0], three[i], rtol=0, atol=1e-5 * abs(three).max())


def test_one_image(tmp_path: Path) -> None:
    """Catches a file for one image that takes several, or says so."""
    path, _ = written(tmp_path, "enet", "jax", batch=1)
    network, size = open_network(path), small("enet")[1]
    assert network.batch == 1
    with pytest.raises(InputError, match="ONNX Runtime"):
        network(np.zeros((3, 3, *size), np.float32))


def test_unpooling_does_not_scatter(tmp_path: Path) -> None:
    """Catches the export of ENet that is slower than PyTorch: the unpooling as a scatter."""
    for side in SIDES:
        names = [n.op_type for n in onnx.load(written(tmp_path, "enet", side)[0]).graph.node]
        assert names.count("MaxUnpool") == 2
        assert not {"ScatterND", "ScatterElements", "GatherElements"} & set(names)
        assert "Transpose" not in names


def test_unknown_primitive() -> None:
    """Catches a traceback, or a wrong file, for a network of more than the table knows."""
    with pytest.raises(InputError, match=r"primitive 'cumsum'.*expected some of abs, add") as error:
        from_jax.graph_of(lambda x: jnp.cumsum(x, 1), (4, 4), ["y"], None)
    assert "\n" not in str(error.value)


PRIMITIVES: dict[str, Callable[[jax.Array], jax.Array]] = {
    "reshape splits and merges": lambda x: (
        x.reshape(-1, 2, 2, 3, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, 6, 4, 3)
    ),
    "slices": lambda x: x[:, 1::2, ::3] + x[:, :-1:2, 1:3],
    "taken": lambda x: jnp.take(x, jnp.array([3, 0, 0, 2]), 1),
    "one pixel": lambda x: x[:, 1, 2],
    "product of rows": lambda x: jnp.einsum("ih,nhwc->niwc", jnp.arange(8.0).reshape(2, 4), x),
    "weighted sum": lambda x: jnp.einsum("nhwc,hwc->nc", x, jnp.arange(72.0).reshape(4, 6, 3)),
    "means": lambda x: x.reshape(-1, 2, 2, 3, 2, 3).mean(axis=(2, 4)),
    "repeated": lambda x: jnp.repeat(jnp.repeat(x, 3, 1), 2, 2),
    "stacked": lambda x: jnp.stack((x, 2 * x), 2).reshape(-1, 8, 6, 3),
    "padded": lambda x: jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 1)), constant_values=7),
    "chosen": lambda x: jnp.where((x > 0.5) & ~(x > 0.7) | (x != x), -x, x**2),
    "mixed": lambda x: jax.nn.sigmoid(jnp.maximum(x, 0.2)) / jnp.exp(jnp.minimum(x, 3.0)),
    "crossed": lambda x: x.transpose(0, 2, 1, 3) + x[:, :1, :1],
}


@pytest.mark.parametrize("name", PRIMITIVES)
@pytest.mark.parametrize("tune", [False, True], ids=["", "tuned"])
def test_primitives(name: str, tune: bool, tmp_path: Path) -> None:
    """Catches a translation that is right only for what the networks feed it."""
    function = PRIMITIVES[name]
    model = from_jax.graph_of(function, (4, 6), ["y"], None)
    path = tmp_path / "y.onnx"
    path.write_bytes((tuning.tuned(model) if tune else model).SerializeToString())
    images = np.random.default_rng(0).random((2, 3, 4, 6), np.float32)
    expected = np.asarray(function(jnp.asarray(images.transpose(0, 2, 3, 1))))
    (found,) = open_network(path)(images)
    if found.ndim == 4:
        found = found.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_table_is_sorted() -> None:
    """Catches a primitive that is listed twice or out of order, where nobody finds it."""
    assert list(primitives.TABLE) == sorted(primitives.TABLE)


# Faults to inject in a file: from its model and its large initializers' names.


def weight(model: onnx.ModelProto) -> None:
    """One weight of one convolution changed."""
    nodes = [node for node in model.graph.node if node.op_type == "Conv"]
    named = {i.name: i for i in model.graph.initializer}
    tensor = named[nodes[len(nodes) // 2].input[1]]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[values.size // 2] += 0.5
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def mean(model: onnx.ModelProto) -> None:
    """A constant is taken from the images, as another preprocessing does."""
    shift(model, "Sub", numpy_helper.from_array(np.float32(0.1), "mean"))


def transposed(model: onnx.ModelProto) -> None:
    """Rows and columns of the images changed places."""
    shift(model, "Transpose", perm=[0, 1, 3, 2])


def channels(model: onnx.ModelProto) -> None:
    """BGR instead of RGB."""
    shift(model, "Gather", numpy_helper.from_array(np.array([2, 1, 0]), "bgr"), axis=1)


def shift(
    model: onnx.ModelProto, op: str, *constants: onnx.TensorProto, **attributes: object
) -> None:
    """Put an operator before everything that takes the images."""
    for node in model.graph.node:
        node.input[:] = ["changed" if name == "input" else name for name in node.input]
    inputs = ["input", *(c.name for c in constants)]
    model.graph.node.insert(0, helper.make_node(op, inputs, ["changed"], **attributes))
    model.graph.initializer.extend(constants)


@pytest.mark.parametrize("fault", [weight, mean, transposed, channels])
def test_injected_faults(fault: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    """Catches a witness that lets a wrong file pass, or does not name the output."""
    config = small("erfnet")[0]
    arrays = draw.weights(config, 3)
    size = (56, 56)
    model = export.network(config, arrays, "jax", size, None)
    path = tmp_path / "faulty.onnx"
    path.write_bytes(model.SerializeToString())
    assert_alike(third_backend.checks(path, config, arrays))
    fault(model)
    path.write_bytes(model.SerializeToString())
    report = Report("erfnet", "float32")
    third_backend.add(report, [path], config, arrays)
    assert not report.ok
    (check,) = report.failures()
    assert (check.rung, check.layer, check.kind) == (ONNX, "faulty.onnx: logits", "numerics")
    assert "faulty.onnx: logits" in str(report)


def test_other_shapes(tmp_path: Path) -> None:
    """Catches a network of other classes or outputs that passes, or ends in a traceback."""
    path, _ = written(tmp_path, "icnet", "jax")
    config = small("erfnet")[0]
    checks = third_backend.checks(path, config, draw.weights(config, 3))
    assert [check.ok for check in checks] == [False] * 4
    assert "shape" in checks[0].note


def renamed(path: Path, names: dict[str, str]) -> None:
    """Call a file's inputs and outputs otherwise, as other software does."""
    model = onnx.load(path)
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    path.write_bytes(model.SerializeToString())


def test_other_names(tmp_path: Path) -> None:
    """Catches a right file that fails for its names, and a wrong one that passes for them."""
    path, arrays = written(tmp_path, "erfnet", "jax")
    config = small("erfnet")[0]
    renamed(path, {"input": "pixel_values", "logits": "1234"})
    report = Report("erfnet", "float32")
    third_backend.add(report, [path], config, arrays)
    assert_alike(report.checks)
    assert report.checks[0].layer == "jax.onnx: 1234"
    assert f"{path}: output '1234' is taken for logits, by its place or shape" in report.notes
    assert [c.ok for c in third_backend.checks(path, config, draw.weights(config, 4))] == [False]


def test_other_names_of_several_outputs(tmp_path: Path) -> None:
    """Catches outputs that are paired by their order although their shapes tell them apart."""
    path, arrays = written(tmp_path, "icnet", "jax")
    config = small("icnet")[0]
    # Two of the four outputs are of other names, and these were exchanged as well.
    renamed(path, {"logits": "a", "logits4": "logits8", "logits8": "b", "logits16": "c"})
    found = {c.reference: c for c in third_backend.checks(path, config, arrays)}
    assert not found["logits8"].ok  # the name counts where there is one: this is another output
    renamed(path, {"logits8": "d"})
    assert_alike(third_backend.checks(path, config, arrays), 4)


def test_outputs_are_paired_only_where_it_is_certain() -> None:
    """Catches an output that is taken for another of the same shape."""
    two, one = {"x": (2, 3), "y": (2, 3)}, {"x": (2, 3)}
    assert third_backend.answers(one, {"z": (9,)}) == {"x": "z"}
    assert third_backend.answers(two, {"a": (2, 3), "b": (2, 3)}) == {}
    assert third_backend.answers(two, {"y": (2, 3), "b": (2, 3)}) == {"y": "y", "x": "b"}
    assert third_backend.answers(one, {"a": (2, 3), "b": (4,)}) == {"x": "a"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network, from its JAX side."""
    path = tmp_path_factory.mktemp("onnx") / "enet.onnx"
    arguments = ["--weights", str(DEMO), "--framework", "jax", "--size", "64x128"]
    assert cli.main(["export", "enet", str(path), *arguments]) == 0
    return path


def test_metadata(exported: Path) -> None:
    """Catches a file that does not say what it is, or says something else."""
    from weights_convert import load

    source, network = load(DEMO), open_network(exported)
    said = network.manifest
    assert said is not None
    assert (said.network, said.config) == (source.network, source.config.describe())
    assert (said.labels, said.source_sha256) == (source.labels, source.sha256)
    assert source.manifest is not None
    assert said.tensors_sha256 == source.manifest.tensors_sha256
    model = onnx.load(exported)
    facts = json.loads({p.key: p.value for p in model.metadata_props}[f"{KEY}.export"])
    assert (facts["framework"], facts["outputs"]) == ("jax", ["logits"])
    assert said.preprocessing.size == (64, 128)
    assert said.tool_version == model.producer_version
    assert [i.name for i in model.graph.input] == ["input"]


def test_check_with_a_file(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Catches `parity check --onnx` that compares nothing, or other weights without a word."""
    arguments = ["check", "enet", "--levels", "L0", "--onnx", str(exported)]
    assert cli.main([*arguments, "--weights", str(DEMO)]) == 0
    assert "onnx ONNX Runtime" in capsys.readouterr().out
    assert cli.main(arguments) == 1  # with drawn weights
    out = " ".join(capsys.readouterr().out.split())
    assert "look at enet.onnx: logits first" in out
    assert "made of other weights" in out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonet", "x.onnx", "--weights", "w"], "nonet"),
        (["enet", "x.pth", "--weights", "w"], "x.pth"),
        (["enet", "x.onnx", "--weights", "w", "--framework", "caffe"], "caffe"),
        (["enet", "x.onnx", "--weights", "no/such.pth"], "no/such.pth"),
        (["enet", "no/such/x.onnx", "--weights", str(DEMO)], "no/such"),
        (["enet", "x.onnx", "--weights", str(DEMO), "--size", "4x4"], "7x7"),
        (["enet-camvid", "x.onnx", "--weights", str(DEMO)], "20 classes"),
    ],
)
def test_bad_input(
    arguments: list[str],
    named: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Catches a traceback, a second line, or something written."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert named in err
    assert not list(tmp_path.iterdir())


def test_a_wrong_file_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Catches an export that is written, or costs the old file, though it computes otherwise."""
    target = tmp_path / "enet.onnx"
    target.write_bytes(b"old")
    rules = dict(functions.TABLE)
    monkeypatch.setitem(functions.TABLE, "prelu", lambda low, closed, inputs: [inputs[0]])
    assert rules["prelu"] is not functions.TABLE["prelu"]
    arguments = ["--weights", str(DEMO), "--framework", "jax", "--size", "64x128"]
    assert cli.main(["export", "enet", str(target), *arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "in ONNX Runtime" in err
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["enet.onnx"]
