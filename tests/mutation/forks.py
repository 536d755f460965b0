"""One fault, injected in a process of its own, in which pytest then asks its judges.

Imports nothing of the project: what is loaded already could not be injected any more.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# jaxtyping's plugin imports the frameworks, two seconds in each fork, for an option of no use here.
PLUGINS = ("-p", "no:cacheprovider", "-p", "no:jaxtyping")
PYTEST = ("-x", "-q", "-n", "0", *PLUGINS, "--no-header", "--tb=short")


class Injector(importlib.machinery.SourceFileLoader):
    """Finds and loads one module, with a text of its file replaced and without bytecode.

    Args:
        module: Its name.
        path: Its file.
        right: What stands there.
        wrong: What is to stand there.
    """

    def __init__(self, module: str, path: str, right: str, wrong: str) -> None:
        super().__init__(module, path)
        self.right, self.wrong, self.loaded = right, wrong, False

    def find_spec(self, fullname: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """For `sys.meta_path`."""
        if fullname != self.name:
            return None
        self.loaded = True
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self)

    def get_code(self, fullname: str) -> Any:
        text = self.get_data(self.path).decode()
        if text.count(self.right) != 1:
            raise ImportError(f"{self.path}: the text stands {text.count(self.right)} times in it")
        replaced = text.replace(self.right, self.wrong)
        return compile(replaced, self.path, "exec", dont_inherit=True)


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
        injector = None
        if "module" in job:
            path = str(Path(root, job["file"]))
            injector = Injector(job["module"], path, job["right"], job["wrong"])
            sys.meta_path.insert(0, injector)
        first = First()
        options = [*PYTEST, f"--basetemp={folder / 'tmp'}", f"--rootdir={root}"]
        code = int(pytest.main([*options, *job["tests"]], plugins=[first]))
        found = {**vars(first), "code": code, "loaded": injector is None or injector.loaded}
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
