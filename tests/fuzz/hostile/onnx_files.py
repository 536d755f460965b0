"""ONNX files: tensors that lie elsewhere, protobuf that lies, graphs that grow."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

import onnx
from onnx import TensorProto

from tests.fuzz.hostile import Kind, Place, files
from tests.fuzz.hostile import onnx_networks as nets
from tests.fuzz.hostile.mindspore_files import END, START, field, varint

GROUP = "onnx"
METADATA, FUNCTION = 14, 25  # fields of a model
INITIALIZER = 5  # of a graph
IMAGE = "float[1,3,8,8]"


# What lies there -> how it is made.
NO_FILES: dict[str, Callable[[Place], object]] = {
    "a whole one": lambda place: place.file.write_bytes(nets.model().SerializeToString()),
    "a link to nothing": lambda place: place.file.symlink_to(place.outside / "no"),
    "a link to a device": lambda place: place.file.symlink_to("/dev/zero"),
    "a folder": lambda place: place.file.mkdir(),
    "a pipe": lambda place: os.mkfifo(place.file),
}


def elsewhere() -> dict[str, nets.Made]:
    """Values in another file, wherever its name may be hidden."""
    found = {
        f"{place} in the file {location!r}": make(nets.outside(location))
        for place, make in nets.PLACES.items()
        for location in ("../outside/secret", "/etc/hostname", "beside.bin", "")
    }
    named = nets.outside("../outside/secret", said=False)
    return found | {"an initializer that only names a file": nets.model(initializer=[named])}


def messages() -> dict[str, bytes]:
    """Protobuf that lies."""
    empty = nets.Made(ir_version=10, opset_import=[nets.OPSET])
    unnamed = nets.Made(ir_version=10, opset_import=[nets.OPSET], graph=onnx.GraphProto(name="g"))
    good = nets.model().SerializeToString()
    return {
        "nothing behind its version": good[:2],
        "cut short": good[:-5],
        "zeros behind": good + bytes(100),
        "a length of 2**63": good + field(METADATA, b"x", 2**63),
        "a length of 2**64 - 1": good + field(METADATA, b"x", 2**64 - 1),
        "a length of 2**31": good + field(METADATA, b"x", 2**31),
        "a length one too long": good + field(METADATA, b"x", 2),
        "a graph longer than the file": good[:2] + field(nets.GRAPH, b"x", 2**20),
        "an endless number": good + b"\xff" * 100,
        "wire type 7": good + varint(METADATA << 3 | 7) + b"\0",
        "field 0": good + field(0, b"x"),
        "a group that does not end": good + varint(99 << 3 | START) * 1000,
        "an end of no group": good + varint(99 << 3 | END),
        "groups 100,000 deep": good + varint(99 << 3 | START) * 10**5,
        "a graph that is a number": good + field(nets.GRAPH, 7),
        "two graphs": good + field(nets.GRAPH, nets.model().graph.SerializeToString()),
        "a version of 2**63": b"\x08" + varint(2**63) + good[2:],
        "a version of 0": b"\x08\0" + good[2:],
        "no version": good[2:],
        "a name that is not UTF-8": good + field(2, b"\xff\xfe"),
        "no graph": empty.SerializeToString(),
        "an empty graph": unnamed.SerializeToString(),
    }


def tensors() -> dict[str, TensorProto]:
    """Tensors that lie."""

    def tensor(
        *dims: int, raw: bytes = bytes(24), kind: int = nets.FLOAT, **more: Any
    ) -> TensorProto:
        fields: dict[str, Any] = {"name": "w", "data_type": kind, "raw_data": raw} | more
        return TensorProto(dims=dims, **fields)

    cut = TensorProto.Segment(begin=0, end=2**62)
    return {
        "a dim of 2**62": tensor(2**62),
        "a dim of 2**40 without values": tensor(2**40, raw=b""),
        "dims whose product is 6 again": tensor(2**32 + 1, 2**32 - 1, 6),
        "a negative dim": tensor(-6),
        "two negative dims": tensor(-2, -3),
        "a dim of 0 beside 2**63 - 1": tensor(0, 2**63 - 1, raw=b""),
        "10,000 dims": tensor(*[1] * 9_999, 6),
        "too few bytes": tensor(7),
        "too many bytes": tensor(5),
        "values twice": tensor(6, float_data=[1.0] * 6),
        "values that are a text": tensor(6, raw=b"", string_data=[b"x" * 24]),
        "values that are cut off": tensor(6, segment=cut),
        "an unknown dtype": tensor(6, kind=99),
        "a dtype of 0": tensor(6, kind=0),
        "a text": tensor(6, kind=TensorProto.STRING),
        "no name": tensor(6, name=""),
    }


def graphs() -> dict[str, nets.Made]:
    """Graphs that are no network of images, or grow."""
    return {
        "an input of text": nets.shaped(*nets.IMAGES, kind=TensorProto.STRING),
        "an input of float64": nets.shaped(*nets.IMAGES, kind=TensorProto.DOUBLE),
        "an input of an unknown dtype": nets.shaped(*nets.IMAGES, kind=99),
        "an input of three axes": nets.shaped(3, 8, 8),
        "an input of four channels": nets.shaped(1, 4, 8, 8),
        "an input of open sides": nets.shaped(1, 3, "h", "w"),
        "an input without a shape": nets.shaped(*nets.IMAGES[:1]),
        "an input of no pixels": nets.shaped(1, 3, 0, 0),
        "an input of negative sides": nets.shaped(1, 3, -8, -8),
        "an input of 2**31 a side": nets.shaped(1, 3, 2**31, 2**31),
        "an input of 2**62 images": nets.shaped(2**62, 3, 8, 8),
        "two inputs": nets.written(inputs=f"{IMAGE} input, {IMAGE} more"),
        "no input": nets.written(
            "r = RandomNormal <shape = [1, 3, 8, 8]> ()", "logits = Identity(r)", inputs=""
        ),
        "no output": nets.written(outputs=""),
        "a name with escapes": nets.escaping("\x1b[2J\n"),
        "an operator that is none": nets.written("a = NoSuch(input)"),
        "an operator of a stranger": nets.written("a = os.system.Run(input)"),
        "an operator in Python": nets.written('a = pyopmulti_1.PyOp <module = "os"> (input)'),
        "a value that nothing makes": nets.written("a = Relu(nothing)"),
        "a value that two nodes make": nets.written("a = Relu(input) a = Relu(input)"),
        "a circle": nets.written("a = Add(input, b)", "logits = Identity(input) b = Identity(a)"),
        "no operator set": nets.written(opsets=""),
        "an operator set of 10**6": nets.written(opsets='"": 1000000'),
        "a negative operator set": nets.written(opsets='"": -1'),
        "a function that calls itself": nets.calling(1, 1, circle=True),
        "functions that call each other": nets.calling(3, 1, circle=True),
        "functions that double 40 times": nets.calling(40, 2),
        "a sparse tensor of 2**40": nets.sparse(2**40, 5),
        "a sparse tensor of 2**30": nets.sparse(2**30, 5),
        "a sparse value beyond its tensor": nets.sparse(9, 2**40),
        "a sparse value before its tensor": nets.sparse(9, -1),
        "a constant of negative sides": nets.filled(-1, -1),
    }


def growing() -> dict[str, nets.Made]:
    """Graphs of a few nodes that would make much of nothing, or never end."""
    return {
        "a constant of 2**40": nets.filled(2**40),
        "a constant of 2**20 a side": nets.filled(2**20, 2**20),
        "a constant of 1 GiB": nets.filled(2**28),
        "1 repeated 2**40 times": nets.using("large = Tile(one, n)", 2**40),
        "1 repeated 2**28 times": nets.using("large = Tile(one, n)", 2**28),
        "1 expanded to 2**28": nets.using("large = Expand(one, n)", 2**28),
        "a range to 2**28": nets.ranged(2**28),
        "a range to 2**40": nets.ranged(2**40),
        "a loop of 2**62 rounds": nets.looping(2**62),
        "padding of 2**40": nets.using("large = Pad(one, n)", 0, 2**40),
        "padding of 2**28": nets.using("large = Pad(one, n)", 0, 2**28),
    }


def manifests() -> dict[str, nets.Made]:
    """Networks whose manifest lies."""
    texts = {
        "that is no JSON": "{nothing}",
        "of a list": "[1]",
        "without a seal": '{"tool": "parity-suite", "version": 2}',
        "100,000 deep": "[" * 10**5 + "]" * 10**5,
        "of a number of a million digits": "9" * 10**6,
    }
    found = {f"a manifest {name}": nets.model() for name in texts}
    for made, text in zip(found.values(), texts.values(), strict=True):
        made.metadata_props.add(key="parity", value=text)
    return found


def large() -> dict[str, Callable[[], bytes]]:
    """Files whose messages take far more memory than bytes, and work than both."""
    good = nets.model().SerializeToString

    def many(inner: bytes, count: int) -> Callable[[], bytes]:
        return lambda: good() + inner * count

    in_graph = functools.partial(field, nets.GRAPH)
    return {
        "3,000,000 empty tensors": many(in_graph(field(INITIALIZER, b"")), 3 * 10**6),
        "3,000,000 empty nodes": many(in_graph(field(nets.NODE, b"")), 3 * 10**6),
        "3,000,000 empty entries of metadata": many(field(METADATA, b""), 3 * 10**6),
        "3,000,000 empty functions": many(field(FUNCTION, b""), 3 * 10**6),
        "3,000,000 fields that nobody knows": many(field(99, b""), 3 * 10**6),
        "200,000 nodes": lambda: nets.chain(200_000).SerializeToString(),
    }


def kinds() -> Iterator[Kind]:
    """All."""
    fine = {
        "a whole one": "it is what it says",
        "a graph that is a number": "protobuf passes over a field of another kind",
        "a name that is not UTF-8": "nobody looks at it",
        "a constant: no name": "it needs none",
        "conditions 10 deep": "it is not too deep",
        **dict.fromkeys(growing(), "nothing is computed before there is an image"),
    }
    for name, make in NO_FILES.items():
        yield Kind(GROUP, name, make, fine.get(name, ""))
    networks = elsewhere() | manifests() | graphs() | growing()
    for name, lie in tensors().items():
        networks[f"a tensor: {name}"] = nets.model(initializer=[lie])
        networks[f"a constant: {name}"] = nets.model([nets.constant(lie)])
    data = {name: made.SerializeToString() for name, made in networks.items()}
    conditions = {f"conditions {n:,} deep": functools.partial(nets.deep, n) for n in (10, 60, 2000)}
    yield from files(GROUP, messages() | data | conditions | large(), fine)
