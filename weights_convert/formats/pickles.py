"""Checks on pickles, opcode by opcode, before PyTorch reads them; none is unpickled.

`weights_only` limits what a pickle may call, but not how much memory it may take: a byte creates an
empty dict, and a number may request terabytes.
"""

from __future__ import annotations

import os
import pickletools
from collections import deque
from collections.abc import Iterator
from mmap import mmap
from typing import IO, Any

from weights_convert.formats.base import MOST_TENSORS, LimitError

# Of one pickle, and more for each tensor in it, which takes about thirty.
MOST_OPCODES = 500_000
OF_A_TENSOR = 40

# Pickles before the tensors in files before 1.6: a magic number, a version, the system, the state,
# and the storages' names.
PICKLES = 5

NEAR = 6  # opcodes: how far before an id of a storage the number of its elements comes


def check_pickle(file: IO[bytes] | mmap, most: int | None = None) -> None:
    """Check one pickle.

    Args:
        file: A file positioned at its start; left positioned after its end.
        most: The largest number of bytes that a storage may claim; no limit if not given.

    Raises:
        LimitError: It is too long.
        ValueError: It is incomplete, or claims more.
    """
    recent: deque[Any] = deque(maxlen=NEAR)
    limit, tensors = MOST_OPCODES, 0
    for count, (name, argument) in enumerate(_opcodes(file)):
        if name == "BINPERSID":
            tensors += 1
            limit += OF_A_TENSOR if tensors <= MOST_TENSORS else 0
        if count > limit:
            raise LimitError(f"a pickle of more than {limit:,} opcodes")
        if most is not None and name == "BINPERSID":
            claimed = max((a for a in recent if isinstance(a, int)), default=0)
            if claimed > most:
                raise ValueError(f"a storage of {claimed:,} numbers, in a file of {most:,} bytes")
            recent.clear()
        # A place in the memo is no number of the file's.
        recent.append(None if "PUT" in name or "GET" in name else argument)


def check_stream(file: mmap) -> None:
    """Check the pickles at the start of a file from before PyTorch 1.6.

    Raises:
        ValueError: As for `check_pickle`.
    """
    for _ in range(PICKLES):
        check_pickle(file, most=len(file))
    file.seek(0, os.SEEK_SET)


def _opcodes(file: IO[bytes] | mmap) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(file):  # type: ignore[arg-type]  # an mmap has what it needs
        yield opcode.name, argument
