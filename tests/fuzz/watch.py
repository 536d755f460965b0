"""The child process of `sandbox.Sandbox`: reads files and reports everything they did to it.

Whatever the libraries print goes to a file, where it is counted as part of the answer.

An audit hook sees what Python does on a file's behalf; threads of C++ it does not see: for their
sake `canaries` lie around.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import io
import json
import os
import re
import resource
import site
import sys
import sysconfig
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from parity.spec.errors import InputError
from tests.forking import ROOT
from weights_convert.formats import FORMATS

# Address space that a file may ask for, beyond what its size allows: larger requests fail here as
# they would where there is no more memory, and are counted.
SPARE = 3 * 2**30

# Events of Python's that a file has no business to cause, by how their names start. The sockets
# that an event loop makes for itself are a pair, which is none of them.
FORBIDDEN = re.compile(
    r"""code\.__new__ | compile | cpython\.run_ | exec | function\.__new__ | pickle\.find_class
    | (ctypes | marshal | pty | shutil | signal | subprocess | tempfile | urllib | webbrowser)\.
    | os\.(chdir | chmod | chown | exec | fork | kill | link | mkdir | posix_spawn | putenv | remove
        | rename | rmdir | spawn | symlink | system | truncate | unlink | utime)
    | socket\.(bind | connect | get | send)""",
    re.VERBOSE,
)

# Where reading is no harm: the interpreter's and the libraries' own files, whose lines a traceback
# quotes and which they import late; and what the kernel says of the machine, which XLA asks.
LIBRARIES = tuple(
    os.path.realpath(path) + os.sep
    for path in {str(ROOT), sys.prefix, sys.base_prefix, "/proc", "/sys"}
    | {*sysconfig.get_paths().values(), *site.getsitepackages()}
)


class Watch:
    """Remembers what was done while a file was read.

    Attributes:
        events: One line each.
        folder: The only one whose files may be opened.
        armed: Whether anything is remembered.
    """

    def __init__(self) -> None:
        self.events: list[str] = []
        self.folder = "/"
        self.armed = False

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """For `sys.addaudithook`."""
        if not self.armed:
            return
        if event == "open":
            self._opened(*args)
        elif event == "import":
            if args[0] not in sys.modules:
                self._found(f"import {args[0]}")
        elif FORBIDDEN.match(event) and not self._of_library(event, args):
            self._found(f"{event} {args!r}")

    def _opened(self, path: Any, mode: str | None, flags: int) -> None:
        if isinstance(path, int):
            return
        real = os.path.realpath(os.fsdecode(path))
        writes = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        inside = real.startswith(self.folder + os.sep)
        if writes or not (inside or real.startswith(LIBRARIES)):
            self._found(f"open {real} {mode or ''} {'to write' if writes else 'to read'}")

    def _of_library(self, event: str, args: tuple[Any, ...]) -> bool:
        """Whether a library makes code for itself: `dataclasses` and `namedtuple` do.

        Told by who asks: a file's code would come through an unpickler or an evaluation.
        """
        if event not in ("compile", "exec", "code.__new__", "function.__new__"):
            return False
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename == __file__:
            frame = frame.f_back
        asks = frame.f_code.co_filename if frame else ""
        # `ast.literal_eval` compiles to a tree, which runs nothing.
        tree = event == "compile" and asks.endswith(f"{os.sep}ast.py")
        return tree or asks.endswith(
            (f"{os.sep}dataclasses.py", f"{os.sep}collections/__init__.py")
        )

    def _found(self, what: str) -> None:
        if len(self.events) < 20:
            self.events.append(what[:300])

    def arm(self, folder: str) -> None:
        """Remember what is done from now on, until `armed` is false again."""
        self.events, self.folder, self.armed = [], os.path.realpath(folder), True


def load(path: str) -> dict[str, Any]:
    """What `weights_convert.load` makes of a file."""
    from weights_convert import load
    from weights_convert.hashes import tensor_sha256s, whole_sha256

    found = load(path)
    facts = f"{found.network} {found.config.describe()} {found.naming_scheme} {found.skipped}"
    return {
        "outcome": "loaded",
        "arrays": whole_sha256(tensor_sha256s(found.arrays)),
        "manifest": found.manifest.to_json() if found.manifest else None,
        "facts": hashlib.sha256(facts.encode()).hexdigest(),
    }


def command(path: str) -> dict[str, Any]:
    """What `parity inspect` prints and returns; a refusal comes after what it printed before."""
    from parity import cli
    from parity.cli.commands import inspect

    def run(path: str) -> dict[str, Any]:
        status = inspect.run(cli.parser().parse_args(["inspect", path]))
        return {"outcome": f"status {status}" if status else "loaded"}

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        found = tried(run, path)
    return found | {"line": err.getvalue() + found["line"]}


def opened(path: str) -> dict[str, Any]:
    """Whether an ONNX file can be opened to be run."""
    from parity.export.reading import open_network

    open_network(path)
    return {"outcome": "loaded"}


def inspect(path: str) -> dict[str, Any]:
    """What `parity inspect` makes of a checkpoint, and then `load`."""
    found, loaded = tried(command, path), tried(load, path)
    outcome = "loaded" if loaded["outcome"] == "loaded" else found["outcome"]
    return either(found, loaded) | {"outcome": outcome}


def onnx(path: str) -> dict[str, Any]:
    """What `parity inspect` makes of an ONNX file, and then whether it can be opened to be run."""
    found, run = tried(command, path), tried(opened, path)
    return either(found, run) | {"outcome": run["outcome"]}


def tried(task: Callable[[str], dict[str, Any]], path: str) -> dict[str, Any]:
    """What a task says, or how the file is refused."""
    try:
        return {"line": "", "starved": False} | task(path)
    except InputError as error:
        return {"outcome": "refused", "line": str(error), "starved": _starved(error)}


def either(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """What one of two tasks says, or else the other."""
    return {key: one[key] or other[key] for key in ("line", "starved")}


def settle(path: str) -> dict[str, Any]:
    """Leave what there is out of every later collection: it stays."""
    del path
    gc.collect()
    gc.freeze()
    return {"outcome": "settled"}


TASKS = {"load": load, "inspect": inspect, "onnx": onnx, "settle": settle}


def answer(request: dict[str, Any], watch: Watch, said: TextIO) -> dict[str, Any]:
    """Do one task, and say how it went."""
    path, task = request["path"], TASKS[request["task"]]
    gc.collect()
    before = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    spare = _status("VmSize") + 2 * request["size"] + SPARE
    start = time.perf_counter()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (spare, limits[1]))
    watch.arm(os.path.dirname(path))
    try:
        found = tried(task, path)
    except BaseException as error:
        found = {"outcome": "error", "line": f"{type(error).__name__}: {error}"[:500]}
        found["starved"] = isinstance(error, MemoryError)
    finally:
        watch.armed = False
        resource.setrlimit(resource.RLIMIT_AS, limits)
    found["seconds"] = time.perf_counter() - start
    found["memory"] = max(_status("VmHWM") - before, 0)
    found["events"] = watch.events
    said.seek(0)
    found["said"] = said.read(2000)
    said.truncate(0)
    return found


def _starved(error: BaseException | None) -> bool:
    """Whether a request for memory that failed is at the bottom of an error."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or "allocate memory" in text or "bad_alloc" in text:
            return True
        error = error.__cause__ or error.__context__
    return False


def _status(name: str) -> int:
    """A number of `/proc/self/status`, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


def serve(pipe: Connection, folder: str) -> None:
    """In the child: answer requests, as bytes of JSON, until nobody asks any more.

    Args:
        pipe: Where they come from: `path`, `task` and `size`.
        folder: Where the libraries print, to `said`.
    """
    for name in FORMATS.values():
        importlib.import_module(f"weights_convert.formats.{name}")
    importlib.import_module("encodings.cp437")  # of names in zip archives that are not UTF-8
    importlib.import_module("unicodedata")  # of names in headers that are no ASCII
    os.chdir(folder)
    watch = Watch()
    sys.addaudithook(watch.hook)
    with open("said", "w+", errors="replace") as said, contextlib.suppress(EOFError):
        for standard in (1, 2):
            os.dup2(said.fileno(), standard)
        while True:
            request = json.loads(pipe.recv_bytes())
            pipe.send_bytes(json.dumps(answer(request, watch, said)).encode())
