"""Pickles that call, import or grow, in everything that holds a pickle."""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Callable, Iterator

import numpy as np

from tests.fuzz.hostile.kinds import Kind, Place
from tests.fuzz.hostile.opcodes import Call, Global, Persistent, Raw, ops, pickled
from tests.fuzz.hostile.zips import Entry, archive

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
SYSTEM = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {}}


def commands(canary: str) -> dict[str, bytes]:
    """Every opcode that can call or import, each with something to run.

    Args:
        canary: The file that they try to make.
    """
    run, command = Global("os", "system"), f"touch {canary}"
    text = command.encode()
    memmap = (canary, "u1", "w+", 0, 4)  # numpy.memmap makes its file when it is made
    partial = Call(Global("functools", "partial"), (run, command))
    inner = pickled(Call(run, (command,)))
    ordered = Call(Global("collections", "OrderedDict"), ())
    short = ops(command)
    return {
        "REDUCE": pickled(Call(run, (command,))),
        "REDUCE, protocol 0": b"cos\nsystem\n(S'" + text + b"'\ntR.",
        "REDUCE in a state dict": pickled({"a": Call(run, (command,))}),
        "REDUCE as a key": pickled({Call(run, (command,)): 1}),
        "REDUCE after STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93" + short + b"\x85R.",
        "REDUCE of a dotted name": b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93"
        + short
        + b"\x85R.",
        "REDUCE of a partial": pickled(Call(partial, ())),
        "REDUCE of eval": pickled(Call(Global("builtins", "eval"), (f"open({canary!r}, 'w')",))),
        "REDUCE of exec": pickled(Call(Global("builtins", "exec"), (f"open({canary!r}, 'w')",))),
        "REDUCE of getattr": pickled(
            Call(Call(Global("builtins", "getattr"), (Global("os", "path"), "join")), ("a",))
        ),
        "REDUCE of torch's own loader": pickled(
            Call(Global("torch.storage", "_load_from_bytes"), (inner,))
        ),
        "REDUCE of torch.load": pickled(Call(Global("torch", "load"), (canary,))),
        "REDUCE of numpy.load": pickled(Call(Global("numpy", "load"), (canary,))),
        "REDUCE of numpy's reconstruct": pickled(
            Call(
                Global("numpy.core.multiarray", "_reconstruct"), (Global("numpy", "ndarray"), (0,))
            )
        ),
        "INST": b"(S'" + text + b"'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'" + text + b"'\no.",
        "NEWOBJ": pickled(Raw(ops(Global("numpy", "memmap")) + ops(memmap) + b"\x81")),
        "NEWOBJ_EX": pickled(
            Raw(ops(Global("numpy", "memmap")) + ops(memmap[:1]) + ops({"mode": "w+"}) + b"\x92"), 4
        ),
        "BUILD of a partial": pickled(
            Raw(ops(partial) + ops((run, (command,), {}, None)) + b"b" + ops(()) + b"R")
        ),
        "BUILD of a class": pickled(Raw(ops(ordered) + ops({"__class__": run}) + b"b")),
        "BUILD of slots": pickled(Raw(ops(ordered) + ops((None, {"__class__": run})) + b"b")),
        "GLOBAL alone": b"cthis\ns\n.",
        "GLOBAL of a module in a package": b"cidlelib.run\nmain\n.",
        "STACK_GLOBAL of numbers": b"\x80\x04K\x01K\x02\x93.",
        "EXT1": b"\x80\x02\x82\x01.",
        "EXT2": b"\x80\x02\x83\x01\x01.",
        "EXT4": b"\x80\x02\x84\x01\x01\x01\x01.",
        "PERSID": b"Pos.system\n.",
        "BINPERSID": pickled(Persistent(("storage", run, "0", "cpu", 1))),
        "BINPERSID of a call": pickled(Persistent(Call(run, (command,)))),
        "BINPERSID of a module": pickled(Persistent(("module", run, canary, "x"))),
        "a NumPy scalar with a state": pickled(
            Raw(ops(Call(Global("numpy", "dtype"), ("O8",))) + ops((run, command)) + b"b")
        ),
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


def torch_zip(pickle: bytes) -> bytes:
    """As PyTorch has written files since 1.6."""
    return archive(
        [
            Entry("archive/data.pkl", pickle),
            Entry("archive/byteorder", b"little"),
            Entry("archive/data/0", np.arange(6, dtype="<f4").tobytes()),
            Entry("archive/version", b"3\n"),
        ]
    )


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
    file = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": (1,)}
    np.lib.format.write_array_header_1_0(file, header)
    return archive([Entry("a.npy", file.getvalue() + pickle)])


CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "torch zip": torch_zip,
    "torch legacy": torch_legacy,
    "torch tar": torch_tar,
    "pickle": bytes,
    "npz": npz,
}


def kinds() -> Iterator[Kind]:
    """Every command in every container, and every limit in those that torch unpickles."""
    for group in CONTAINERS:
        for name in commands(""):
            yield Kind(group, f"pickle: {name}", _Making(group, name))
    for group in ("torch zip", "torch legacy"):
        for name in limits():
            yield Kind(group, f"pickle: {name}", _Making(group, name))


class _Making:
    """Makes one of them; which, is known before where."""

    def __init__(self, group: str, name: str) -> None:
        self.group, self.name = group, name

    def __call__(self, place: Place) -> None:
        found = commands(str(place.canary)).get(self.name)
        data = limits()[self.name]() if found is None else found
        place.file.write_bytes(CONTAINERS[self.group](data))
