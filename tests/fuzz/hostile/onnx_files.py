"""ONNX files: tensors that lie elsewhere, protobuf that lies, graphs that grow."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.fuzz.hostile.kinds import Kind, Place, of_bytes, of_each, of_function
from tests.fuzz.hostile.mindspore_files import END, START, field, varint

GROUP = "onnx"
OPSET = helper.make_opsetid("", 20)
FLOAT = TensorProto.FLOAT
IMAGES = (1, 3, 8, 8)
METADATA, GRAPH, FUNCTION = 14, 7, 25  # fields of a model
NODE, GRAPH_NAME, INITIALIZER, GRAPH_OUTPUT = 1, 2, 5, 12  # of a graph
ATTRIBUTE = 5  # of a node
OF_GRAPH, TYPE, GRAPH_TYPE = 6, 20, 5  # of an attribute, and what the type of a graph is
ONE = np.ones(1, np.float32)
RUN = "nothing is computed before there is an image"

Made = onnx.ModelProto


def model(nodes: Sequence[onnx.NodeProto] = (), **fields: Any) -> Made:
    """A network that gives its images back, and whatever else.

    Args:
        nodes: Before the last one.
        fields: Of the graph.
    """
    image = helper.make_tensor_value_info("input", FLOAT, IMAGES)
    output = helper.make_tensor_value_info("logits", FLOAT, IMAGES)
    last = helper.make_node("Identity", ["input"], ["logits"])
    graph = helper.make_graph([*nodes, last], "g", [image], [output], **fields)
    return helper.make_model(graph, opset_imports=[OPSET], ir_version=10)


# --- Values in another file, wherever its name may be hidden


def outside(location: str, said: bool = True) -> TensorProto:
    """A tensor whose values lie in another file.

    Args:
        location: Where.
        said: Whether it says that they do, beside naming the file.
    """
    tensor = TensorProto(name="w", data_type=FLOAT, dims=[3, 3, 1, 1])
    if said:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.raw_data = bytes(36)
    tensor.external_data.add(key="location", value=location)
    return tensor


def constant(tensor: TensorProto, name: str = "c") -> onnx.NodeProto:
    return helper.make_node("Constant", [], [name], value=tensor)


def branching(*nodes: onnx.NodeProto, result: str = "c") -> Made:
    """Nodes in the branches of a condition."""
    output = helper.make_tensor_value_info(result, FLOAT, None)
    branch = helper.make_graph(nodes, "b", [], [output])
    other = helper.make_graph([constant(numpy_helper.from_array(ONE), result)], "o", [], [output])
    yes = constant(numpy_helper.from_array(np.array(True)), "yes")
    return model(
        [yes, helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=other)]
    )


def in_function(tensor: TensorProto) -> Made:
    made = model()
    made.functions.append(helper.make_function("own", "f", [], ["c"], [constant(tensor)], [OPSET]))
    return made


def in_sparse(tensor: TensorProto) -> Made:
    made = model()
    sparse = made.graph.sparse_initializer.add()
    sparse.values.CopyFrom(tensor)
    sparse.dims.append(9)
    return made


def in_training(tensor: TensorProto) -> Made:
    made = model()
    made.training_info.add().initialization.initializer.append(tensor)
    return made


PLACES: dict[str, Callable[[TensorProto], Made]] = {
    "an initializer": lambda tensor: model(initializer=[tensor]),
    "an attribute": lambda tensor: model([constant(tensor)]),
    "a branch": lambda tensor: branching(constant(tensor)),
    "a function": in_function,
    "a sparse initializer": in_sparse,
    "training": in_training,
}
LOCATIONS = ("../outside/secret", "/etc/hostname", "beside.bin", "")


def elsewhere() -> Iterator[Kind]:
    for place, make in PLACES.items():
        for location in LOCATIONS:
            data = make(outside(location)).SerializeToString()
            yield of_bytes(GROUP, f"{place} in the file {location!r}", data)
    data = model(initializer=[outside("../outside/secret", said=False)]).SerializeToString()
    yield of_bytes(GROUP, "an initializer that only names a file", data)


# --- Files that are none


def _write(place: Place) -> None:
    place.file.write_bytes(model().SerializeToString())


def _linked(place: Place) -> None:
    place.file.symlink_to(place.outside / "nothing")


def _folder(place: Place) -> None:
    place.file.mkdir()


def no_files() -> Iterator[Kind]:
    yield Kind(GROUP, "a whole one", _write, "it is what it says")
    yield Kind(GROUP, "a link to nothing", _linked)
    yield Kind(GROUP, "a link to a device", lambda place: place.file.symlink_to("/dev/zero"))
    yield Kind(GROUP, "a folder", _folder)
    yield Kind(GROUP, "a pipe", lambda place: os.mkfifo(place.file))


# --- Protobuf that lies


def messages() -> dict[str, bytes]:
    good = model().SerializeToString()
    return {
        "nothing behind its version": good[:2],
        "cut short": good[:-5],
        "zeros behind": good + bytes(100),
        "a length of 2**63": good + field(METADATA, b"x", 2**63),
        "a length of 2**64 - 1": good + field(METADATA, b"x", 2**64 - 1),
        "a length of 2**31": good + field(METADATA, b"x", 2**31),
        "a length one too long": good + field(METADATA, b"x", 2),
        "a graph longer than the file": good[:2] + field(GRAPH, b"x", 2**20),
        "an endless number": good + b"\xff" * 100,
        "wire type 7": good + varint(METADATA << 3 | 7) + b"\0",
        "field 0": good + field(0, b"x"),
        "a group that does not end": good + varint(99 << 3 | START) * 1000,
        "an end of no group": good + varint(99 << 3 | END),
        "groups 100,000 deep": good + varint(99 << 3 | START) * 10**5,
        "a graph that is a number": good + field(GRAPH, 7),
        "two graphs": good + field(GRAPH, model().graph.SerializeToString()),
        "a version of 2**63": b"\x08" + varint(2**63) + good[2:],
        "a version of 0": b"\x08\0" + good[2:],
        "no version": good[2:],
        "a name that is not UTF-8": good + field(2, b"\xff\xfe"),
        "no graph": Made(ir_version=10, opset_import=[OPSET]).SerializeToString(),
        "an empty graph": Made(
            ir_version=10, opset_import=[OPSET], graph=onnx.GraphProto(name="g")
        ).SerializeToString(),
    }


# --- Tensors that lie


def tensor(dims: Sequence[int], raw: bytes = bytes(24), kind: int = FLOAT) -> TensorProto:
    return TensorProto(name="w", data_type=kind, dims=dims, raw_data=raw)


def tensors() -> dict[str, TensorProto]:
    both = tensor((6,))
    both.float_data.extend([1.0] * 6)
    letters = tensor((6,), b"")
    letters.string_data.append(b"x" * 24)
    cut = tensor((6,))
    cut.segment.begin, cut.segment.end = 0, 2**62
    unnamed = tensor((6,))
    unnamed.name = ""
    return {
        "a dim of 2**62": tensor((2**62,)),
        "a dim of 2**40 without values": tensor((2**40,), b""),
        "dims whose product is 6 again": tensor((2**32 + 1, 2**32 - 1, 6)),
        "a negative dim": tensor((-6,)),
        "two negative dims": tensor((-2, -3)),
        "a dim of 0 beside 2**63 - 1": tensor((0, 2**63 - 1), b""),
        "10,000 dims": tensor((1,) * 9_999 + (6,)),
        "too few bytes": tensor((7,)),
        "too many bytes": tensor((5,)),
        "values twice": both,
        "values that are a text": letters,
        "values that are cut off": cut,
        "an unknown dtype": tensor((6,), kind=99),
        "a dtype of 0": tensor((6,), kind=0),
        "a text": tensor((6,), kind=TensorProto.STRING),
        "no name": unnamed,
    }


def sparse(size: int, index: int) -> Made:
    made = model()
    found = made.graph.sparse_initializer.add()
    found.values.CopyFrom(TensorProto(name="w", data_type=FLOAT, dims=[1], float_data=[1.0]))
    found.indices.CopyFrom(numpy_helper.from_array(np.array([index], np.int64), "i"))
    found.dims.append(size)
    return made


# --- Graphs that are no network of images, or grow


def shaped(*dims: int | str | None, kind: int = FLOAT) -> Made:
    """A network of another input."""
    made = model()
    for value in (made.graph.input[0], made.graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, dims))
    return made


def filled(*sides: int) -> Made:
    """A constant that is made from its shape."""
    shape = constant(numpy_helper.from_array(np.array(sides, np.int64)), "shape")
    return using([shape, helper.make_node("ConstantOfShape", ["shape"], ["large"])])


def using(nodes: list[onnx.NodeProto]) -> Made:
    """A network whose output depends on the value `large`, by a number of it."""
    zero = constant(numpy_helper.from_array(np.array(0.0, np.float32)), "zero")
    most = helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0)
    by = helper.make_node("Mul", ["most", "zero"], ["by"])
    made = model([*nodes, zero, most, by])
    made.graph.node[-1].CopyFrom(helper.make_node("Add", ["input", "by"], ["logits"]))
    return made


def expanded(op: str, size: int) -> Made:
    """A constant that an operator makes large."""
    one = constant(numpy_helper.from_array(ONE), "one")
    count = constant(numpy_helper.from_array(np.array([size], np.int64)), "count")
    return using([one, count, helper.make_node(op, ["one", "count"], ["large"])])


def ranged(size: int) -> Made:
    """A constant that counts."""
    steps = {"from": 0.0, "to": float(size), "by": 1.0}
    nodes = [
        constant(numpy_helper.from_array(np.array(v, np.float32)), f"range_{name}")
        for name, v in steps.items()
    ]
    names = [f"range_{name}" for name in steps]
    return using([*nodes, helper.make_node("Range", names, ["large"])])


def looping(count: int) -> Made:
    """A loop that runs so many times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["goes_on"]),
            helper.make_node("Identity", ["x"], ["y"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("x", FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("y", FLOAT, None),
        ],
    )
    nodes = [
        constant(numpy_helper.from_array(np.array(count, np.int64)), "count"),
        constant(numpy_helper.from_array(np.array(True)), "yes"),
        constant(numpy_helper.from_array(ONE), "one"),
        helper.make_node("Loop", ["count", "yes", "one"], ["large"], body=body),
    ]
    return using(nodes)


def deep(depth: int) -> bytes:
    """A condition in a condition in a condition."""
    output = helper.make_tensor_value_info("c", FLOAT, None)
    other = helper.make_graph([constant(numpy_helper.from_array(ONE))], "o", [], [output])
    nodes = field(NODE, other.node[0].SerializeToString())
    head = field(GRAPH_NAME, b"b") + field(GRAPH_OUTPUT, output.SerializeToString())
    for i in range(depth):  # by hand, as the library builds nothing so deep
        then = field(1, b"then_branch") + field(OF_GRAPH, head + nodes)
        then += field(TYPE, GRAPH_TYPE)
        yes = constant(numpy_helper.from_array(np.array(True)), f"yes{i}").SerializeToString()
        node = helper.make_node("If", [f"yes{i}"], ["c"], else_branch=other).SerializeToString()
        nodes = field(NODE, yes) + field(NODE, node + field(ATTRIBUTE, then))
    return model().SerializeToString() + field(GRAPH, nodes)


def calling(functions: int, calls: int, circle: bool = False) -> Made:
    """Functions each of which calls the next so many times."""
    made = model()
    own = helper.make_opsetid("own", 1)
    for i in range(functions):
        last = i + 1 == functions and not circle
        nodes, value = [], "x"
        for call in range(calls):
            name = "y" if call + 1 == calls else f"x{call}"
            operator, domain = ("Identity", "") if last else (f"f{(i + 1) % functions}", "own")
            nodes.append(helper.make_node(operator, [value], [name], domain=domain))
            value = name
        made.functions.append(
            helper.make_function("own", f"f{i}", ["x"], ["y"], nodes, [OPSET, own])
        )
    made.opset_import.append(own)
    made.graph.node[0].CopyFrom(helper.make_node("f0", ["input"], ["logits"], domain="own"))
    return made


def chain(count: int) -> Made:
    """So many nodes, one after the other."""
    names = ["input", *(f"n{i}" for i in range(count))]
    made = model([helper.make_node("Relu", [a], [b]) for a, b in itertools.pairwise(names)])
    made.graph.node[-1].input[0] = names[-1]
    return made


def circle() -> Made:
    made = model([helper.make_node("Add", ["input", "b"], ["a"])])
    made.graph.node.append(helper.make_node("Identity", ["a"], ["b"]))
    return made


def operators(**opsets: int) -> Made:
    made = model()
    del made.opset_import[:]
    made.opset_import.extend(helper.make_opsetid(k.replace("_", ""), v) for k, v in opsets.items())
    return made


def graphs() -> dict[str, Made]:
    twice = model([helper.make_node("Relu", ["input"], ["a"])] * 2)
    two = model()
    two.graph.input.append(helper.make_tensor_value_info("more", FLOAT, IMAGES))
    none = model([helper.make_node("RandomNormal", [], ["r"], shape=IMAGES)])
    del none.graph.input[:]
    none.graph.node[-1].input[0] = "r"
    no_output = model()
    del no_output.graph.output[:]
    escapes = model()
    escapes.graph.output[0].name = escapes.graph.node[0].output[0] = "\x1b[2J\n"
    return {
        "an input of text": shaped(*IMAGES, kind=TensorProto.STRING),
        "an input of float64": shaped(*IMAGES, kind=TensorProto.DOUBLE),
        "an input of an unknown dtype": shaped(*IMAGES, kind=99),
        "an input of three axes": shaped(3, 8, 8),
        "an input of four channels": shaped(1, 4, 8, 8),
        "an input of open sides": shaped(1, 3, "h", "w"),
        "an input without a shape": shaped(*IMAGES[:1]),
        "an input of no pixels": shaped(1, 3, 0, 0),
        "an input of negative sides": shaped(1, 3, -8, -8),
        "an input of 2**31 a side": shaped(1, 3, 2**31, 2**31),
        "an input of 2**62 images": shaped(2**62, 3, 8, 8),
        "two inputs": two,
        "no input": none,
        "no output": no_output,
        "a name with escapes": escapes,
        "an operator that is none": model([helper.make_node("NoSuch", ["input"], ["a"])]),
        "an operator of a stranger": model(
            [helper.make_node("Run", ["input"], ["a"], domain="os.system")]
        ),
        "an operator in Python": model(
            [helper.make_node("PyOp", ["input"], ["a"], domain="pyopmulti_1", module="os")]
        ),
        "a value that nothing makes": model([helper.make_node("Relu", ["nothing"], ["a"])]),
        "a value that two nodes make": twice,
        "a circle": circle(),
        "no operator set": operators(),
        "an operator set of 10**6": operators(_=10**6),
        "a negative operator set": operators(_=-1),
        "a function that calls itself": calling(1, 1, circle=True),
        "functions that call each other": calling(3, 1, circle=True),
        "functions that double 40 times": calling(40, 2),
        "a sparse tensor of 2**40": sparse(2**40, 5),
        "a sparse tensor of 2**30": sparse(2**30, 5),
        "a sparse value beyond its tensor": sparse(9, 2**40),
        "a sparse value before its tensor": sparse(9, -1),
        "a constant of negative sides": filled(-1, -1),
    }


def growing() -> dict[str, Made]:
    """Graphs of a few nodes that would make much of nothing, or never end."""
    return {
        "a constant of 2**40": filled(2**40),
        "a constant of 2**20 a side": filled(2**20, 2**20),
        "a constant of 1 GiB": filled(2**28),
        "1 repeated 2**40 times": expanded("Tile", 2**40),
        "1 repeated 2**28 times": expanded("Tile", 2**28),
        "1 expanded to 2**28": expanded("Expand", 2**28),
        "a range to 2**28": ranged(2**28),
        "a range to 2**40": ranged(2**40),
        "a loop of 2**62 rounds": looping(2**62),
        "padding of 2**40": padded(2**40),
        "padding of 2**28": padded(2**28),
    }


def padded(size: int) -> Made:
    """A constant with so many zeros behind it."""
    one = constant(numpy_helper.from_array(ONE), "one")
    pads = constant(numpy_helper.from_array(np.array([0, size], np.int64)), "pads")
    return using([one, pads, helper.make_node("Pad", ["one", "pads"], ["large"])])


def entries(**said: str) -> bytes:
    made = model()
    for key, text in said.items():
        made.metadata_props.add(key=key, value=text)
    return made.SerializeToString()


def manifests() -> dict[str, bytes]:
    return {
        "a manifest that is no JSON": entries(parity="{nothing}"),
        "a manifest of a list": entries(parity="[1]"),
        "a manifest without a seal": entries(parity='{"tool": "parity-suite", "version": 2}'),
        "a manifest 100,000 deep": entries(parity="[" * 10**5 + "]" * 10**5),
        "a manifest of a number of a million digits": entries(parity="9" * 10**6),
    }


def large() -> dict[str, Callable[[], bytes]]:
    """Files whose messages take far more memory than bytes, and work than both."""
    good = model().SerializeToString

    def many(inner: bytes, count: int) -> Callable[[], bytes]:
        return lambda: good() + inner * count

    in_graph = functools.partial(field, GRAPH)
    return {
        "3,000,000 empty tensors": many(in_graph(field(INITIALIZER, b"")), 3 * 10**6),
        "3,000,000 empty nodes": many(in_graph(field(NODE, b"")), 3 * 10**6),
        "3,000,000 empty entries of metadata": many(field(METADATA, b""), 3 * 10**6),
        "3,000,000 empty functions": many(field(FUNCTION, b""), 3 * 10**6),
        "3,000,000 fields that nobody knows": many(field(99, b""), 3 * 10**6),
        "200,000 nodes": lambda: chain(200_000).SerializeToString(),
    }


def kinds() -> Iterator[Kind]:
    """All."""
    yield from elsewhere()
    yield from no_files()
    fine = {
        "a graph that is a number": "protobuf passes over a field of another kind",
        "a name that is not UTF-8": "nobody looks at it",
        "a constant: no name": "it needs none",
        "conditions 10 deep": "it is not too deep",
        **dict.fromkeys(growing(), RUN),
    }
    yield from of_each(GROUP, messages() | manifests(), fine)
    for name, lie in tensors().items():
        yield of_bytes(GROUP, f"a tensor: {name}", model(initializer=[lie]).SerializeToString())
        name, data = f"a constant: {name}", model([constant(lie)]).SerializeToString()
        yield of_bytes(GROUP, name, data, fine.get(name, ""))
    for name, made in (graphs() | growing()).items():
        yield of_bytes(GROUP, name, made.SerializeToString(), fine.get(name, ""))
    for depth in (10, 60, 2000):
        name = f"conditions {depth:,} deep"
        yield of_function(GROUP, name, functools.partial(deep, depth), fine.get(name, ""))
    for name, make in large().items():
        yield of_function(GROUP, name, make)
