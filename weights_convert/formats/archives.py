"""Checks on zip archives, which PyTorch and NumPy write, before anything in one is read.

Readers differ in what they trust in an archive: the directory, the entries' own headers, or the
first of two names. Ambiguous archives are refused.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections import Counter
from pathlib import Path

from weights_convert.formats.base import check_count, check_growth

END = struct.Struct("<4s4H2LH")  # of the directory
END64 = struct.Struct("<4sQ2H2L4Q")
LOCATOR = struct.Struct("<4sLQL")
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
ENCRYPTED = 1  # bit of an entry's flags


def checked(archive: zipfile.ZipFile, path: Path) -> list[zipfile.ZipInfo]:
    """Check an archive and return its entries.

    Raises:
        ValueError: It has an entry twice, would grow beyond measure, is packed in a way that
            neither PyTorch nor NumPy does, or its end record does not fit.
        OSError: The file system refuses.
    """
    entries = archive.infolist()
    check_count(len(entries))
    if twice := [name for name, n in Counter(archive.namelist()).items() if n > 1]:
        raise ValueError(f"it holds {twice[0]} more than once")
    for entry in entries:
        if entry.compress_type not in METHODS or entry.flag_bits & ENCRYPTED:
            raise ValueError(f"it holds {entry.filename} encrypted, or packed by no known method")
        if entry.compress_type == zipfile.ZIP_STORED and entry.compress_size != entry.file_size:
            raise ValueError(f"it holds {entry.filename} with two sizes")
    check_growth(sum(entry.file_size for entry in entries), path)
    found, expected = _end(path), (len(entries), archive.start_dir)
    if found != expected:
        raise ValueError(
            f"its end says {found[0]} entries, listed at byte {found[1]}, but there are"
            f" {expected[0]} at {expected[1]}"
        )
    return entries


def _end(path: Path) -> tuple[int, int]:
    """Read the number of entries and their directory's offset from the archive's end record.

    Raises:
        ValueError: There is no end record, or data follows it.
    """
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        at = file.seek(max(size - END.size, 0))
        fields = END.unpack(file.read().ljust(END.size))
        mark, disk, first_disk, here, count, _, start, comment = fields
        if mark != b"PK\x05\x06" or comment or disk or first_disk or here != count:
            raise ValueError("it does not end as an archive without a comment does")
        if count != 0xFFFF and start != 0xFFFFFFFF:
            return count, start
        file.seek(max(at - LOCATOR.size, 0))
        mark, _, where, _ = LOCATOR.unpack(file.read(LOCATOR.size))
        file.seek(min(where, size))
        fields = END64.unpack(file.read(END64.size).ljust(END64.size))
        if mark != b"PK\x06\x07" or fields[0] != b"PK\x06\x06":
            raise ValueError("its end is of more than 4 GiB, and not all there")
        return fields[7], fields[9]
