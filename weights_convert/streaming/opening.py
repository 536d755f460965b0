"""Opening checkpoints of any network."""

from __future__ import annotations

from pathlib import Path

from parity.spec.errors import InputError
from weights_convert import formats
from weights_convert.formats.sniffing import sniff
from weights_convert.streaming import shard_index
from weights_convert.streaming.plan import Tensor
from weights_convert.streaming.source import Source


def open_source(path: Path) -> Source:
    """Open a checkpoint without reading its tensors.

    Args:
        path: A file of any format, an Orbax directory, an index of shards, or a directory with one.

    Raises:
        InputError: It is not there, damaged, or not what its index says.
    """
    try:
        index = shard_index.find(path)
        if index is not None:
            return shard_index.open_shards(index)
        format = sniff(path)
        if format == "safetensors":
            from weights_convert.streaming.safetensors_shards import Shard

            shard = Shard(path)
            meta = shard.metadata
            return Source(path, format, shard.tensors, shard.load, (path,), meta)
        if format == "torch":
            from weights_convert.streaming.torch_shards import TorchShard

            torch_shard = TorchShard(path)
            beside, tensors = torch_shard.beside, torch_shard.tensors
            return Source(path, format, tensors, torch_shard.load, (path,), {}, beside)
        if format == "orbax" and (path / "_METADATA").is_file():
            from weights_convert.streaming.orbax_arrays import Arrays

            arrays = Arrays(path)
            return Source(path, format, arrays.tensors, arrays.load, (path,), {}, arrays.skipped)
        return _whole(path, format)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _whole(path: Path, format: str) -> Source:
    """Read a checkpoint of a format whose tensors cannot be read one at a time."""
    contents = formats.read(path, foreign=True)
    if contents.foreign:
        name, what = next(iter(contents.foreign.items()))
        raise InputError(f"{path}: {name} is {what.dtype}, which is not read")
    tensors = {k: Tensor(a.shape, a.dtype.name) for k, a in contents.arrays.items()}
    load = contents.arrays.__getitem__
    return Source(path, format, tensors, load, (path,), contents.metadata, contents.skipped)
