"""Networks in ONNX that lie or grow; their nodes are written in ONNX's own text."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from tests.fuzz.hostile.mindspore_files import field

OPSET = helper.make_opsetid("", 20)
FLOAT = TensorProto.FLOAT
IMAGES = (1, 3, 8, 8)
NODE, GRAPH_NAME, GRAPH_OUTPUT = 1, 2, 12  # fields of a graph
GRAPH, ATTRIBUTE = 7, 5  # of a model, of a node
OF_GRAPH, TYPE, GRAPH_TYPE = 6, 20, 5  # of an attribute, and what the type of a graph is
ONE = np.ones(1, np.float32)

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


def written(
    nodes: str = "",
    last: str = "logits = Identity(input)",
    inputs: str = "float[1,3,8,8] input",
    outputs: str = "float[1,3,8,8] logits",
    opsets: str = '"": 20',
    functions: str = "",
) -> Made:
    """A network whose nodes are ONNX's own text."""
    head = f"<ir_version: 10, opset_import: [{opsets}]>"
    return onnx.parser.parse_model(
        f"{head} g ({inputs}) => ({outputs}) {{ {nodes} {last} }} {functions}"
    )


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


def in_training(tensor: TensorProto) -> Made:
    made = model()
    made.training_info.add().initialization.initializer.append(tensor)
    return made


PLACES: dict[str, Callable[[TensorProto], Made]] = {
    "an initializer": lambda tensor: model(initializer=[tensor]),
    "an attribute": lambda tensor: model([constant(tensor)]),
    "a branch": lambda tensor: branching(constant(tensor)),
    "a function": in_function,
    "a sparse initializer": lambda tensor: model(
        sparse_initializer=[SparseTensorProto(values=tensor, dims=[9])]
    ),
    "training": in_training,
}


# --- Graphs that are no network of images, or grow


def shaped(*dims: int | str | None, kind: int = FLOAT) -> Made:
    """A network of another input."""
    made = model()
    for value in (made.graph.input[0], made.graph.output[0]):
        value.CopyFrom(helper.make_tensor_value_info(value.name, kind, dims))
    return made


def sparse(size: int, index: int) -> Made:
    """A network with a sparse tensor of one value."""
    one = numpy_helper.from_array(ONE, "w")
    indices = numpy_helper.from_array(np.array([index], np.int64), "i")
    return model(sparse_initializer=[helper.make_sparse_tensor(one, indices, [size])])


def using(nodes: str, *numbers: int, **values: str) -> Made:
    """A network whose output depends on the value `large`, by a number of it.

    Args:
        nodes: Those that make it.
        numbers: What they take as `n`.
        values: Other constants that they take, such as `bool {1}`; there are `zero` and `one`.
    """
    given = values | {"zero": "float {0.0}", "one": "float[1] {1.0}"}
    if numbers:
        given["n"] = f"int64[{len(numbers)}] {{{', '.join(map(str, numbers))}}}"
    constants = " ".join(f"{name} = Constant <value = {v}> ()" for name, v in given.items())
    ends = "most = ReduceMax <keepdims = 0> (large) by = Mul(most, zero)"
    return written(f"{constants} {nodes} {ends}", "logits = Add(input, by)")


def filled(*sides: int) -> Made:
    """A constant that is made from its shape."""
    return using("large = ConstantOfShape(n)", *sides)


def ranged(size: int) -> Made:
    """A constant that counts."""
    end, step = f"float {{{size}.0}}", "float {1.0}"
    return using("large = Range(zero, end, step)", end=end, step=step)


def looping(count: int) -> Made:
    """A loop that runs so many times."""
    body = (
        "body (int64 i, bool go_on, float[] x) => (bool goes_on, float[] y)"
        " { goes_on = Identity(go_on) y = Identity(x) }"
    )
    loop = f"large = Loop <body = {body}> (count, yes, one)"
    return using(loop, count=f"int64 {{{count}}}", yes="bool {1}")


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
    texts = []
    for i in range(functions):
        last = i + 1 == functions and not circle
        called = "Identity" if last else f"own.f{(i + 1) % functions}"
        names = ["x", *(f"x{call}" for call in range(calls - 1)), "y"]
        nodes = " ".join(f"{b} = {called}({a})" for a, b in itertools.pairwise(names))
        head = '<domain: "own", opset_import: ["": 20, "own": 1]>'
        texts.append(f"{head} f{i} (x) => (y) {{ {nodes} }}")
    return written(
        last="logits = own.f0(input)", opsets='"": 20, "own": 1', functions=" ".join(texts)
    )


def chain(count: int) -> Made:
    """So many nodes, one after the other."""
    names = ["input", *(f"n{i}" for i in range(count))]
    nodes = " ".join(f"{b} = Relu({a})" for a, b in itertools.pairwise(names))
    return written(nodes, f"logits = Identity({names[-1]})")


def escaping(name: str) -> Made:
    """A network whose output has this name."""
    made = model()
    made.graph.output[0].name = made.graph.node[0].output[0] = name
    return made
