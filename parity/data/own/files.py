"""The files of a data set of the user's: images and masks by pattern, and the splits."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from parity.data.own.description import SPLIT, USUAL_SPLITS, Description
from parity.data.segmentation import PICTURES, Sample, require_split
from parity.spec.errors import InputError, listed


def samples(of: Description, split: str) -> list[Sample]:
    """Return the images of one split with their masks, sorted by name.

    Raises:
        InputError: No such split, no image in it, or an image without a mask.
    """
    _require_split(of, split)
    images, masks = (listing(of, place, split) for place in (of.images, of.masks))
    chosen = members(of, split, images)
    if missing := [images[key] for key in chosen if key not in masks]:
        faults = listed(f"{path} has no mask" for path in missing)
        raise InputError(f"{of.file}: {faults}, expected {of.masks}")
    by_folder = SPLIT in of.images
    if by_folder and (left := [masks[key] for key in sorted(masks) if key not in images]):
        faults = listed(f"{path} has no image" for path in left)
        raise InputError(f"{of.file}: {faults}, expected {of.images}")
    return [Sample(Path(key).name, images[key], masks[key]) for key in chosen]


def _require_split(of: Description, split: str) -> None:
    """Refuse a split that is not there; where there is none at all, say where they would be."""
    if not of.splits:
        raise InputError(
            f"{of.file}: images is {of.images!r}, but none of its folders"
            f" {', '.join(USUAL_SPLITS)} is there"
        )
    require_split(of.file, split, of.splits)


def classified(of: Description, split: str) -> list[tuple[Path, int]]:
    """Return the images of one split with their classes, sorted by folder and name.

    Raises:
        InputError: No such split, no image in it, or a folder that is no class.
    """
    _require_split(of, split)
    images = listing(of, of.images, split)
    number = {folder: i for i, folder in enumerate(of.folders)}
    chosen = members(of, split, images)
    if strange := [images[key] for key in chosen if key.partition("/")[0] not in number]:
        raise InputError(
            f"{of.file}: {listed(map(str, strange))} lies in no class's folder, expected"
            f" {listed(of.folders)}"
        )
    return [(images[key], number[key.partition("/")[0]]) for key in chosen]


def members(of: Description, split: str, images: dict[str, Path]) -> list[str]:
    """Return the keys of a split's images, sorted.

    Raises:
        InputError: There is none, or the split's list names an image that is not there.
    """
    kind = of.splits[split]
    if isinstance(kind, float):
        low, high = _interval(of, split)
        chosen = [key for key in sorted(images) if low <= place(key) < high]
    elif SPLIT in of.images:
        chosen = sorted(images)
    else:
        chosen = sorted(_listed(of.root / kind, images, of))
    if not chosen:
        raise InputError(
            f"{of.file}: split {split} holds no images, of {len(images)} in {of.images}"
        )
    return chosen


def place(key: str) -> float:
    """Return a number in [0, 1) that follows from an image's name alone.

    It is a hash, so that an image stays in its split whatever images are added or removed.
    """
    digest = hashlib.sha256(key.encode(errors="surrogateescape")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def _interval(of: Description, split: str) -> tuple[float, float]:
    """Return the part of [0, 1) that is a split's, in the order of the file."""
    low = 0.0
    for name, share in of.splits.items():
        high = low + float(share)
        if name == split:
            return low, 1.0 if high > 1 - 1e-9 else high
        low = high
    raise KeyError(split)


def _listed(path: Path, images: dict[str, Path], of: Description) -> list[str]:
    """The keys that a list file names, a line each.

    A line is what the wildcards of `images` stand for, or a file's name below their folder; either
    with or without suffix.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, expected the list of a split") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a list of names in UTF-8") from error
    start, _ = _start(of, of.images)
    exact = {image.relative_to(start).as_posix(): key for key, image in images.items()}
    whole = {_without_suffix(name): key for name, key in exact.items()}
    found: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        meant = {exact[name]} if name in exact else set()
        short = _without_suffix(name)
        meant = meant or {one for one in (name, short, whole.get(short)) if one in images}
        if len(meant) > 1:
            both = " or ".join(str(images[one]) for one in sorted(meant))
            raise InputError(f"{path}: line {number}: {name!r} may be {both}: name the whole file")
        key = next(iter(meant), None)
        if key is None:
            raise InputError(f"{path}: line {number}: no image {name!r} in {of.root / of.images}")
        if key in found:
            raise InputError(
                f"{path}: line {number}: {name!r} is there twice, in line {found[key]}"
            )
        found[key] = number
    return list(found)


def listing(of: Description, pattern: str, split: str) -> dict[str, Path]:
    """Return the files of a folder or pattern, by what `*` and `**` stand for, without suffix.

    Raises:
        InputError: No such folder, or two files of one name.
    """
    pattern = pattern.replace(SPLIT, str(of.splits[split])) if SPLIT in pattern else pattern
    start, rest = _start(of, pattern)
    if not start.is_dir():
        fault = "not a folder" if start.exists() else "no such folder"
        raise InputError(f"{start}: {fault}, expected that of {pattern!r} in {of.file}")
    suffix = "" if rest.lower().endswith(PICTURES) else f"(?:{'|'.join(map(re.escape, PICTURES))})"
    wanted = re.compile(_expression(rest) + (f"(?i:{suffix})" if suffix else ""))
    found: dict[str, Path] = {}
    for path in _below(start):
        match = wanted.fullmatch(path.relative_to(start).as_posix())
        if not match:
            continue
        key = _joined(match.groups())
        if key in found:
            raise InputError(f"{path} and {found[key]}: two files of one name, {key!r}")
        found[key] = path
    return found


def gone(of: Description, split: str) -> bool:
    """Return whether a split's images are no longer there: their folder is missing or empty.

    Raises:
        InputError: Two files of one name.
    """
    start, _ = _start(of, of.images.replace(SPLIT, str(of.splits[split])))
    return not start.is_dir() or not listing(of, of.images, split)


def _start(of: Description, pattern: str) -> tuple[Path, str]:
    """Return the folder in which a pattern's files are looked for, and the pattern below it."""
    parts = Path(pattern).parts
    fixed = next((i for i, part in enumerate(parts) if "*" in part), len(parts))
    return of.root.joinpath(*parts[:fixed]), "/".join(parts[fixed:]) or "**/*"


def _expression(pattern: str) -> str:
    """Return a pattern as a regular expression, in which each `*` and `**/` is a group."""
    pieces = re.split(r"(\*\*/|\*)", pattern)
    groups = {"**/": r"((?:[^/]+/)*)", "*": r"([^/]*)"}
    return "".join(groups.get(piece) or re.escape(piece) for piece in pieces)


def _joined(parts: tuple[str, ...]) -> str:
    """Return what wildcards stand for, as one name; `**/` brings its own slash."""
    text = ""
    for part in parts:
        text += f"/{part}" if text and not text.endswith("/") else part
    return text


def _below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder but hidden ones, through links too, each folder once."""
    seen = set[str]()
    for path, inner, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(path))
        inner[:] = sorted(
            name
            for name in inner
            if not name.startswith(".") and os.path.realpath(os.path.join(path, name)) not in seen
        )
        yield from (Path(path, name) for name in sorted(files) if not name.startswith("."))


def _without_suffix(name: str) -> str:
    path = Path(name)
    return path.with_suffix("").as_posix() if path.suffix.lower() in PICTURES else name
