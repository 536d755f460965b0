"""PyTorch files whose pickle is allowed, and whose tensors or records are not."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tests.fuzz.hostile import Content, Kind, files
from tests.fuzz.hostile.opcodes import Call, Global, Persistent, called, joined, pickled
from tests.fuzz.hostile.pickles import NUMBERS, PREFIX, entries, torch_legacy, torch_zip
from tests.fuzz.hostile.zips import MEBIBYTE, Entry, archive, deflated, zeros

FLOATS = Global("torch", "FloatStorage")
UTILS = "torch._utils._rebuild"


def storage(key: Any = "0", numel: Any = 6, type_: Any = FLOATS, place: Any = "cpu") -> Persistent:
    return Persistent(("storage", type_, key, place, numel))


def tensor(offset: Any = 0, size: Any = (2, 3), stride: Any = (3, 1), of: Any = None) -> Call:
    """A tensor as `torch.save` writes it: a view of a storage."""
    hooks = called("collections.OrderedDict")
    return called(f"{UTILS}_tensor_v2", of or storage(), offset, size, stride, False, hooks)


GOOD = pickled({"a": tensor()})


def views() -> dict[str, Any]:
    """Tensors that leave their storage, or grow out of it."""
    affine = (Global("torch", "per_tensor_affine"), 1, 0)
    sparse = (Global("torch", "sparse_coo"), (tensor(), tensor(), (2, 3), True))
    system = (Global("os", "system"), Global("torch", "float32"))
    return {
        "an offset outside": tensor(offset=2**40),
        "a negative offset": tensor(offset=-1),
        "an offset of 2**63": tensor(offset=2**63),
        "strides outside": tensor(stride=(2**40, 1)),
        "negative strides": tensor(stride=(-3, 1)),
        "a size outside": tensor(size=(2**40, 3)),
        "a negative size": tensor(size=(-2, 3)),
        "a size that overflows": tensor(size=(2**32, 2**32), stride=(0, 0)),
        "a size of text": tensor(size=("2", 3)),
        "more sizes than strides": tensor(size=(1,) * 65, stride=(1,) * 65),
        "one number, seen 2**36 times": tensor(size=(2**18, 2**18), stride=(0, 0)),
        "one number, seen 2**28 times": tensor(size=(2**14, 2**14), stride=(0, 0)),
        "a storage of 2**40 numbers": tensor(of=storage(numel=2**40)),
        "a storage of -1 numbers": tensor(of=storage(numel=-1)),
        "a storage of 2**63 numbers": tensor(of=storage(numel=2**63)),
        "a storage smaller than its record": tensor(size=(1,), stride=(1,), of=storage(numel=1)),
        "a storage under ../": tensor(of=storage(key="../../outside/secret")),
        "a storage of no such name": tensor(of=storage(key="1")),
        "a storage by number": tensor(of=storage(key=0)),
        "a storage on another device": tensor(of=storage(place="cuda:7")),
        "a storage on no device": tensor(of=storage(place="nowhere")),
        "a storage on meta": tensor(of=storage(place="meta")),
        "a storage of another type": tensor(of=storage(type_=Global("torch", "Tensor"))),
        "a storage of text": tensor(of=storage(type_="FloatStorage")),
        "a sparse tensor out of range": called(f"{UTILS}_sparse_tensor", *sparse),
        "a quantised tensor": called(
            f"{UTILS}_qtensor", storage(), 0, (2, 3), (3, 1), affine, False, ()
        ),
        "a tensor of a subclass": called(
            f"{UTILS}_wrapper_subclass", *system, (2**40,), (1,), 0, None, None, 0
        ),
        "a tensor with a state": joined(tensor(), {"grad_fn": 1, "data": 5}, b"b"),
        "a tensor with a slot": joined(tensor(), (None, {"__class__": 5}), b"b"),
        "no arguments": called(f"{UTILS}_tensor_v2"),
        "a parameter of nothing": called(f"{UTILS}_parameter", 1, 2, 3),
    }


def records() -> dict[str, Content]:
    """Records that are not what the format has there."""

    def aligned(text: bytes) -> bytes:
        rest = [e for e in entries(GOOD) if "byteorder" not in e.name]
        return archive([*rest, Entry(f"{PREFIX}.storage_alignment", text)])

    script = Entry(f"{PREFIX}constants.pkl", pickled(()))
    code = Entry(f"{PREFIX}code/__torch__.py", b"op_version_set = 1\nimport os\n")
    names = {f"{i:03}{'x' * 200}\x1b[2J": tensor() for i in range(3)}
    return {
        "byteorder: another": archive(entries(GOOD, byteorder=b"middle")),
        "byteorder: empty": archive(entries(GOOD, byteorder=b"")),
        "byteorder: binary": archive(entries(GOOD, byteorder=b"\xff" * 100)),
        "a tensor's record cut short": archive(entries(GOOD, data_0=NUMBERS[:-1])),
        "a tensor's record of nothing": archive(entries(GOOD, data_0=b"")),
        "a version of the future": archive(entries(GOOD, version=b"99999999999999999999\n")),
        "a version of text": archive(entries(GOOD, version=b"latest\n")),
        "a storage alignment of -1": aligned(b"-1"),
        "a storage alignment of 2**70": aligned(b"%d" % 2**70),
        "TorchScript": archive([*entries(GOOD), script, code]),
        "TorchScript without constants": archive([*entries(GOOD), code]),
        "two networks in one archive": archive([*entries(GOOD), Entry("other/data.pkl", b"N.")]),
        "no folder": archive([Entry("data.pkl", pickled({"a": 1}))]),
        "names with escapes": torch_zip(pickled(names)),
        "a name of 1 MB": torch_zip(pickled({"a" * 10**6: 1})),
        "a key of bytes": torch_zip(pickled({b"a": tensor()})),
    }


def legacy() -> dict[str, Content]:
    """Files of before 1.6 whose storages are not those of the pickle."""

    def holding(numel: int, view: Any = None) -> bytes:
        storage = Persistent(("storage", FLOATS, "0", "cpu", numel, view))
        return torch_legacy(pickled({"a": tensor(of=storage)}))

    whole = holding(6)
    return {
        "a storage of 2**40 numbers": holding(2**40),
        "a view of a storage, outside": holding(6, ("0:1", 2**40, 4)),
        "a storage that claims another size": whole[:-32] + struct.pack("<q24x", 2**40),
        "a storage of a negative size": whole[:-32] + struct.pack("<q24x", -1),
        "a storage cut short": whole[:-1],
        "no storages": whole[: -32 - len(pickled(["0"]))],
        "another protocol": whole.replace(pickled(1001), pickled(1002), 1),
        "storages of other names": whole.replace(pickled(["0"]), pickled(["1"])),
        "storages that are no list": whole.replace(pickled(["0"]), pickled(5)),
    }


def growing() -> dict[str, Content]:
    """Archives that unpack to far more than they are."""
    pickle, name = entries(GOOD)[0], f"{PREFIX}data/0"
    dicts = b"\x80\x02](" + b"}" * (8 * MEBIBYTE) + b"e."
    bombs = (zeros(f"{PREFIX}{i}", 64) for i in range(20))
    view = tensor(size=(MEBIBYTE,), stride=(0,))
    return {
        "a bomb as a tensor": lambda: archive([pickle, zeros(name, 1024)]),
        "a bomb beside the tensors": lambda: archive(
            [*entries(GOOD), zeros(f"{PREFIX}extra", 1024)]
        ),
        "a bomb that claims to be small": lambda: archive([pickle, zeros(name, 1024, size=24)]),
        "a bomb without a checksum": lambda: archive([pickle, zeros(name, 1024, crc=0)]),
        "a pickle as a bomb": lambda: archive(
            [deflated(f"{PREFIX}data.pkl", dicts), *entries(GOOD)[1:]]
        ),
        "many small bombs": lambda: archive([*entries(GOOD), *bombs]),
        "1,000 views of one number": lambda: torch_zip(
            pickled({f"a{i}": view for i in range(1000)})
        ),
    }


FINE = {
    "a storage by number": "a record's name is a text, also of a number",
    "a storage on another device": "everything is read to the CPU",
    "a storage on no device": "everything is read to the CPU",
    "a storage on meta": "everything is read to the CPU",
    "a storage alignment of -1": "only writing goes by it",
    "a storage alignment of 2**70": "only writing goes by it",
    "TorchScript without constants": "nobody looks at its code",
}


def kinds() -> Iterator[Kind]:
    """All of PyTorch's, but for what lies in its pickles and in zip archives of every sort."""
    tensors = {name: torch_zip(pickled({"a": value})) for name, value in views().items()}
    yield from files("torch zip", tensors | records() | growing(), FINE)
    yield from files("torch legacy", legacy())
