"""Writing that the file system refuses: one line, exit status 2, and the old file is intact.

Each way runs in a child: where a file system of its own is needed, in a mount namespace, which
leaves nothing behind (Linux: `unshare`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.forking import ROOT
from tests.fuzz.result import FuzzRow
from tests.fuzz.samples import SUFFIXES, files_of, source
from weights_convert import formats

NOBODY = 65534
SPARE = 100  # KiB that are left on the full disk: less than any checkpoint

# Way -> whether it needs a file system of its own.
WAYS = {"disk full": True, "read-only folder": True, "no permission": False, "file limit": False}


def endure(way: str) -> FuzzRow:
    """Try to replace a checkpoint of each format, one way.

    Args:
        way: A key of `WAYS`.
    """
    count = len(formats.FORMATS)
    inside = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    if WAYS[way] and (not shutil.which("unshare") or subprocess.run([*inside, "true"]).returncode):
        return FuzzRow("disk-errors", way, note="no mount namespace is allowed here")
    with tempfile.TemporaryDirectory(prefix="parity-disk-errors-") as folder:
        os.chmod(folder, 0o755)
        own = {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": f"{folder}/cache"}
        done = subprocess.run(
            [*(inside if WAYS[way] else []), sys.executable, "-m", __name__, way, folder],
            capture_output=True,
            text=True,
            cwd="/",
            env=os.environ | own,
        )
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or len(said) != count:
        raise RuntimeError(f"{way}: {done.stderr[-500:]}")
    faults = [f"{one['format']}: {one['fault']}" for one in said if one["fault"]]
    note = said[0]["line"].rpartition(": ")[2]
    return FuzzRow("disk-errors", way, count, count - len(faults), 0, faults, note)


def main(way: str, folder: Path) -> None:
    """In the child: make old checkpoints, let the file system refuse, and try to replace them."""
    new = source(folder, 1)
    disk = folder / "disk"
    disk.mkdir()
    if WAYS[way]:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], check=True)
    old = {format: disk / f"x{suffix}" for format, suffix in SUFFIXES.items()}
    for path in (*old.values(), *old.values()):  # twice: everything is imported and made once
        status, line = _convert(source(folder, 0), path)
        if status:
            raise RuntimeError(line)
    before = {format: _bytes(path) for format, path in old.items()}
    there = sorted(p.name for p in disk.iterdir())
    _refuse(way, disk)
    for format, path in old.items():
        status, line = _convert(new, path)
        fault = ""
        if status != 2 or line.count("\n") != 1 or not line.strip().isprintable():
            fault = f"exit status {status}, {line!r}"
        elif _bytes(path) != before[format] or sorted(p.name for p in disk.iterdir()) != there:
            fault = "the old file is not as it was, or something else lies there"
        shown = line.strip().replace(str(disk), "FOLDER")
        print(json.dumps({"format": format, "line": shown, "fault": fault}), flush=True)


def _refuse(way: str, disk: Path) -> None:
    """From now on."""
    if way == "disk full":
        used = shutil.disk_usage(disk).used // 1024 + SPARE
        subprocess.run(["mount", "-o", f"remount,size={used}k", disk], check=True)
    elif way == "read-only folder":
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    elif way == "file limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, resource.RLIM_INFINITY))
    else:
        disk.chmod(0o555)
        if os.geteuid() == 0:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)


def _convert(source: Path, target: Path) -> tuple[int, str]:
    """`parity convert`, in this process: its exit status and what it says on standard error."""
    from parity.cli import main

    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(["convert", str(source), str(target), "--to", "torch"])
    return status, said.getvalue()


def _bytes(path: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in files_of(path)}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
