"""Zip archives whose structure lies, as PyTorch's and as NumPy's."""

from __future__ import annotations

import bz2
import dataclasses
import io
import lzma
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tests.fuzz.hostile import Kind, files
from tests.fuzz.hostile.pickles import entries
from tests.fuzz.hostile.torch_files import GOOD
from tests.fuzz.hostile.zips import BZIP2, LZMA, MEBIBYTE, Entry, archive, zeros

NAME = "a name is only a name here: nothing is unpacked to the disk"


def npy(array: np.ndarray) -> bytes:
    """A whole .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def arrays() -> list[Entry]:
    """An ordinary .npz archive."""
    named = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4.0)}
    return [Entry(f"{name}.npy", npy(array)) for name, array in named.items()]


def lies(found: list[Entry], suffix: str) -> dict[str, bytes]:
    """Archives that say something else in one place than in another.

    Args:
        found: The entries of a whole one.
        suffix: Of the name of an entry that is added.
    """
    first, *rest = found
    extra = Entry(f"extra{suffix}", first.packed)
    whole = archive(found)
    # What an entry more says of itself.
    added: dict[str, dict[str, Any]] = {
        "a name with ../": {"name": f"../../x{suffix}"},
        "an absolute name": {"name": f"/tmp/x{suffix}"},
        "a name with backslashes": {"name": f"..\\..\\x{suffix}"},
        "a name with a null": {"name": f"x\0y{suffix}"},
        "a name with escapes": {"name": f"x\x1b[2J\n{suffix}"},
        "a name that is no UTF-8": {"name": f"\udcff\udcfe{suffix}", "flags": 0x800},
        "no name": {"name": ""},
        "a name of 60,000 letters": {"name": "x" * 60_000 + suffix},
        "an entry that is a link": {"mode": 0o120777},
        "an entry within another": {"offset": 10, "absent": True},
        "an entry outside": {"offset": 2**32 - 2, "absent": True},
    }
    # What the first entry says of itself.
    changed: dict[str, dict[str, Any]] = {
        "another name in the entry": {"local": "b" * len(first.name)},
        "an entry that is encrypted": {"flags": 1},
        "an entry with a patch": {"flags": 0x20},
        "an unknown method": {"method": 99},
        "a method that is not its own": {"method": 8},
        "a wrong checksum": {"crc": 1},
        "a size too large": {"size": 2**31},
        "a packed size too large": {"packed_size": 2**31},
        "a packed size of 0": {"packed_size": 0},
        "sizes of 2**32 - 1 without zip64": {"size": 2**32 - 1, "packed_size": 2**32 - 1},
    }
    # What the archive says of its directory, or has around it.
    around: dict[str, dict[str, Any]] = {
        "a directory outside": {"start": 2**32 - 2},
        "a directory at 0": {"start": 0},
        "a directory too long": {"length": 2**31},
        "a directory of 0 bytes": {"length": 0},
        "more entries than there are": {"count": 65_534},
        "fewer entries than there are": {"count": 1},
        "on disk 7": {"disk": 7},
        "bytes before it": {"prefix": b"PK\x03\x04" + bytes(100)},
        "an archive in the comment": {"comment": archive([extra])},
        "an end in the comment": {"comment": b"PK\x05\x06" + bytes(18)},
    }
    replace = dataclasses.replace
    other = replace(rest[0], packed=rest[0].packed[::-1])
    above = replace(rest[0], name=f"c{suffix}", offset=0, absent=True)
    return {
        **{name: archive([*found, replace(extra, **more)]) for name, more in added.items()},
        **{name: archive([replace(first, **more), *rest]) for name, more in changed.items()},
        **{name: archive(found, **more) for name, more in around.items()},
        "an entry that is a folder": archive([*found, Entry("folder/")]),
        "an entry twice": archive([*found, rest[0]]),
        "an entry twice, the second another": archive([*found, other]),
        "the first entry twice": archive([*found, first]),
        "two entries at one place": archive([*found, above]),
        "no entries": archive([]),
        "60,000 entries": archive([*found, *(Entry(f"{i}{suffix}") for i in range(60_000))]),
        "no end": whole[:-22],
        "an end alone": b"PK\x03\x04" + whole[-22:],
        "bytes behind it": whole + b"PK\x05\x06",
    }


def bombs(found: list[Entry], suffix: str) -> dict[str, Callable[[], bytes]]:
    """Archives that unpack to far more than they are, by each method that Python unpacks."""
    size = 512 * MEBIBYTE

    def bomb(pack: Callable[[int], bytes], packed: int, method: int, claimed: int = size) -> bytes:
        entry = Entry(f"bomb{suffix}", pack(packed), method, size=claimed, crc=0)
        return archive([*found, entry])

    return {
        "a bomb, deflated": lambda: archive([*found, zeros(f"bomb{suffix}", 512)]),
        "a bomb, bzip2": lambda: bomb(_bz2, size, BZIP2),
        "a bomb, bzip2, claims little": lambda: bomb(_bz2, size, BZIP2, 100),
        "a bomb, LZMA": lambda: bomb(_lzma, size // 16, LZMA),
    }


def _bz2(size: int) -> bytes:
    block = bz2.compress(bytes(MEBIBYTE * 32))
    return block * (size // (MEBIBYTE * 32))  # streams may follow each other


def _lzma(size: int) -> bytes:
    filters = [{"id": lzma.FILTER_LZMA1, "dict_size": MEBIBYTE}]
    packer = lzma.LZMACompressor(lzma.FORMAT_RAW, filters=filters)
    packed = b"".join(packer.compress(bytes(MEBIBYTE)) for _ in range(size // MEBIBYTE))
    properties = lzma._encode_filter_properties(filters[0])  # type: ignore[attr-defined]  # private
    head = bytes([9, 4]) + len(properties).to_bytes(2, "little") + properties
    return head + packed + packer.flush()


def kinds() -> Iterator[Kind]:
    """Every lie in both sorts of archive."""
    names = ("a name with ../", "an absolute name", "a name with backslashes")
    fine = dict.fromkeys((*names, "a name of 60,000 letters", "an entry that is a link"), NAME)
    for group, found, suffix in (("torch zip", entries(GOOD), ""), ("npz", arrays(), ".npy")):
        contents = lies(found, suffix) | bombs(found, suffix)
        for kind in files(group, contents, fine if group == "npz" else {}):
            yield dataclasses.replace(kind, name=f"zip: {kind.name}")
