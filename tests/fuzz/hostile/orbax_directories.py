"""Orbax directories whose links, metadata and arrays lie."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.hostile.kinds import Kind, Place
from weights_convert import formats

GROUP = "orbax"
ARRAYS = {"a.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "a.bias": np.arange(4.0)}

Edit = Callable[[Path, Place], None]
Part = Callable[[Path], Path]
Change = Callable[[dict[str, Any]], Any]


@functools.cache
def template(ocdbt: bool = True) -> dict[str, bytes]:
    """A whole small directory: relative path -> content.

    Args:
        ocdbt: All arrays in one store, as ours; else a folder of chunks per array.
    """
    with tempfile.TemporaryDirectory(prefix="parity-orbax-") as folder:
        path = Path(folder, "x")
        if ocdbt:
            formats.write(path, "orbax", ARRAYS, {})
        else:
            _write_folders(path)
        found = sorted(p for p in path.rglob("*") if p.is_file())
        return {p.relative_to(path).as_posix(): p.read_bytes() for p in found}


def _write_folders(path: Path) -> None:
    import orbax.checkpoint as ocp  # type: ignore[import-untyped]  # it ships no types

    logging.getLogger("absl").setLevel(logging.ERROR)  # it warns that there is nothing to merge
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=False)
    with ocp.Checkpointer(handler) as checkpointer:
        tree = {"a": {name.removeprefix("a."): array for name, array in ARRAYS.items()}}
        checkpointer.save(path, tree)


def lay(path: Path, files: dict[str, bytes]) -> None:
    """Write a directory."""
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def kind(name: str, edit: Edit, ocdbt: bool = True, harmless: str = "") -> Kind:
    """A kind that edits a whole directory."""

    def make(place: Place) -> None:
        lay(place.file, template(ocdbt))
        edit(place.file, place)

    return Kind(GROUP, name, make, harmless)


def data_file(path: Path) -> Path:
    """The largest of the store's files."""
    files = [p for p in path.glob("d/*") if p.is_file()]
    return max(files, key=lambda p: (p.stat().st_size, p.name))


PARTS: dict[str, Part] = {
    "_METADATA": lambda path: path / "_METADATA",
    "_CHECKPOINT_METADATA": lambda path: path / "_CHECKPOINT_METADATA",
    "manifest.ocdbt": lambda path: path / "manifest.ocdbt",
    "the store's folder": lambda path: path / "d",
    "the store of the process": lambda path: path / "ocdbt.process_0",
    "a file of the store": data_file,
    "the manifest": lambda path: path / "parity.json",
}


def linked(part: Part) -> Edit:
    """Move a part outside, and leave a link."""

    def edit(path: Path, place: Place) -> None:
        moved = place.outside / "part"
        if moved.is_dir():
            shutil.rmtree(moved)
        else:
            moved.unlink(missing_ok=True)
        if not (found := part(path)).exists():  # a manifest, which the template has not
            found.write_text("{}")
        os.replace(found, moved)
        found.symlink_to(moved)

    return edit


def without(part: Part) -> Edit:
    def edit(path: Path, place: Place) -> None:
        del place
        found = part(path)
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)

    return edit


def piped(part: Part) -> Edit:
    """A pipe that nobody writes to, in place of a file."""

    def edit(path: Path, place: Place) -> None:
        found = part(path)
        without(part)(path, place)
        os.mkfifo(found)

    return edit


def content(name: str, data: bytes | Callable[[bytes], bytes]) -> Edit:
    """Another content of a file."""

    def edit(path: Path, place: Place) -> None:
        del place
        file = path / name
        before = file.read_bytes() if file.exists() else b""
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data if isinstance(data, bytes) else data(before))

    return edit


def entries_of(name: str, change: Change) -> Edit:
    """Other entries of a JSON file: what the function returns, else what it changed."""

    def edit(data: bytes) -> bytes:
        entries = json.loads(data)
        changed = change(entries)
        return json.dumps(entries if changed is None else changed).encode()

    return content(name, edit)


def metadata(change: Change) -> Edit:
    """Another `_METADATA`."""
    return entries_of("_METADATA", change)


def leaf(*keys: str, value_type: str = "np.ndarray") -> dict[str, Any]:
    """An entry of the tree in `_METADATA`."""
    return {
        "key_metadata": [{"key": key, "key_type": 2} for key in keys],
        "value_metadata": {"value_type": value_type, "skip_deserialize": False},
    }


def trees() -> dict[str, Edit]:
    """Lies of `_METADATA`."""
    deep = b"[" * 10**5 + b"]" * 10**5

    def named(key: str, *keys: str, **more: str) -> Edit:
        return metadata(lambda e: e["tree_metadata"].update({key: leaf(*keys, **more)}))

    def typed(value_type: str) -> Edit:
        return metadata(
            lambda e: e["tree_metadata"].update(
                {"('a', 'bias')": leaf("a", "bias", value_type=value_type)}
            )
        )

    many = {f"('a', '{i}')": leaf("a", str(i)) for i in range(100_000)}
    types = ("string", "jax.Array", "scalar", "None", "Dict", "List", "os.system", "PyGrain")
    return {
        "empty": content("_METADATA", b""),
        "no JSON": content("_METADATA", b"{nothing}"),
        "not UTF-8": content("_METADATA", b'{"\xff\xfe": 1}'),
        "100,000 deep": content("_METADATA", b'{"tree_metadata": ' + deep + b"}"),
        "a list": content("_METADATA", b"[]"),
        "null": content("_METADATA", b"null"),
        "no tree": metadata(lambda e: e.pop("tree_metadata") and None),
        "an empty tree": metadata(lambda e: e.update(tree_metadata={})),
        "a tree that is a list": metadata(lambda e: e.update(tree_metadata=[])),
        "100,000 names": metadata(lambda e: e.update(tree_metadata=many)),
        "a name of ../": named("('..', 'outside', 'secret')", "..", "outside", "secret"),
        "a name with ../": named("('../../outside/secret',)", "../../outside/secret"),
        "an absolute name": named("('/etc/passwd',)", "/etc/passwd"),
        "an empty name": named("('',)", ""),
        "a name with a null": named("('a\\x00b',)", "a\0b"),
        "a name with escapes": named("('\x1b[2J\n',)", "\x1b[2J\n"),
        "a name that is code": named("__import__('os').system('true')", "a"),
        "a name 50 deep": named(str(("a",) * 50), *("a",) * 50),
        "a name under an array": named("('a', 'bias', 'x')", "a", "bias", "x"),
        "a name that is not there": named("('b',)", "b"),
        "a key that is a list": metadata(
            lambda e: e["tree_metadata"]["('a', 'bias')"].update(key_metadata=[["a"], ["bias"]])
        ),
        "a key of an unknown type": metadata(
            lambda e: e["tree_metadata"]["('a', 'bias')"]["key_metadata"][0].update(key_type=99)
        ),
        "an index of 2**40": metadata(
            lambda e: e["tree_metadata"]["('a', 'bias')"].update(
                key_metadata=[{"key": "a", "key_type": 2}, {"key": str(2**40), "key_type": 1}]
            )
        ),
        "a name less": metadata(lambda e: e["tree_metadata"].pop("('a', 'bias')") and None),
        "no store": metadata(lambda e: e.update(use_ocdbt=False)),
        "another store": metadata(lambda e: e.update(use_zarr3=True)),
        "a store of text": metadata(lambda e: e.update(use_ocdbt="maybe")),
        "custom metadata 900 deep": metadata(lambda e: e.update(custom_metadata=_deep(900))),
        **{f"an array that is a {value}": typed(value) for value in types},
    }


def stores() -> dict[str, Edit]:
    """Lies of the files themselves."""

    def cut(path: Path, place: Place) -> None:
        del place
        file = data_file(path)
        file.write_bytes(file.read_bytes()[:-1])

    return {
        "manifest.ocdbt is empty": content("manifest.ocdbt", b""),
        "manifest.ocdbt is text": content("manifest.ocdbt", b"hello"),
        "manifest.ocdbt claims 2**63 bytes": content(
            "manifest.ocdbt", lambda data: data[:4] + b"\xff" * 7 + b"\x7f" + data[12:]
        ),
        "a file of the store cut short": cut,
        "_CHECKPOINT_METADATA 100,000 deep": content(
            "_CHECKPOINT_METADATA", b"[" * 10**5 + b"]" * 10**5
        ),
        "_sharding that is garbage": content("_sharding", b"\xff" * 100),
    }


def zarr(change: Change) -> Edit:
    """Another `.zarray` of one array, where each has its folder."""
    return entries_of("a.weight/.zarray", change)


def folders() -> dict[str, Edit]:
    """Lies of arrays that have a folder each."""
    bomb = 512 * 2**20

    def chunk(data: bytes, compressor: dict[str, Any] | None, **more: Any) -> Edit:
        def edit(path: Path, place: Place) -> None:
            zarr(lambda e: e.update(compressor=compressor, **more))(path, place)
            content("a.weight/0.0", data)(path, place)

        return edit

    def shape(*sides: int, **more: Any) -> Edit:
        return zarr(lambda e: e.update(shape=list(sides), **more))

    return {
        "a shape of 2**62": shape(2**62, 3),
        "a shape of 2**40, mostly not there": shape(2**38, 4),
        "a shape of 2**29, mostly not there": shape(2**14, 2**15, chunks=[2, 3]),
        "a shape that overflows": shape(2**40, 2**40),
        "a negative shape": shape(-2, 3),
        "a shape of other dims": shape(6),
        "40 dims": shape(*[1] * 39, 6, chunks=[1] * 39 + [6]),
        "chunks of 2**40": zarr(lambda e: e.update(chunks=[2**40, 2**40])),
        "chunks of 2**15 a side": zarr(lambda e: e.update(chunks=[2**15, 2**15])),
        "chunks of 0": zarr(lambda e: e.update(chunks=[0, 3])),
        "no chunk": without(lambda path: path / "a.weight" / "0.0"),
        "a chunk too short": chunk(bytes(20), None),
        "a chunk too long": chunk(bytes(100), None),
        "a chunk that is a bomb, gzip": lambda path, place: chunk(
            _gzip(bomb), {"id": "gzip", "level": 1}
        )(path, place),
        "an unknown compressor": chunk(bytes(24), {"id": "code", "run": "true"}),
        "a filter": zarr(lambda e: e.update(filters=[{"id": "pickle"}])),
        "objects": zarr(lambda e: e.update(dtype="|O")),
        "text": zarr(lambda e: e.update(dtype="<U1000")),
        "records": zarr(lambda e: e.update(dtype=[["x", "<f4", [2**20]], ["y", "<f4"]])),
        "the other byte order": zarr(lambda e: e.update(dtype=">f4")),
        ".zarray is empty": content("a.weight/.zarray", b""),
        ".zarray is 100,000 deep": content("a.weight/.zarray", b"[" * 10**5 + b"]" * 10**5),
        ".zarray is a link": linked(lambda path: path / "a.weight" / ".zarray"),
        "a chunk is a link": linked(lambda path: path / "a.weight" / "0.0"),
        "a chunk is a pipe": piped(lambda path: path / "a.weight" / "0.0"),
        "an array's folder is a link": linked(lambda path: path / "a.weight"),
        "a name of ../": metadata(
            lambda e: e["tree_metadata"].update({"('../outside',)": leaf("../outside")})
        ),
    }


def prefixed(prefix: str) -> Edit:
    """A store that keeps its values elsewhere, as TensorStore itself lets one say."""

    def edit(path: Path, place: Place) -> None:
        import tensorstore as ts

        shutil.rmtree(path / "d")
        shutil.rmtree(path / "ocdbt.process_0")
        (path / "manifest.ocdbt").unlink()
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


def _gzip(size: int) -> bytes:
    block = gzip.compress(bytes(2**20))  # members may follow each other
    return block * (size // 2**20)


def _deep(depth: int) -> Any:
    found: Any = 1
    for _ in range(depth):
        found = {"a": found}
    return found


def kinds() -> Iterator[Kind]:
    """All."""
    pipes = ("_CHECKPOINT_METADATA", "manifest.ocdbt", "a file of the store", "the manifest")
    inline = {"the store of the process": "small arrays lie in the store's own folder"}
    needed = ("manifest.ocdbt", "the store's folder", "the store of the process")
    for name, part in PARTS.items():
        yield kind(f"{name} is a link that leaves it", linked(part))
        if name in pipes:
            yield kind(f"{name} is a pipe", piped(part))
        if name in needed:
            yield kind(f"without {name}", without(part), harmless=inline.get(name, ""))
    fine = {
        "custom metadata 900 deep": "nobody looks at it",
        "a name less": "arrays that nothing names are not there",
        "a name that is code": "nobody reads it, but the keys beside it",
        "an array that is a None": "as Orbax writes a place where nothing is",
        "an array that is a Dict": "as Orbax writes a place where nothing is",
        "an array that is a List": "as Orbax writes a place where nothing is",
        "an array that is a jax.Array": "it comes as NumPy's",
        "an array that is a scalar": "it comes as NumPy's",
        "_sharding that is garbage": "nobody looks at it",
        "_CHECKPOINT_METADATA 100,000 deep": "nobody looks at it",
        "the other byte order": "TensorStore turns it",
    }
    for name, edit in trees().items():
        yield kind(f"_METADATA: {name}", edit, harmless=fine.get(name, ""))
    for name, edit in stores().items():
        yield kind(name, edit, harmless=fine.get(name, ""))
    for name, edit in folders().items():
        yield kind(f"zarr: {name}", edit, ocdbt=False, harmless=fine.get(name, ""))
    yield kind("a store under ../", prefixed("../../outside/"))
