"""Writing safetensors: one file, or shards with an index as Hugging Face's libraries read them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from parity.io.replacing import flush
from parity.spec.errors import InputError, listed
from weights_convert.hashes import begun
from weights_convert.streaming.plan import Unit, tensors_of, units
from weights_convert.streaming.safetensors_shards import Shard, blocks, layout
from weights_convert.streaming.shard_index import SAFETENSORS
from weights_convert.streaming.work import Work, different

UNFINISHED = ".unfinished"  # after the name of a shard that is being written


def write_shards(work: Work, folder: Path, size: int) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Write shards and their index; shards that are there and hold what they should are kept.

    Args:
        work: What to write.
        folder: Where to write.
        size: Bytes of a shard's tensors.

    Returns:
        The hashes of all tensors, and the files, the index first.

    Raises:
        InputError: What was written reads otherwise.
        OSError: The file system refuses.
    """
    parts = units(work.plan, size)
    count = len(parts)
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    if count == 1:
        names = ["model.safetensors"]
    for file in folder.iterdir():
        if file.name.removesuffix(UNFINISHED) not in names:
            file.unlink()

    def one(name: str, unit: Unit) -> dict[str, str]:
        return _shard(work, folder / name, unit)

    with ThreadPoolExecutor(work.workers) as pool:
        made = [pool.submit(one, *each) for each in zip(names, parts, strict=True)]
        try:
            hashes = [future.result() for future in made]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    index = folder / SAFETENSORS
    index.write_text(_index(names, parts, work.plan.nbytes), encoding="utf-8")
    flush(index)
    found = {name: digest for each in hashes for name, digest in each.items()}
    ordered = {name: found[name] for name in work.plan.made}
    return ordered, (index, *(folder / name for name in names))


def _index(names: Sequence[str], parts: Sequence[Unit], size: int) -> str:
    where = {t: n for n, unit in zip(names, parts, strict=True) for t in tensors_of(unit)}
    entries = {"metadata": {"total_size": size}, "weight_map": dict(sorted(where.items()))}
    return json.dumps(entries, indent=2) + "\n"


def _shard(work: Work, path: Path, unit: Unit) -> dict[str, str]:
    """Write a shard, or keep the one that an earlier process wrote, if it is right."""
    if path.exists():
        work.progress(f"verifying {path.name}, which is there")
        made = work.sha256s(unit)
        try:
            if not different(read_back(path, unit), made):
                return made
        except InputError:
            pass
        path.unlink()
    work.progress(f"writing {path.name}")
    new = path.with_name(path.name + UNFINISHED)
    metadata = {"format": "pt" if work.plan.reverse else "flax"}
    made = write_file(work, new, unit, metadata)
    verify(new, unit, made)
    os.replace(new, path)
    flush(path.parent)
    return made


def write_file(work: Work, path: Path, unit: Unit, metadata: Mapping[str, str]) -> dict[str, str]:
    """Write one file, tensor by tensor; what an earlier process wrote of it, and is right, is kept.

    Returns:
        The hashes of its tensors, as they were made.
    """
    tensors = tensors_of(unit)
    head, order = layout(tensors, metadata)
    offsets, end = {}, len(head)
    for name in order:
        offsets[name] = end
        end += tensors[name].nbytes
    there = path.is_file() and path.stat().st_size == end
    kept = []
    with path.open("rb+" if there else "wb") as file:
        file.write(head)
        file.truncate(end)

        def write(name: str, array: np.ndarray) -> str:
            digest, place, same = begun(array.dtype.name, array.shape), offsets[name], there
            for block in blocks(array):
                digest.update(block)
                file.seek(place)
                if not there or file.read(block.nbytes) != block:
                    file.seek(place)
                    file.write(block)
                    same = False
                place += block.nbytes
            if same:
                kept.append(name)
            return digest.hexdigest()

        hashes = work.each(unit, write)
        file.flush()
        os.fsync(file.fileno())
    if there:
        work.progress(f"kept {len(kept)} of {len(order)} tensors, which were there")
    return hashes


def read_back(path: Path, unit: Unit) -> dict[str, str]:
    """Return the hashes of a file's tensors.

    Raises:
        InputError: It is damaged, or holds other tensors.
    """
    shard = Shard(path)
    if shard.tensors != tensors_of(unit):
        raise InputError(f"{path} holds other tensors than were written")
    return {name: shard.sha256(name) for name in shard.tensors}


def verify(path: Path, unit: Unit, made: dict[str, str]) -> None:
    """Refuse a file that does not hold what was made.

    Raises:
        InputError: It does not.
    """
    if wrong := different(read_back(path, unit), made):
        raise InputError(f"cannot write {path}: read back, {listed(wrong)} differ")
