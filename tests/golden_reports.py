"""Pins what `parity check MODEL --json` reports, to hold a change of the code against it.

    python -m tests.golden_reports pin REPORT.json MODEL
    python -m tests.golden_reports compare REPORT.json MODEL

A pinned report holds which comparisons were made, in their order, which limits of the structure
they had, and what the report said beside them. Errors and the limits of numerics are not pinned:
both change in their last digits from one processor to another.
"""

from __future__ import annotations

import json
import lzma
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from parity.io.files import write_atomically

FOLDER = Path(__file__).resolve().parent / "golden" / "reports"
WHOLE = ("name", "precision", "ok", "fault", "causes", "notes", "unseen", "left_out")
NAMED = ("rung", "kind", "layer", "reference", "quantity", "ok", "note")
# A step's limit in float64 has a term for the rounding of its weights, relative to the step.
TOLERANCE = 1e-3


def pinned(report: Mapping[str, Any]) -> dict[str, Any]:
    """What of a report is pinned.

    Args:
        report: As `parity check --json` writes it.
    """
    found = {key: report[key] for key in WHOLE}
    found["rungs"] = sorted(report["seconds"])
    found["checks"] = [
        [*(check[key] for key in NAMED), _limit(check)] for check in report["checks"]
    ]
    return found


def _limit(check: Mapping[str, Any]) -> float | None:
    return check["limit"] if check["kind"] == "structure" else None


def read(model: str) -> dict[str, Any]:
    """A pinned report."""
    found: dict[str, Any] = json.loads(lzma.decompress((FOLDER / f"{model}.json.xz").read_bytes()))
    return found


def write(report: Mapping[str, Any], model: str) -> None:
    """Pin a report under a name."""
    text = json.dumps(pinned(report), separators=(",", ":"))
    write_atomically(FOLDER / f"{model}.json.xz", lzma.compress(text.encode(), preset=9))


def differences(report: Mapping[str, Any], model: str) -> list[str]:
    """What a report says otherwise than the pinned one, a line each; empty where nothing."""
    new, old = pinned(report), read(model)
    found = [
        f"{key} is {new[key]!r}, pinned {old[key]!r}"
        for key in (*WHOLE, "rungs")
        if new[key] != old[key]
    ]
    names = [[check[: len(NAMED)] for check in each["checks"]] for each in (new, old)]
    if names[0] != names[1]:
        return found + _names(*names)
    for one, other in zip(new["checks"], old["checks"], strict=True):
        if one[-1] is not None and not math.isclose(one[-1], other[-1], rel_tol=TOLERANCE):
            found.append(f"limit of {one[:-1]} is {one[-1]}, pinned {other[-1]}")
    return found


def _names(new: Sequence[list[Any]], old: Sequence[list[Any]]) -> list[str]:
    """Comparisons that are new, gone, or in another order."""
    known, there = {json.dumps(n) for n in old}, {json.dumps(n) for n in new}
    found = [f"not pinned: {name}" for name in new if json.dumps(name) not in known]
    found += [f"gone: {name}" for name in old if json.dumps(name) not in there]
    return found or ["the same comparisons in another order, or another number of times"]


def main(arguments: Sequence[str]) -> int:
    """Run one of the commands above; the exit status of `compare` is 1 where something differs."""
    command, file, model = arguments
    report = json.loads(Path(file).read_text())
    if command == "pin":
        write(report, model)
        return 0
    found = differences(report, model)
    print("\n".join(found[:20]) or f"{model}: as pinned, {len(report['checks'])} comparisons")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
