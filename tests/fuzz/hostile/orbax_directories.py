"""Orbax directories whose links, metadata and arrays lie."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import operator
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.hostile import Kind, Place
from weights_convert import formats

ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.arange(4.0)}

TREE, BIAS = "tree_metadata", "('a', 'bias')"  # of `_METADATA`
ZARRAY, CHUNK = "a.weight/.zarray", "a.weight/0.0"  # where each array has its folder
DEEP = b"[" * 10**5 + b"]" * 10**5
GONE = object()

Edit = Callable[[Path, Place], None]


@functools.cache
def template(ocdbt: bool = True) -> dict[str, bytes]:
    """A whole small directory: relative path -> content.

    Args:
        ocdbt: All arrays in one store, as ours; else a folder of chunks per array.
    """
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it ships no types

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that there is nothing to merge
    with tempfile.TemporaryDirectory(prefix="parity-orbax-") as folder:
        path = Path(folder, "x")
        if ocdbt:
            formats.write(path, "orbax", ARRAYS, {})
        else:
            tree = {"a": {name.removeprefix("a."): array for name, array in ARRAYS.items()}}
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)) as checkpointer:
                checkpointer.save(path, tree)
        found = sorted(p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}


def lay(path: Path, files: dict[str, bytes]) -> None:
    """Write a directory."""
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def kind(name: str, edit: Edit, ocdbt: bool = True) -> Kind:
    """A kind that edits a whole directory."""

    def make(place: Place) -> None:
        lay(place.file, template(ocdbt))
        edit(place.file, place)

    return Kind("orbax", name, make, FINE.get(name, ""))


# What is called how in the names of kinds -> the part of the directory; `*`: the largest file.
PARTS = {
    "_METADATA": "_METADATA",
    "_CHECKPOINT_METADATA": "_CHECKPOINT_METADATA",
    "manifest.ocdbt": "manifest.ocdbt",
    "the store's folder": "d",
    "the store of the process": "ocdbt.process_0",
    "a file of the store": "d/*",
    "the manifest": "parity.json",
}


def part(path: Path, pattern: str) -> Path:
    """A file or a folder of a directory, there or not."""
    found = path.glob(pattern)
    return max(found, key=lambda p: (p.stat().st_size, p.name), default=path / pattern)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def edits(*several: Edit) -> Edit:
    """One edit after the other."""

    def edit(path: Path, place: Place) -> None:
        for one in several:
            one(path, place)

    return edit


def linked(pattern: str) -> Edit:
    """Move a part outside, and leave a link."""

    def edit(path: Path, place: Place) -> None:
        moved = place.outside / "part"
        remove(moved)
        if not (found := part(path, pattern)).exists():  # a manifest, which the template has not
            found.write_text("{}")
        os.replace(found, moved)
        found.symlink_to(moved)

    return edit


def without(pattern: str) -> Edit:
    return lambda path, place: remove(part(path, pattern))


def piped(pattern: str) -> Edit:
    """A pipe that nobody writes to, in place of a file."""

    def edit(path: Path, place: Place) -> None:
        del place
        found = part(path, pattern)  # before it is removed: then another file is the largest
        remove(found)
        os.mkfifo(found)

    return edit


def content(pattern: str, data: bytes | Callable[[bytes], bytes]) -> Edit:
    """Another content of a file."""

    def edit(path: Path, place: Place) -> None:
        del place
        file = part(path, pattern)
        before = file.read_bytes() if file.exists() else b""
        file.write_bytes(data if isinstance(data, bytes) else data(before))

    return edit


def put(name: str, *keys: str | int, value: Any) -> Edit:
    """Another value at some place of a JSON file; `GONE` takes it away."""

    def change(data: bytes) -> bytes:
        entries = json.loads(data)
        inner = functools.reduce(operator.getitem, keys[:-1], entries)
        inner[keys[-1]] = value
        if value is GONE:
            del inner[keys[-1]]
        return json.dumps(entries).encode()

    return content(name, change)


def leaf(*keys: str, value_type: str = "np.ndarray") -> dict[str, Any]:
    """An entry of the tree in `_METADATA`."""
    return {
        "key_metadata": [{"key": key, "key_type": 2} for key in keys],
        "value_metadata": {"value_type": value_type, "skip_deserialize": False},
    }


def named(key: str, *keys: str, value_type: str = "np.ndarray") -> Edit:
    """An entry of the tree more, or another one."""
    return put("_METADATA", TREE, key, value=leaf(*keys, value_type=value_type))


def trees() -> dict[str, Edit]:
    """Lies of `_METADATA`."""
    many = {f"('a', '{i}')": leaf("a", str(i)) for i in range(100_000)}
    innermost: Any = 1
    nested = functools.reduce(lambda inner, _: {"a": inner}, range(900), innermost)
    indexed = [{"key": "a", "key_type": 2}, {"key": str(2**40), "key_type": 1}]
    types = ("string", "jax.Array", "scalar", "None", "Dict", "List", "os.system", "PyGrain")
    texts = {
        "empty": b"",
        "no JSON": b"{nothing}",
        "not UTF-8": b'{"\xff\xfe": 1}',
        "100,000 deep": b'{"tree_metadata": ' + DEEP + b"}",
        "a list": b"[]",
        "null": b"null",
    }
    entries: dict[str, dict[str, Any]] = {
        "no tree": {TREE: GONE},
        "an empty tree": {TREE: {}},
        "a tree that is a list": {TREE: []},
        "100,000 names": {TREE: many},
        "no store": {"use_ocdbt": False},
        "another store": {"use_zarr3": True},
        "a store of text": {"use_ocdbt": "maybe"},
        "custom metadata 900 deep": {"custom_metadata": nested},
    }
    names: dict[str, tuple[str, ...]] = {
        "a name of ../": ("('..', 'outside', 'secret')", "..", "outside", "secret"),
        "a name with ../": ("('../../outside/secret',)", "../../outside/secret"),
        "an absolute name": ("('/etc/passwd',)", "/etc/passwd"),
        "an empty name": ("('',)", ""),
        "a name with a null": ("('a\\x00b',)", "a\0b"),
        "a name with escapes": ("('\x1b[2J\n',)", "\x1b[2J\n"),
        "a name that is code": ("__import__('os').system('true')", "a"),
        "a name 50 deep": (str(("a",) * 50), *("a",) * 50),
        "a name under an array": ("('a', 'bias', 'x')", "a", "bias", "x"),
        "a name that is not there": ("('b',)", "b"),
    }
    keys = (TREE, BIAS, "key_metadata")
    return {
        **{name: content("_METADATA", text) for name, text in texts.items()},
        **{name: put("_METADATA", k, value=v) for name, e in entries.items() for k, v in e.items()},
        **{name: named(*entry) for name, entry in names.items()},
        **{f"an array that is a {t}": named(BIAS, "a", "bias", value_type=t) for t in types},
        "a key that is a list": put("_METADATA", *keys, value=[["a"], ["bias"]]),
        "a key of an unknown type": put("_METADATA", *keys, 0, "key_type", value=99),
        "an index of 2**40": put("_METADATA", *keys, value=indexed),
        "a name less": put("_METADATA", TREE, BIAS, value=GONE),
    }


def stores() -> dict[str, Edit]:
    """Lies of the files themselves."""
    return {
        "manifest.ocdbt is empty": content("manifest.ocdbt", b""),
        "manifest.ocdbt is text": content("manifest.ocdbt", b"hello"),
        "manifest.ocdbt claims 2**63 bytes": content(
            "manifest.ocdbt", lambda data: data[:4] + b"\xff" * 7 + b"\x7f" + data[12:]
        ),
        "a file of the store cut short": content("d/*", lambda data: data[:-1]),
        "_CHECKPOINT_METADATA 100,000 deep": content("_CHECKPOINT_METADATA", DEEP),
        "_sharding that is garbage": content("_sharding", b"\xff" * 100),
    }


def zarr(**values: Any) -> Edit:
    """Other values in the `.zarray` of one array, where each has its folder."""
    return edits(*(put(ZARRAY, key, value=value) for key, value in values.items()))


def folders() -> dict[str, Edit]:
    """Lies of arrays that have a folder each."""
    bomb = 512  # MiB; gzip's members may follow each other

    def chunk(data: bytes | Callable[[bytes], bytes], compressor: Any) -> Edit:
        return edits(zarr(compressor=compressor), content(CHUNK, data))

    return {
        "a shape of 2**62": zarr(shape=[2**62, 3]),
        "a shape of 2**40, mostly not there": zarr(shape=[2**38, 4]),
        "a shape of 2**29, mostly not there": zarr(shape=[2**14, 2**15], chunks=[2, 3]),
        "a shape that overflows": zarr(shape=[2**40, 2**40]),
        "a negative shape": zarr(shape=[-2, 3]),
        "a shape of other dims": zarr(shape=[6]),
        "40 dims": zarr(shape=[1] * 39 + [6], chunks=[1] * 39 + [6]),
        "chunks of 2**40": zarr(chunks=[2**40, 2**40]),
        "chunks of 2**15 a side": zarr(chunks=[2**15, 2**15]),
        "chunks of 0": zarr(chunks=[0, 3]),
        "no chunk": without(CHUNK),
        "a chunk too short": chunk(bytes(20), None),
        "a chunk too long": chunk(bytes(100), None),
        "a chunk that is a bomb, gzip": chunk(
            lambda _: gzip.compress(bytes(2**20)) * bomb, {"id": "gzip", "level": 1}
        ),
        "an unknown compressor": chunk(bytes(24), {"id": "code", "run": "true"}),
        "a filter": zarr(filters=[{"id": "pickle"}]),
        "objects": zarr(dtype="|O"),
        "text": zarr(dtype="<U1000"),
        "records": zarr(dtype=[["x", "<f4", [2**20]], ["y", "<f4"]]),
        "the other byte order": zarr(dtype=">f4"),
        ".zarray is empty": content(ZARRAY, b""),
        ".zarray is 100,000 deep": content(ZARRAY, DEEP),
        ".zarray is a link": linked(ZARRAY),
        "a chunk is a link": linked(CHUNK),
        "a chunk is a pipe": piped(CHUNK),
        "an array's folder is a link": linked("a.weight"),
        "a name of ../": named("('../outside',)", "../outside"),
    }


def prefixed(prefix: str) -> Edit:
    """A store that keeps its values elsewhere, as TensorStore itself lets one say."""

    def edit(path: Path, place: Place) -> None:
        import tensorstore as ts

        for name in ("d", "ocdbt.process_0", "manifest.ocdbt"):
            remove(path / name)
        # In memory: on a disk, TensorStore itself would not write such names.
        context = ts.Context()
        spec = {"driver": "ocdbt", "base": "memory://", "config": {"max_inline_value_bytes": 0}}
        names = ("value_data_prefix", "btree_node_data_prefix", "version_tree_node_data_prefix")
        store = ts.KvStore.open(spec | dict.fromkeys(names, prefix), context=context).result()
        files = template(False)
        for key in (k for k in files if k.startswith("a.")):
            store.write(key, files[key]).result()
        memory = ts.KvStore.open("memory://", context=context).result()
        for stored in memory.list().result():
            file = Path(os.path.normpath(f"{path}/{stored.decode()}"))
            file.write_bytes(memory.read(stored).result().value)

    return edit


FINE = {
    "without the store of the process": "small arrays lie in the store's own folder",
    "_METADATA: custom metadata 900 deep": "nobody looks at it",
    "_METADATA: a name less": "arrays that nothing names are not there",
    "_METADATA: a name that is code": "nobody reads it, but the keys beside it",
    "_METADATA: an array that is a None": "as Orbax writes a place where nothing is",
    "_METADATA: an array that is a Dict": "as Orbax writes a place where nothing is",
    "_METADATA: an array that is a List": "as Orbax writes a place where nothing is",
    "_METADATA: an array that is a jax.Array": "it comes as NumPy's",
    "_METADATA: an array that is a scalar": "it comes as NumPy's",
    "_sharding that is garbage": "nobody looks at it",
    "_CHECKPOINT_METADATA 100,000 deep": "nobody looks at it",
    "zarr: the other byte order": "TensorStore turns it",
}


def kinds() -> Iterator[Kind]:
    """All."""
    pipes = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "a file of the store", "the manifest")
    needed = ("manifest.ocdbt", "the store's folder", "the store of the process")
    whole = {
        **{f"{name} is a link that leaves it": linked(part) for name, part in PARTS.items()},
        **{f"{name} is a pipe": piped(PARTS[name]) for name in pipes},
        **{f"without {name}": without(PARTS[name]) for name in needed},
        **{f"_METADATA: {name}": edit for name, edit in trees().items()},
        **stores(),
        "a store under ../": prefixed("../../outside/"),
    }
    for name, edit in whole.items():
        yield kind(name, edit)
    for name, edit in folders().items():
        yield kind(f"zarr: {name}", edit, ocdbt=False)
