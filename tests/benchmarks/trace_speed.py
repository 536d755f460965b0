"""What a trace costs: recording beside the same runs unstored, checking beside the live check.

    python -m tests.benchmarks.trace_speed --size 128x256      # ENet; --model, --levels

Asked of them: recording takes at most twice as long, checking against the trace no longer.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from parity import check
from parity.cli.arguments import parse_input_size
from parity.ladder import recording
from parity.ladder.port import Port
from parity.model_checks import networks
from parity.spec.models import MODELS
from parity.trace import recorder


@contextlib.contextmanager
def nothing_stored() -> Iterator[None]:
    """Context in which a recorder makes all its runs, and neither copies, hashes nor writes."""
    stored = mock.patch.object(recorder.Trace, "array", return_value="a0")
    kept = mock.patch.object(recorder.TorchRecorder, "_store", return_value="a0")
    with stored, kept:
        yield


def timed(function: Callable[..., Any], *args: Any) -> float:
    start = time.perf_counter()
    function(*args)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="enet")
    parser.add_argument("--size", default="128x256")
    parser.add_argument("--levels", default="L0,L1,L2,L3")
    parser.add_argument("--rounds", type=int, default=3, help="the median of so many recordings")
    args = parser.parse_args()
    config = MODELS[args.model]
    size, levels = parse_input_size(args.size, config), args.levels.split(",")

    def live() -> Port:
        return networks.port(args.model, config, size)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reference.trace"
        recording.record(live(), path)  # what is compiled, cached and allocated once
        runs, stored = [], []
        for _ in range(args.rounds):
            with nothing_stored():
                runs.append(timed(recording.record, live(), Path(folder) / "nothing.trace"))
            path.unlink()
            os.sync()  # what the disk still owes for the last one
            stored.append(timed(recording.record, live(), path))
        print(
            f"recording {median(stored):.1f} s, the same runs {median(runs):.1f} s:"
            f" {median(stored) / median(runs):.2f} times, {path.stat().st_size:,} bytes"
        )
        port = live()
        losses = None if port.losses is None else (None, port.losses[1])
        lacking: dict[str, Any] = {"inputs": (), "eval_inputs": None, "targets": ()}
        recorded = dataclasses.replace(port, reference=str(path), losses=losses, **lacking)
        check(live(), levels)  # compiles
        seconds = []
        for each in (live(), recorded):
            start = time.perf_counter()
            report = check(each, levels)
            seconds.append(time.perf_counter() - start)
            print(f"{report.name}: {'PASSED' if report.ok else 'FAILED'} {len(report.checks)}")
        print(f"checking live {seconds[0]:.1f} s, the trace {seconds[1]:.1f} s")


if __name__ == "__main__":
    main()
