"""Converting a checkpoint of any network by rules: planned whole, then streamed and verified."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from parity.io.replacing import flush
from parity.io.resuming import resuming
from parity.spec.errors import InputError
from weights_convert.formats import KEY, sidecar
from weights_convert.hashes import text_sha256
from weights_convert.streaming import manifest as manifests
from weights_convert.streaming.manifest import UNKNOWN, RulesManifest
from weights_convert.streaming.opening import open_source
from weights_convert.streaming.plan import Plan, Planner, check, ordered, units
from weights_convert.streaming.safetensors_shards import Shard, layout
from weights_convert.streaming.shard_index import SAFETENSORS
from weights_convert.streaming.shard_writer import verify, write_file, write_shards
from weights_convert.streaming.source import Source, shards_sha256
from weights_convert.streaming.work import MEMORY, Budget, Work

WORKERS = 2  # files that are written at once
ROOM = 1 << 24  # bytes beside the tensors' that a target needs


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was written, or would be.

    Attributes:
        source: What was read.
        plan: What was made of it.
        path: What was written.
        format: `safetensors`, `shards` or `orbax`.
        files: Number of files with tensors.
        manifest: The manifest; None of a dry run.
    """

    source: Source
    plan: Plan
    path: Path
    format: str
    files: int
    manifest: RulesManifest | None = None


def convert(
    source: str | Path,
    target: str | Path,
    planner: Planner,
    *,
    shard_size: int | None = None,
    workers: int = WORKERS,
    memory: int = MEMORY,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Conversion:
    """Convert a checkpoint by rules, a tensor at a time, and verify the result.

    Args:
        source: A checkpoint in any format, or shards: their index, or the folder that holds it.
        target: What to write, which must not exist: a file `NAME.safetensors`, or a directory of
            Orbax's; with `shard_size` a folder of shards.
        planner: Says what becomes of the source's tensors.
        shard_size: Bytes of a shard's tensors.
        workers: How many files are written at once.
        memory: Bytes of tensors in memory at once, unless one needs more.
        dry_run: Whether to stop when everything is planned and nothing is written.
        progress: Called with a description of the next action.

    Raises:
        InputError: The source or the rules do not fit, or the target cannot be written. Then there
            is nothing under its name.
    """
    source, target = Path(source), Path(target)
    format = _format(target, shard_size)
    if workers < 1:
        raise InputError(f"workers {workers}, expected 1 or more")
    progress(f"opening {source}")
    opened = open_source(source)
    plan = planner(opened.tensors)
    check(plan, opened.tensors, source)
    plan = ordered(plan, opened.tensors)
    if format == "orbax":
        from weights_convert.streaming.orbax_arrays import check_tensors

        check_tensors(plan.made)
    else:
        layout(plan.made, {})  # refuses what the format cannot hold
    files = len(units(plan, shard_size)) if shard_size else 1
    _check_target(source, target)
    done = Conversion(opened, plan, target, format, files)
    if dry_run:
        return done
    work = Work(opened, plan, workers, Budget(memory), progress)
    try:
        return dataclasses.replace(done, manifest=_write(work, target, format, shard_size))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror or error}") from error


def _format(target: Path, shard_size: int | None) -> str:
    suffix = target.suffix.lower()
    if shard_size is not None:
        if shard_size < 1:
            raise InputError(f"shard size {shard_size}, expected 1 byte or more")
        if suffix in (".safetensors", ".orbax"):
            raise InputError(f"{target}: shards need a folder, expected a name without {suffix}")
        return "shards"
    if suffix in ("", ".orbax"):
        return "orbax"
    if suffix == ".safetensors":
        return "safetensors"
    raise InputError(
        f"{target}: by rules are written a file .safetensors, an Orbax directory (.orbax or no"
        " suffix), or a folder of shards (--shard-size)"
    )


def _check_target(source: Path, target: Path) -> None:
    """Refuse a target that is there, or whose folder is not."""
    if os.path.lexists(target):
        raise InputError(f"{target} exists: not replaced")
    here, there = Path(os.path.realpath(source)), Path(os.path.realpath(target))
    if here in there.parents:
        raise InputError(f"{target} lies in {source}")
    if not there.parent.is_dir():
        raise InputError(f"cannot write {target}: {there.parent} is not a folder")


def _write(work: Work, target: Path, format: str, shard_size: int | None) -> RulesManifest:
    facts = (format, str(shard_size), work.plan.sha256(), work.source.fingerprint())
    with (
        ThreadPoolExecutor(1) as pool,
        resuming(Path(os.path.realpath(target)), text_sha256("\n".join(facts))) as folder,
    ):
        _check_room(work.plan.nbytes, folder)
        hashing = pool.submit(_source_sha256, work.source)
        new = folder / target.name
        try:
            if format == "safetensors":
                manifest = _safetensors(work, new, hashing)
            elif format == "shards":
                manifest = _shards(work, new, shard_size or 0, hashing)
            else:
                manifest = _orbax(work, folder, new, hashing)
        except InputError as error:  # names the place where it is made
            raise InputError(str(error).replace(str(new), str(target))) from error
        if os.path.lexists(target):
            raise InputError(f"{target} exists by now: not replaced")
        os.rename(new, target)
        flush(target.parent)
    return manifest


def _check_room(needed: int, folder: Path) -> None:
    there = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    free = shutil.disk_usage(folder).free
    if free + there < needed + ROOM:
        raise InputError(
            f"cannot write {needed:,} bytes in {folder.parent.parent}: {free:,} are free"
        )


def _source_sha256(source: Source) -> str:
    """Check that the source is what its manifest was written for; return its hash."""
    sha256 = source.sha256()
    metadata = dict(source.metadata)
    if KEY not in metadata:
        place = source.files[0].parent if len(source.files) > 1 else source.files[0]
        metadata |= sidecar.read(place, sha256)
    said = manifests.parse(metadata, source.path)
    if said is not None and source.format == "safetensors":
        shard = Shard(source.path)
        found = {name: shard.sha256(name) for name in shard.tensors}
        manifests.verify(said, found, source.path)
    return sha256


def _manifest(work: Work, hashes: dict[str, str], sha256: str) -> RulesManifest:
    return RulesManifest(work.plan.rules, work.plan.reverse, sha256, hashes)


def _safetensors(work: Work, path: Path, hashing: Future[str]) -> RulesManifest:
    """Write one file, whose manifest stands before the tensors that it gives the hashes of."""
    unknown = _manifest(work, dict.fromkeys(work.plan.made, UNKNOWN), UNKNOWN)
    metadata = {"format": "pt" if work.plan.reverse else "flax", KEY: unknown.to_json()}
    (unit,) = units(work.plan, work.plan.nbytes)
    work.progress(f"writing {path.name}")
    hashes = write_file(work, path, unit, metadata)
    work.progress("reading it back")
    verify(path, unit, hashes)
    ordered = {name: hashes[name] for name in work.plan.made}
    manifest = _manifest(work, ordered, hashing.result())
    head, _ = layout(work.plan.made, metadata | {KEY: manifest.to_json()})
    with path.open("rb+") as file:
        file.write(head)
        file.flush()
        os.fsync(file.fileno())
    if Shard(path).metadata[KEY] != manifest.to_json():
        raise InputError(f"cannot write {path}: read back, its manifest differs")
    return manifest


def _shards(work: Work, folder: Path, size: int, hashing: Future[str]) -> RulesManifest:
    folder.mkdir(exist_ok=True)
    hashes, files = write_shards(work, folder, size)
    opened = open_source(folder / SAFETENSORS)
    if opened.tensors != work.plan.made:
        raise InputError(f"cannot write {folder}: read back, its index differs")
    manifest = _manifest(work, hashes, hashing.result())
    work.progress("hashing it")
    sidecar.write(folder, {KEY: manifest.to_json()}, shards_sha256(files))
    flush(folder / sidecar.INSIDE)
    return manifest


def _orbax(work: Work, folder: Path, path: Path, hashing: Future[str]) -> RulesManifest:
    from weights_convert.streaming.orbax_writer import write_orbax

    if path.exists():  # whole, but for its manifest, which a killed process did not write
        shutil.rmtree(path)
    hashes = write_orbax(work, folder, path)
    manifest = _manifest(work, hashes, hashing.result())
    work.progress("hashing it")
    sidecar.write(path, {KEY: manifest.to_json()})
    flush(path / sidecar.INSIDE)
    return manifest
