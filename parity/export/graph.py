"""An ONNX graph under construction: nodes and initializers, in the order of their addition."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from parity.spec.errors import InputError

OPSET = 20
IR_VERSION = 10  # the one that came with this operator set
BATCH = "batch"  # the name of a batch axis that is not fixed

Dims = Sequence[int | str]


class Graph:
    """Nodes and initializers. Equal initializers are held once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._known: dict[tuple, str] = {}
        self._count = 0

    def constant(self, array: np.ndarray) -> str:
        """Return the name of an initializer with these values."""
        array = np.ascontiguousarray(array).reshape(array.shape)  # which makes of a scalar a row
        key = ("constant", array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest())
        if key not in self._known:
            name = f"constant_{len(self.initializers)}"
            self.initializers[name] = numpy_helper.from_array(array, name)
            self._known[key] = name
        return self._known[key]

    def integers(self, *values: int) -> str:
        """Return the name of an int64 initializer of one axis."""
        return self.constant(np.array(values, np.int64))

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; the names of its outputs. One that is there already is not added again."""
        key = (op, inputs, outputs, repr(sorted(attributes.items())))
        if key not in self._known:
            self._count += 1
            names = [f"{op}_{self._count}" + (f"_{i}" if i else "") for i in range(outputs)]
            self.nodes.append(helper.make_node(op, inputs, names, name=names[0], **attributes))
            self._known[key] = "\n".join(names)
        return self._known[key].split("\n")

    def mark(self) -> tuple:
        """Return the graph's current state, for `back_to`."""
        return len(self.nodes), dict(self.initializers), dict(self._known), self._count

    def back_to(self, mark: tuple) -> None:
        """Forget what was added since."""
        count, initializers, known, number = mark
        del self.nodes[count:]
        self.initializers, self._known, self._count = initializers, known, number

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; its name."""
        return self.add(op, *inputs, **attributes)[0]

    def model(
        self, inputs: Mapping[str, Dims], outputs: Mapping[str, tuple[str, Dims]]
    ) -> onnx.ModelProto:
        """Return the whole model.

        Args:
            inputs: Name -> shape, float32.
            outputs: Name -> the value that has it, and its shape, float32.
        """
        for name, (value, _) in outputs.items():
            self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        graph = helper.make_graph(
            self.nodes,
            "network",
            [tensor_info(name, shape) for name, shape in inputs.items()],
            [tensor_info(name, shape) for name, (_, shape) in outputs.items()],
            list(self.initializers.values()),
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)


def unsupported(eqn: Any, what: str) -> InputError:
    """Return the error for a primitive used in a way that has no translation."""
    return InputError(f"no translation to ONNX for JAX's {eqn.primitive.name} with {what}")


def tensor_info(name: str, shape: Dims) -> onnx.ValueInfoProto:
    """Return a float32 tensor of this shape."""
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, list(shape))
