"""Reading and atomic writing of files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tomllib
from pathlib import Path
from typing import Any

from parity.io.replacing import replacing
from parity.spec.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        InputError: It cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # of which TOMLDecodeError and UnicodeDecodeError are kinds
        raise InputError(f"{path} is not TOML: {error}") from error


def write_atomically(path: str | Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all; see `parity.io.replacing`.

    A device or pipe (`/dev/stdout`) is written to, never replaced.

    Raises:
        InputError: It cannot be written; what stood there before is untouched.
    """
    path = Path(path)
    if not path.exists() or path.is_file():
        with replacing(path) as new:
            new.write_bytes(data)
        return
    try:
        path.write_bytes(data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def write_once(path: str | Path, data: bytes) -> bool:
    """Write a file whole unless there is one; of several processes, one does.

    Returns:
        Whether this call wrote it.

    Raises:
        InputError: It cannot be written.
    """
    made = []

    def link(new: Path, target: Path) -> None:
        with contextlib.suppress(FileExistsError):
            try:
                os.link(new, target)
            except FileExistsError:
                raise
            except OSError:
                with target.open("xb") as file:  # no links there
                    file.write(data)
            made.append(target)

    with replacing(Path(path), link) as new:
        new.write_bytes(data)
    return bool(made)


def copy_atomically(source: str | Path, target: str | Path) -> None:
    """Hard-link a file to a second name, or copy it where the file system has no links.

    An existing target is replaced in one step; see `parity.io.replacing`.

    Raises:
        InputError: It cannot be written; an existing target is untouched.
    """
    with replacing(Path(target)) as new:
        try:
            os.link(source, new)
        except OSError:  # a file system without links
            shutil.copyfile(source, new)


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: It cannot be read, or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from error


def check_writable(path: str | Path) -> None:
    """Refuse a path that `write_atomically` could not write, before hours of work.

    Raises:
        InputError: Its folder is missing or read-only, or it is a folder itself.
    """
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.basename(path):
        raise InputError(f"{path}: a folder, expected the name of a file to write")
    if not os.path.isdir(folder):
        raise InputError(f"{path}: no folder {folder} to write it in")
    check_folder(folder)


def check_folder(path: str | Path) -> None:
    """Refuse a folder in which no file could be written, or that could not be made.

    Raises:
        InputError: A file is in the way, or what there is of its path is read-only.
    """
    existing = Path(path).absolute()
    while not os.path.exists(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise InputError(f"{path}: {existing} is a file, expected a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{path}: no permission to write in {existing}")


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, where they are missing.

    Raises:
        InputError: A file is in the way, or it is not allowed.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: no folder can be made: {error.strerror}") from error
