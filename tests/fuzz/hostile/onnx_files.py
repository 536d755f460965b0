"""ONNX files: tensors that lie elsewhere, protobuf that lies, graphs that grow."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence

import onnx
from onnx import TensorProto

from tests.fuzz.hostile.kinds import Kind, Place, of_bytes, of_each, of_function
from tests.fuzz.hostile.mindspore_files import END, START, field, varint
from tests.fuzz.hostile.onnx_networks import (
    FLOAT,
    GRAPH,
    IMAGES,
    NODE,
    OPSET,
    PLACES,
    Made,
    calling,
    chain,
    constant,
    deep,
    escaping,
    expanded,
    filled,
    looping,
    model,
    outside,
    padded,
    ranged,
    shaped,
    sparse,
    written,
)

GROUP = "onnx"
METADATA, FUNCTION = 14, 25  # fields of a model
INITIALIZER = 5  # of a graph
IMAGE = "float[1,3,8,8]"
RUN = "nothing is computed before there is an image"


# --- Values in another file, wherever its name may be hidden


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


def no_files() -> Iterator[Kind]:
    yield Kind(GROUP, "a whole one", _write, "it is what it says")
    yield Kind(
        GROUP, "a link to nothing", lambda place: place.file.symlink_to(place.outside / "no")
    )
    yield Kind(GROUP, "a link to a device", lambda place: place.file.symlink_to("/dev/zero"))
    yield Kind(GROUP, "a folder", lambda place: place.file.mkdir())
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


# --- Graphs that are no network of images, or grow


def graphs() -> dict[str, Made]:
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
        "two inputs": written(inputs=f"{IMAGE} input, {IMAGE} more"),
        "no input": written(
            "r = RandomNormal <shape = [1, 3, 8, 8]> ()", "logits = Identity(r)", inputs=""
        ),
        "no output": written(outputs=""),
        "a name with escapes": escaping("\x1b[2J\n"),
        "an operator that is none": written("a = NoSuch(input)"),
        "an operator of a stranger": written("a = os.system.Run(input)"),
        "an operator in Python": written('a = pyopmulti_1.PyOp <module = "os"> (input)'),
        "a value that nothing makes": written("a = Relu(nothing)"),
        "a value that two nodes make": written("a = Relu(input) a = Relu(input)"),
        "a circle": written("a = Add(input, b)", "logits = Identity(input) b = Identity(a)"),
        "no operator set": written(opsets=""),
        "an operator set of 10**6": written(opsets='"": 1000000'),
        "a negative operator set": written(opsets='"": -1'),
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
