"""Pickles that call, import or grow, in everything that holds a pickle."""

from __future__ import annotations

import functools
import io
import struct
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.fuzz.hostile import Kind, Place
from tests.fuzz.hostile.npz_files import described, headed
from tests.fuzz.hostile.opcodes import Call, Global, Persistent, called, joined, ops, pickled
from tests.fuzz.hostile.zips import Entry, archive

NUMBERS = np.arange(6, dtype="<f4").tobytes()
PREFIX = "archive/"
MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}


def commands(canary: str) -> dict[str, bytes]:
    """Every opcode that can call or import, each with something to run.

    Args:
        canary: The file that they try to make.
    """
    run, command = Global("os", "system"), f"touch {canary}"
    text, write = command.encode(), f"open({canary!r}, 'w')"
    memmap = Global("numpy", "memmap")  # which makes its file when it is made
    system, partial = Call(run, (command,)), called("functools.partial", run, command)
    ordered, short = called("collections.OrderedDict"), ops(command)
    values: dict[str, Any] = {
        "REDUCE": system,
        "REDUCE in a state dict": {"a": system},
        "REDUCE as a key": {system: 1},
        "REDUCE of a partial": Call(partial, ()),
        "REDUCE of eval": called("builtins.eval", write),
        "REDUCE of exec": called("builtins.exec", write),
        "REDUCE of getattr": Call(called("builtins.getattr", Global("os", "path"), "join"), ("a",)),
        "REDUCE of torch's own loader": called("torch.storage._load_from_bytes", pickled(system)),
        "REDUCE of torch.load": called("torch.load", canary),
        "REDUCE of numpy.load": called("numpy.load", canary),
        "REDUCE of numpy's reconstruct": called(
            "numpy.core.multiarray._reconstruct", Global("numpy", "ndarray"), (0,)
        ),
        "NEWOBJ": joined(memmap, (canary, "u1", "w+", 0, 4), b"\x81"),
        "BUILD of a partial": joined(partial, (run, (command,), {}, None), b"b", (), b"R"),
        "BUILD of a class": joined(ordered, {"__class__": run}, b"b"),
        "BUILD of slots": joined(ordered, (None, {"__class__": run}), b"b"),
        "BINPERSID": Persistent(("storage", run, "0", "cpu", 1)),
        "BINPERSID of a call": Persistent(system),
        "BINPERSID of a module": Persistent(("module", run, canary, "x")),
        "a NumPy scalar with a state": joined(called("numpy.dtype", "O8"), (run, command), b"b"),
    }
    dotted = b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93"
    return {name: pickled(value) for name, value in values.items()} | {
        "REDUCE, protocol 0": b"cos\nsystem\n(S'" + text + b"'\ntR.",
        "REDUCE after STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "REDUCE of a dotted name": dotted + short + b"\x85R.",
        "INST": b"(S'" + text + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + text + b"'\no.",
        "NEWOBJ_EX": pickled(joined(memmap, (canary,), {"mode": "w+"}, b"\x92"), 4),
        "GLOBAL alone": b"cthis\ns\n.",
        "GLOBAL of a module in a package": b"cidlelib.run\nmain\n.",
        "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x01.",
        "EXT4": b"\x80\x02\x84\x01\x01\x01\x01.",
        "PERSID": b"Pos.system\n.",
    }


def limits() -> dict[str, Callable[[], bytes]]:
    """Pickles that only want to be too much, or are none."""
    deep = 100_000
    return {
        "lists 100,000 deep": lambda: b"\x80\x02" + b"]" * deep + b"a" * (deep - 1) + b".",
        "tuples 100,000 deep": lambda: b"\x80\x02)" + b"\x85" * deep + b".",
        "dicts 100,000 deep": lambda: b"\x80\x02" + b"}K\x00" * deep + b"}" + b"s" * deep + b".",
        "a list that holds itself": lambda: b"\x80\x02]q\x00h\x00a.",
        "two to the 64 in 64 lists": lambda: (
            b"\x80\x02]" + b"".join(b"q%c](h%ch%ce" % (i, i, i) for i in range(64)) + b"."
        ),
        "8 million empty dicts": lambda: b"\x80\x02](" + b"}" * 2**23 + b"e.",
        "8 million empty lists": lambda: b"\x80\x02](" + b"]" * 2**23 + b"e.",
        "8 million marks": lambda: b"\x80\x02" + b"(" * 2**23 + b".",
        "2 million OrderedDicts": lambda: (
            b"\x80\x02](" + ops(Global("collections", "OrderedDict")) + b"q\x00)R"
            b"" + b"h\x00)R" * 2**21 + b"e."
        ),
        "BINBYTES8 of 2**62 bytes": lambda: b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.",
        "BINUNICODE8 of 2**62 bytes": lambda: b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"a.",
        "BINUNICODE of 4 GiB": lambda: b"\x80\x02X\xff\xff\xff\xffa.",
        "BINSTRING of -1 bytes": lambda: b"\x80\x02T\xff\xff\xff\xffa.",
        "LONG4 of 2 GiB": lambda: b"\x80\x02\x8b\xff\xff\xff\x7fa.",
        "LONG4 of -1 bytes": lambda: b"\x80\x02\x8b\xff\xff\xff\xffa.",
        "a FRAME of 2**62 bytes": lambda: b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        "INT of a million digits": lambda: b"I" + b"9" * 10**6 + b"\n.",
        "LONG of a million digits": lambda: b"L" + b"9" * 10**6 + b"L\n.",
        "BINGET of nothing": lambda: b"\x80\x02h\x07.",
        "LONG_BINPUT far away": lambda: b"\x80\x02Nr\xff\xff\xff\x7f.",
        "POP of nothing": lambda: b"\x80\x020.",
        "STOP at once": lambda: b"\x80\x02.",
        "no STOP": lambda: b"\x80\x02]",
        "a key that cannot be one": lambda: b"\x80\x02}]N\x73.",
        "SETITEMS of an odd number": lambda: b"\x80\x02}(Nu.",
        "protocol 255": lambda: b"\x80\xff].",
        "no opcodes": lambda: b"\xff\xfe\xfd.",
        "UTF-8 that is none": lambda: b"\x80\x02X\x02\x00\x00\x00\xff\xff.",
        "text with escapes": lambda: pickled({"\x1b[2J\x1b]0;owned\x07\n": 1}),
    }


def entries(pickle: bytes, **records: bytes) -> list[Entry]:
    """The entries of a file of PyTorch's; records by name, with `_` for `/`."""
    found = {"byteorder": b"little", "data_0": NUMBERS, "version": b"3\n"} | records
    named = [Entry(f"{PREFIX}{name.replace('_', '/')}", data) for name, data in found.items()]
    return [Entry(f"{PREFIX}data.pkl", pickle), *named]


def torch_zip(pickle: bytes) -> bytes:
    """As PyTorch has written files since 1.6."""
    return archive(entries(pickle))


def torch_legacy(pickle: bytes) -> bytes:
    """As PyTorch wrote files before 1.6."""
    head = pickled(MAGIC) + pickled(PROTOCOL) + pickled(SYSTEM)
    return head + pickle + pickled(["0"]) + struct.pack("<q", 6) + bytes(24)


def torch_tar(pickle: bytes) -> bytes:
    """As PyTorch wrote files before 0.1.10."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        members = (("sys_info", pickled(SYSTEM)), ("pickle", pickle), ("storages", pickled(0)))
        for name, data in (*members, ("tensors", pickled(0))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def npz(pickle: bytes) -> bytes:
    """An array of objects, which NumPy pickles."""
    return archive([Entry("a.npy", headed(described("'|O'", "(1,)"), pickle))])


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "torch zip": torch_zip,
    "torch legacy": torch_legacy,
    "torch tar": torch_tar,
    "pickle": bytes,
    "npz": npz,
}


def _make(group: str, name: str, place: Place) -> None:
    """Make one of them; which, is known before where."""
    found = commands(str(place.canary)).get(name)
    data = limits()[name]() if found is None else found
    place.file.write_bytes(CONTAINERS[group](data))


def kinds() -> Iterator[Kind]:
    """Every command in every container, and every limit in those that torch unpickles."""
    for group in CONTAINERS:
        limited = limits() if group in ("torch zip", "torch legacy") else ()
        for name in (*commands(""), *limited):
            yield Kind(group, f"pickle: {name}", functools.partial(_make, group, name))
