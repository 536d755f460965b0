"""Rewriting an ONNX graph to run faster in ONNX Runtime on a CPU.

ONNX Runtime folds batch norms and activations into convolutions and runs those in its own layout;
what it cannot fold or take over into that layout costs more than the convolutions. Each rule
replaces what it recognises by something that computes the same numbers, but for rounding.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper


def tuned(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model, changed in place."""
    numbers = itertools.count()
    for rule in RULES:
        view = View(model.graph, numbers)
        for node in list(model.graph.node):
            if replacement := rule(view, node):
                view.replace(node, replacement)
        prune(model.graph)
    return model


def prune(graph: onnx.GraphProto) -> None:
    """Remove what no output depends on."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            needed |= set(node.input)
            kept.append(node)
    for field, items in (
        (graph.node, kept[::-1]),
        (graph.initializer, [i for i in graph.initializer if i.name in needed]),
        (graph.value_info, []),
    ):
        items = list(items)
        del field[:]
        field.extend(items)


class View:
    """Looks up the nodes that produce and consume each value of a graph."""

    def __init__(self, graph: onnx.GraphProto, numbers: Iterator[int]) -> None:
        self.graph = graph
        self.numbers = numbers  # for names
        self.makers = {name: node for node in graph.node for name in node.output}
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.uses.update(output.name for output in graph.output)
        self.initializers = {i.name: i for i in graph.initializer}

    def maker(self, name: str, op: str) -> onnx.NodeProto | None:
        """Return the node that makes a value for one taker alone, if it is of this operator."""
        node = self.makers.get(name)
        alone = self.uses[name] == 1
        return node if node is not None and node.op_type == op and alone else None

    def constant(self, name: str) -> np.ndarray | None:
        """Return an initializer's values."""
        found = self.initializers.get(name)
        return None if found is None else numpy_helper.to_array(found)

    def with_constant(self, node: onnx.NodeProto) -> tuple[str, np.ndarray] | None:
        """Return a two-input node's variable input and constant input; None without a constant."""
        for i in (1, 0):
            if (array := self.constant(node.input[i])) is not None:
                return node.input[1 - i], array
        return None

    def new(self, array: np.ndarray) -> str:
        """Return the name of a new initializer."""
        name = f"tuned_{next(self.numbers)}"
        self.initializers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        self.graph.initializer.append(self.initializers[name])
        return name

    def replace(self, node: onnx.NodeProto, by: list[onnx.NodeProto]) -> None:
        """Put nodes in the place of one; the last makes its first output."""
        at = next(i for i, other in enumerate(self.graph.node) if other is node)
        for i, other in enumerate(by):
            self.graph.node.insert(at + i, other)
        self.graph.node.remove(node)
        self.makers |= {name: other for other in by for name in other.output}


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def slope(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Write a PReLU of one slope as LeakyRelu, which is folded into the convolution before it."""
    if node.op_type != "PRelu" or (slopes := view.constant(node.input[1])) is None:
        return None
    if slopes.size != 1:
        return None
    alpha = float(slopes.flat[0])
    return [helper.make_node("LeakyRelu", node.input[:1], node.output, node.name, alpha=alpha)]


def norm(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """(x - mean) * scale + bias, channel by channel, is a batch norm whose variance is 1."""
    parts, name = [], node.output[0]
    for op in ("Add", "Mul", "Sub"):
        maker = node if op == node.op_type == "Add" else view.maker(name, op)
        found = view.with_constant(maker) if maker else None
        if maker is None or found is None or (op == "Sub" and found[0] != maker.input[0]):
            return None
        name, array = found
        parts.append(array)
    bias, scale, mean = parts
    if not all(a.shape == bias.shape == (1, bias.size, 1, 1) for a in parts):
        return None
    names = [view.new(a.ravel()) for a in (scale, bias, mean, np.ones_like(mean))]
    return [
        helper.make_node("BatchNormalization", [name, *names], node.output, node.name, epsilon=0.0)
    ]


def stride(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Turn a 1x1 convolution of every s-th pixel into one of stride s."""
    if node.op_type != "Conv" or attribute(node, "kernel_shape") != [1, 1]:
        return None
    steps, name = {2: 1, 3: 1}, node.input[0]
    while (cut := view.maker(name, "Slice")) is not None:
        ends = [view.constant(i) for i in cut.input[1:5]]
        if len(ends) < 4 or any(n is None or n.size != 1 for n in ends):
            break
        start, _, axis, step = (int(n.flat[0]) for n in ends if n is not None)
        if start != 0 or axis not in steps:
            break
        steps[axis] *= step
        name = cut.input[0]
    if name == node.input[0] or attribute(node, "strides", [1, 1]) != [1, 1]:
        return None
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0] = name
    set_attribute(made, "strides", [steps[2], steps[3]])
    return [made]


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    for old in [a for a in node.attribute if a.name == name]:
        node.attribute.remove(old)
    node.attribute.append(helper.make_attribute(name, value))


def resize(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Two interpolations, each along one axis, are one along both."""
    if node.op_type != "Resize" or attribute(node, "axes") != [3]:
        return None
    first = view.maker(node.input[0], "Resize")
    modes = ("mode", "coordinate_transformation_mode", "nearest_mode")
    if first is None or attribute(first, "axes") != [2]:
        return None
    if any(attribute(first, m) != attribute(node, m) for m in modes):
        return None
    sizes = np.concatenate([view.constant(n.input[3]) for n in (first, node)])
    made = onnx.NodeProto()
    made.CopyFrom(node)
    made.input[0], made.input[3] = first.input[0], view.new(sizes)
    set_attribute(made, "axes", [2, 3])
    return [made]


def repeat(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Repeat each row (column): a new axis, expanded and merged, in place of an interpolation."""
    if node.op_type != "Reshape" or not (expand := view.maker(node.input[0], "Expand")):
        return None
    if not (first := view.maker(expand.input[0], "Reshape")):
        return None
    shapes = [view.constant(n.input[1]) for n in (first, expand, node)]
    found = [shape.tolist() for shape in shapes if shape is not None]
    if len(found) < 3:
        return None
    before, wide, after = found
    grown = [i for i, (a, b) in enumerate(zip(before, wide, strict=True)) if a > 0 and a != b]
    if len(before) != 5 or len(grown) != 1 or (axis := grown[0] - 1) not in (2, 3):
        return None
    if after[axis] != before[axis] * wide[axis + 1] or len(after) != 4:
        return None
    made = helper.make_node(
        "Resize",
        [first.input[0], "", "", view.new(np.array([after[axis]], np.int64))],
        node.output,
        node.name,
        axes=[axis],
        mode="nearest",
        nearest_mode="floor",
        coordinate_transformation_mode="asymmetric",
    )
    return [made]


def places(view: View, node: onnx.NodeProto) -> list[onnx.NodeProto] | None:
    """Drop the indices of a max-pool that nothing uses."""
    if node.op_type != "MaxPool" or len(node.output) < 2 or view.uses[node.output[1]]:
        return None
    made = onnx.NodeProto()
    made.CopyFrom(node)
    del made.output[1:]
    return [made]


Rule = Callable[[View, onnx.NodeProto], "list[onnx.NodeProto] | None"]

RULES: tuple[Rule, ...] = (slope, norm, stride, repeat, resize, places)
