"""Loading ports made by users: `path/to/file.py:make_port` or `package.module:make_port`."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from parity.report.source import NO_LINE, SourceLine, raised_at
from parity.spec.errors import InputError, one_line

if TYPE_CHECKING:
    from parity.ladder.port import Port


def is_factory(name: str) -> bool:
    """Return whether a model's name is that of a factory."""
    return ":" in name


def make_port(name: str) -> Port:
    """Call a factory.

    Args:
        name: `file.py:function` or `package.module:function`; the function takes nothing and
            returns a `Port`. Modules are also looked for in the working directory.

    Raises:
        InputError: The file, module or function is not there, it raised, or what it gave is no
            Port; the cause is the one of the exception.
    """
    from parity.ladder.port import Port

    port = made(name)
    if not isinstance(port, Port):
        kind = "nothing" if port is None else f"a {type(port).__name__}"
        raise InputError(f"{name} returned {kind}, expected a parity.Port")
    return _with_files_beside(_named(port, name), _folder(name))


def _named(port: Port, name: str) -> Port:
    """Call a port without a name after its factory, so that reports of two are told apart."""
    from parity.ladder.port import UNNAMED

    if port.name != UNNAMED:
        return port
    return dataclasses.replace(port, name=name.removesuffix(":make_port").removesuffix(".py"))


def made(name: str) -> Any:
    """Call a factory, and return whatever it makes.

    Args:
        name: As for `make_port`.

    Raises:
        InputError: The file, module or function is not there, or it raised.
    """
    place, _, function = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
    factory: Callable[[], Any] | None = getattr(module, function, None)
    if not callable(factory):
        raise InputError(f"{place} has no function {function!r}")
    return _guarded(name, factory)


def _folder(name: str) -> Path:
    """Return the folder of the module that holds a factory, which was loaded."""
    place = name.rpartition(":")[0]
    file = place if place.endswith(".py") else sys.modules[place].__file__
    return Path(file or "").parent


def _with_files_beside(port: Port, folder: Path) -> Port:
    """Find a table of rules, or a trace, that is kept beside the module that makes the port."""
    found: dict[str, Any] = {
        field: folder / value
        for field, value in (("weights", port.weights), ("reference", port.reference))
        if isinstance(value, str | Path) and (folder / value).is_file()
    }
    return dataclasses.replace(port, **found) if found else port


def line_of_factory(name: str) -> SourceLine:
    """Return the line at which a factory is defined; a false one if that is not in its file.

    Args:
        name: As for `make_port`, which has loaded it.
    """
    place, _, function = name.rpartition(":")
    path = place if place.endswith(".py") else getattr(sys.modules.get(place), "__file__", None)
    if path is None:
        return NO_LINE
    for node in ast.parse(Path(path).read_bytes()).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return SourceLine(path, node.lineno)
    return NO_LINE


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None  # of a .py file there is one
    loader = spec.loader
    assert loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)
    sys.path.insert(0, str(path.parent.resolve()))  # modules next to it can be imported
    try:
        _guarded(str(path), lambda: loader.exec_module(module))
    finally:
        sys.path.pop(0)
    return module


def _from_name(name: str) -> ModuleType:
    if not name:
        raise InputError("no module named before the colon, expected package.module:function")
    sys.path.insert(0, "")
    try:
        return _guarded(name, lambda: importlib.import_module(name))
    finally:
        sys.path.pop(0)


def _says_where(error: BaseException, line: SourceLine) -> bool:
    return isinstance(error, SyntaxError) and error.filename == line.path


def _guarded(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        line = raised_at(error)
        at = f" [{line}]" if line and not _says_where(error, line) else ""
        text = f"{name} raised {type(error).__name__}: {one_line(error)}{at}"
        raise InputError(text) from error
