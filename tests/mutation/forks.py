"""One fault, injected in a process of its own, in which pytest then asks its judges.

Imports nothing of the project: what is loaded already could not be injected any more.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
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


def child(job: Mapping[str, Any], root: str, folder: Path) -> None:
    """Inject, run pytest, and write what became of it.

    Args:
        job: `tests`, and perhaps `module`, `file`, `right` and `wrong`.
        root: The checkout.
        folder: An empty folder to write to.
    """
    with open(folder / "out", "wb") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    try:
        import pytest

        os.chdir(root)
        sys.path.insert(0, root)
        finder = None
        if "module" in job:
            path = str(Path(root, job["file"]))
            finder = Finder(job["module"], path, job["right"], job["wrong"])
            sys.meta_path.insert(0, finder)
        first = First()
        options = [*PYTEST, f"--basetemp={folder / 'tmp'}", f"--rootdir={root}"]
        code = int(pytest.main([*options, *job["tests"]], plugins=[first]))
        found = {**vars(first), "code": code, "loaded": finder is None or finder.loaded}
        found["seconds"] = round(time.process_time(), 2)
        (folder / "found.json").write_text(json.dumps(found))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # at once, and not after what the libraries do at the end


def outcome(folder: Path) -> dict[str, Any]:
    """What a child has written; where it died, the end of what it printed."""
    path = folder / "found.json"
    found = {"code": -1, "loaded": True, "failed": "", "passed": 0, "skipped": 0, "seconds": 0.0}
    if path.exists():
        found |= json.loads(path.read_text())
    if found["code"] not in (0, 1):
        printed = (folder / "out").read_text(errors="replace").strip().splitlines()
        found["message"] = found.get("message") or " / ".join(printed[-3:])[:300]
    return found
