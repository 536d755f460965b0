"""What a built wheel and source distribution hold: `python -m tests.distributions FOLDER`.

Lists each with its size, and exits with 1 where something is missing that the installed package
needs, or something is in it that only a checkout needs.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("parity", "torch_impl", "jax_impl", "weights_convert")
LABORATORY = ("tests", "fuzz", "mutation", "benchmarks", "docs")
SUFFIXES = (".py", ".toml", ".json", ".safetensors", "py.typed")


def needed() -> list[str]:
    """Return what the product reads when it runs, besides modules, and the recorder."""
    data = [
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*"))
        if path.is_file()
        and path.suffix != ".py"
        and (path.name.endswith(SUFFIXES) or path.parent.name == "templates")
        and not set(LABORATORY) & set(path.relative_to(ROOT).parts)
    ]
    return [*data, "parity/trace/recorder.py"]


def names(file: Path) -> list[str]:
    """Return the files in a wheel, or in a source distribution, below its folder."""
    if file.suffix == ".whl":
        with zipfile.ZipFile(file) as wheel:
            return sorted(wheel.namelist())
    with tarfile.open(file) as archive:
        members = [member.name for member in archive.getmembers() if member.isfile()]
    return sorted(name.partition("/")[2] for name in members)


def faults(file: Path) -> Iterator[str]:
    """Yield what is wrong with a distribution, a line for each fault."""
    found = names(file)
    for name in needed():
        if name not in found:
            yield f"{file.name}: {name} is missing"
    if file.suffix != ".whl":
        yield from (
            f"{file.name}: {n} is missing" for n in ("LICENSE", "README.md") if n not in found
        )
        return
    for name in found:
        parts = name.split("/")
        if parts[0].endswith(".dist-info"):
            continue
        laboratory = set(LABORATORY) & set(parts[:-1]) or parts[-1].startswith("test_")
        if parts[0] not in PACKAGES or laboratory:
            yield f"{file.name}: {name} belongs to the checkout"
        elif not name.endswith(SUFFIXES) and "templates" not in parts:
            yield f"{file.name}: {name} is of no kind that is shipped"


def main(argv: list[str] | None = None) -> int:
    """List the distributions of a folder; return 1 if one is wrong or missing."""
    (folder,) = map(Path, sys.argv[1:] if argv is None else argv)
    files = [*folder.glob("*.whl"), *folder.glob("*.tar.gz")]
    wrong = [line for file in files for line in faults(file)]
    for file in files:
        kinds: dict[str, int] = {}
        for name in names(file):
            kinds[name.partition("/")[0]] = kinds.get(name.partition("/")[0], 0) + 1
        held = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{file.name}: {file.stat().st_size:,} bytes; files: {held}")
    if len(files) != 2:
        wrong.append(f"{folder}: {len(files)} distributions, expected a wheel and a source one")
    print("\n".join(wrong), end="\n" if wrong else "", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
