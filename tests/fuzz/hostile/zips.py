"""Zip archives written field by field: no library writes what hostile ones hold."""

from __future__ import annotations

import dataclasses
import functools
import struct
import zlib

STORED, DEFLATED, BZIP2, LZMA = 0, 8, 12, 14
MEBIBYTE = 2**20


@dataclasses.dataclass(frozen=True)
class Entry:
    """One file of an archive, with what its headers claim of it.

    Attributes:
        name: In the directory.
        packed: The bytes that lie in the archive.
        method: Of compression.
        size: Unpacked; the length of `packed` if not given.
        crc: The checksum; that of `packed` if not given.
        packed_size: That which is claimed; the truth if not given.
        local: The name in the entry's own header, if another.
        flags: Bits of the headers.
        offset: Where the directory says that it lies; the truth if not given.
        mode: The file's mode in the upper half of the external attributes.
        absent: Only in the directory.
    """

    name: str
    packed: bytes = b""
    method: int = STORED
    size: int | None = None
    crc: int | None = None
    packed_size: int | None = None
    local: str | None = None
    flags: int = 0
    offset: int | None = None
    mode: int = 0o100644
    absent: bool = False

    def facts(self) -> bytes:
        """What both headers have in common, from the version needed to the sizes."""
        size = len(self.packed) if self.size is None else self.size
        claimed = len(self.packed) if self.packed_size is None else self.packed_size
        crc = zlib.crc32(self.packed) if self.crc is None else self.crc
        return struct.pack("<HHHHHIII", 20, self.flags, self.method, 0, 0x21, crc, claimed, size)


def archive(
    entries: list[Entry],
    prefix: bytes = b"",
    comment: bytes = b"",
    count: int | None = None,
    start: int | None = None,
    length: int | None = None,
    disk: int = 0,
) -> bytes:
    """An archive.

    Args:
        entries: In order.
        prefix: Before the first entry; counted in no offset.
        comment: Behind the end.
        count: How many entries the end claims.
        start: Where the end says that the directory starts.
        length: How long it says that the directory is.
        disk: The number of the disk that it says this is.
    """
    body, directory = bytearray(), bytearray()  # bytes would be copied for each of 60,000 entries
    for entry in entries:
        offset = len(body) if entry.offset is None else entry.offset
        name = entry.name.encode(errors="surrogateescape")
        local = name if entry.local is None else entry.local.encode()
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + entry.facts()
        directory += struct.pack("<HHHHHII", len(name), 0, 0, 0, 0, entry.mode << 16, offset) + name
        if not entry.absent:
            body += b"PK\x03\x04" + entry.facts() + struct.pack("<HH", len(local), 0) + local
            body += entry.packed
    count = len(entries) if count is None else count
    start = len(body) if start is None else start
    length = len(directory) if length is None else length
    end = struct.pack("<HHHHIIH", disk, disk, count, count, length, start, len(comment))
    return prefix + body + directory + b"PK\x05\x06" + end + comment


def zeros(name: str, mebibytes: int, size: int | None = None, crc: int | None = None) -> Entry:
    """An entry that unpacks to so many zeros, whatever it claims."""
    packer = zlib.compressobj(9, wbits=-15)
    packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(bytes(MEBIBYTE)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * mebibytes + packer.flush()  # a flushed block needs nothing before it
    true = functools.reduce(lambda crc, _: zlib.crc32(bytes(MEBIBYTE), crc), range(mebibytes), 0)
    size = mebibytes * MEBIBYTE if size is None else size
    return Entry(name, packed, DEFLATED, size=size, crc=true if crc is None else crc)


def deflated(name: str, data: bytes) -> Entry:
    """An ordinary packed entry."""
    packed = zlib.compress(data, 9, wbits=-15)
    return Entry(name, packed, DEFLATED, size=len(data), crc=zlib.crc32(data))
