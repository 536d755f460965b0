"""Time every network on both sides, and write the page of results.

    python -m tests.benchmarks.speed_page docs/results/speed.md --runs 5

It takes half an hour on two idle cores. First calls and memory are those of `parity bench
--first-call`; --compile also times `torch.compile` and takes many minutes more.
The table stands between two marks; what stands around them stays.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from parity.bench.alone import Call, First
from parity.io.files import write_atomically

BEGIN, END = "<!-- made by tests.benchmarks.speed_page -->", "<!-- end -->"
FORWARD = ("enet", "erfnet", "icnet", "genet", "enet-mindspore")
TRAINED = ("enet", "erfnet", "icnet", "genet")
IMAGES = "256x512"  # of a step of training, two of them; GENet's are 32 of 32x32
NAMES = {"torch": "PyTorch", "torch.compile": "torch.compile", "jax": "JAX"}
PACKAGES = ("python", "torch", "jax", "jaxlib", "onnxruntime")

Speeds = dict[str, Any]


def bench(arguments: list[str]) -> Speeds:
    """Run `parity bench` in a process of its own, with nothing compiled before."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "times.json"
        command = [sys.executable, "-m", "parity", "bench", *arguments, "--json", str(file)]
        print(" ".join(["parity", "bench", *arguments]), flush=True)
        cold = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
        subprocess.run(command, env=cold, check=True, stdout=subprocess.DEVNULL)
        found: Speeds = json.loads(file.read_text())
    return found


def step(model: str) -> list[str]:
    images = [] if model == "genet" else ["--size", IMAGES, "--batch", "2"]
    return ["--model", model, "--train", *images]


def forward_row(model: str, found: Speeds) -> list[str]:
    """One row: medians in ms, and the ratios."""
    median = found["median"]
    times = [median[name] for name in ("plain", "torch", "jax", "torch.onnx", "jax.onnx")]
    ratios = [median["jax"] / median["torch"], median["torch"] / median["torch.onnx"]]
    return [model, *milliseconds(times), *shares(ratios), *compiled(median)]


def step_row(model: str, found: Speeds) -> list[str]:
    median = found["median"]
    times = milliseconds([median["torch"], median["jax"]])
    return [model, *times, *shares([median["jax"] / median["torch"]]), *compiled(median)]


def compiled(median: dict[str, float]) -> list[str]:
    """The time of PyTorch's compiled network, if it was measured."""
    return milliseconds([median["torch.compile"]]) if "torch.compile" in median else []


def first_rows(model: str, mode: str, found: Speeds) -> list[list[str]]:
    """Rows of first calls: seconds and MiB, cold and warm."""
    rows = []
    for name, calls in found["first_calls_in_own_process"].items():
        cold, warm = (call and Call(**call) for call in (calls["cold"], calls["warm"]))
        rows.append([model, mode, NAMES[name], *First(cold, warm).cells()])
    return rows


def milliseconds(seconds: list[float]) -> list[str]:
    return [f"{1e3 * value:.0f}" for value in seconds]


def shares(ratios: list[float]) -> list[str]:
    return [f"{ratio:.2f}" for ratio in ratios]


def table(columns: list[str], rows: list[list[str]], words: int = 1) -> str:
    """Return a table in Markdown, whose first columns hold words and the others numbers."""
    marks = "---|" * words + "--:|" * (len(columns) - words)
    head = f"| {' | '.join(columns)} |\n|{marks}\n"
    return head + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def page(forward: dict[str, Speeds], trained: dict[str, Speeds]) -> str:
    """Return the tables in Markdown, and what they were measured with."""
    one = next(iter((forward | trained).values()))
    used = ", ".join(f"{name} {one['versions'][name]}" for name in PACKAGES)
    machine = one["hardware"]
    more = ["torch.compile"] * ("torch.compile" in one["median"])
    columns = ["", "plain PyTorch", "PyTorch", "JAX", "PyTorch's export", "JAX's export"]
    columns += ["JAX / PyTorch", "PyTorch / its export", *more]
    passes = table(columns, [forward_row(*pair) for pair in forward.items()])
    columns = ["", "PyTorch", "JAX", "JAX / PyTorch", *more]
    steps = table(columns, [step_row(*pair) for pair in trained.items()])
    rows = [row for model, found in forward.items() for row in first_rows(model, "forward", found)]
    rows += [row for model, found in trained.items() for row in first_rows(model, "step", found)]
    columns = ["", "", "", "cold, s", "warm, s", "cold, MiB more", "warm, MiB more"]
    calls = table(columns, rows, words=3)
    return (
        f"{machine['cores']} cores of {machine['processor']}; {used}.\n\n"
        f"Forward pass, median ms:\n\n{passes}\nStep of training, median ms:\n\n{steps}\n"
        "First call in a process of its own, with nothing compiled before (cold), and with what"
        f" that one has left compiled on disk (warm):\n\n{calls}"
    )


def placed(text: str, made: str, begin: str = BEGIN) -> str:
    """Put the tables between the marks of a page."""
    before, _, rest = text.partition(begin)
    if END not in rest:
        raise SystemExit(f"error: the page has no marks {begin} and {END}")
    return f"{before}{begin}\n\n{made}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("--runs", default="11")
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    args = parser.parse_args()
    placed(args.page.read_text(), "")  # or refused before anything is measured
    runs = ["--runs", args.runs, "--first-call", *["--compile"] * args.compile]
    forward = {model: bench(["--model", model, "--onnx", *runs]) for model in FORWARD}
    trained = {model: bench([*step(model), *runs]) for model in TRAINED}
    made = placed(args.page.read_text(), page(forward, trained))
    write_atomically(args.page, made.encode())


if __name__ == "__main__":
    main()
