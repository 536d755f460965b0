"""Run pytest once for each injected fault, in a fork of one process that has loaded the frameworks.

A program of its own that imports nothing of the project: whatever it had loaded could not be
injected any more. Reads lines of JSON from standard input, see `main`, and writes one for each job
to standard output as soon as it is done.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

# jaxtyping's plugin imports the frameworks, two seconds in each fork, for an option of no use here.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:jaxtyping")
PYTEST = ("-x", "-q", "-n", "0", *PLUGINS, "--no-header", "--tb=short")


class Injected(importlib.machinery.SourceFileLoader):
    """Loads a file with a text replaced, and no bytecode."""

    right: str
    wrong: str

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        text = self.get_data(path).decode()
        if text.count(self.right) != 1:
            raise ImportError(f"{path}: the text to replace stands {text.count(self.right)} times")
        return compile(text.replace(self.right, self.wrong), path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module, whose file is injected.

    Args:
        module: Its name.
        path: Its file.
        right: What stands there.
        wrong: What is to stand there.
    """

    def __init__(self, module: str, path: str, right: str, wrong: str) -> None:
        self.module, self.path, self.loaded = module, path, False
        self.loader = Injected(module, path)
        self.loader.right, self.loader.wrong = right, wrong

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.module:
            return None
        self.loaded = True
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self.loader)


class First:
    """A plugin of pytest that keeps the first test that failed, and counts the others."""

    def __init__(self) -> None:
        self.failed, self.message, self.passed, self.skipped = "", "", 0, 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        self._note(report)
        self.passed += report.when == "call" and report.passed
        self.skipped += report.skipped

    def pytest_collectreport(self, report: Any) -> None:
        self._note(report)

    def _note(self, report: Any) -> None:
        if report.failed and not self.failed:
            crash = getattr(report.longrepr, "reprcrash", None)
            text = crash.message if crash else str(report.longrepr).strip().rpartition("\n")[2]
            self.failed, self.message = report.nodeid, text.strip().partition("\n")[0][:300]


def child(job: dict[str, Any], root: str, folder: Path) -> None:
    """Inject, run pytest, and write what became of it; does not return."""
    status = 70
    try:
        with open(folder / "out", "wb") as out:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
        import pytest

        finder = None
        if job.get("module"):
            finder = Finder(
                job["module"], str(Path(root) / job["file"]), job["right"], job["wrong"]
            )
            sys.meta_path.insert(0, finder)
        first = First()
        options = [*PYTEST, f"--basetemp={folder / 'tmp'}", f"--rootdir={root}"]
        code = int(pytest.main([*options, *job["tests"]], plugins=[first]))
        found = {**vars(first), "code": code, "loaded": finder is None or finder.loaded}
        (folder / "found.json").write_text(json.dumps(found))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def outcome(folder: Path) -> dict[str, Any]:
    """What a child has written; where it died, the end of what it printed."""
    path = folder / "found.json"
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text())
    else:
        found = {"code": -1, "loaded": True, "failed": "", "passed": 0, "skipped": 0}
    if found["code"] not in (0, 1):
        printed = (folder / "out").read_text(errors="replace").strip().splitlines()
        found["message"] = found.get("message") or " / ".join(printed[-3:])[:300]
    return found


def main() -> None:
    """Read a line {root, scratch, preload, processes, limit}, then one for each list of jobs.

    Jobs are {tests}, or {tests, module, file, right, wrong}; `preload` the modules that are
    imported before; `scratch` a folder; `limit` the seconds after which a job is ended.
    """
    asked = json.loads(sys.stdin.readline())
    os.chdir(asked["root"])
    sys.path.insert(0, asked["root"])
    for name in asked["preload"]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    # JAX warns of forks, for its threads would be lost: its backend has not started any yet.
    warnings.filterwarnings("ignore", message=r"os\.fork\(\) was called")
    for i, line in enumerate(iter(sys.stdin.readline, "")):
        run(json.loads(line), asked, Path(asked["scratch"]) / str(i))


def run(jobs: list[dict[str, Any]], asked: dict[str, Any], scratch: Path) -> None:
    """Run jobs, several at a time."""
    waiting = list(enumerate(jobs))
    running: dict[int, tuple[int, Path, float]] = {}
    while waiting or running:
        while waiting and len(running) < asked["processes"]:
            number, job = waiting.pop(0)
            folder = scratch / str(number)
            folder.mkdir(parents=True)
            pid = os.fork()
            if pid == 0:
                child(job, asked["root"], folder)
            running[pid] = (number, folder, time.monotonic())
        for pid, (number, folder, begun) in list(running.items()):
            if time.monotonic() - begun > asked["limit"]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ended, _, usage = os.wait4(pid, os.WNOHANG)
            if ended:
                del running[pid]
                seconds = round(usage.ru_utime + usage.ru_stime, 2)
                print(json.dumps(outcome(folder) | {"job": number, "seconds": seconds}), flush=True)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
