"""Images per second of both sides, training and forward, in each precision, as one table.

    python docs/results/fps.py --model enet-camvid --size 360x480 --batch 10 --json fps.json

A step of training is forward, backward and update; a forward pass is that of a validation, with the
loss and the largest logit. Both take a batch from the memory of the host and return numbers to it,
so they wait for the device. Half precision is at level O1.
"""

from __future__ import annotations

import argparse
import functools
import json
import statistics
from pathlib import Path

from rich.table import Table

from parity.bench.training import RATE, SIDES, batch_of, trainer
from parity.bench.turns import in_turn
from parity.cli.arguments import parse_size
from parity.report.console import standard_output
from parity.spec.training.recipe import PRECISIONS
from parity.training.environment import devices, versions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="enet-camvid")
    parser.add_argument("--size", default="360x480", metavar="HxW")
    parser.add_argument("--batch", type=int, default=10)
    parser.add_argument("--runs", type=int, default=20, help="timed, of each")
    parser.add_argument("--precisions", default="fp32,bf16,fp16", help=", ".join(PRECISIONS))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    batch = batch_of(args.model, parse_size(args.size), args.batch)
    rows = []
    for precision in args.precisions.split(","):
        made = {side: trainer(side, args.model, precision=precision) for side in SIDES}
        for what, call in (
            ("forward", {s: functools.partial(t.evaluate, batch) for s, t in made.items()}),
            ("training", {s: functools.partial(t.step, batch, RATE) for s, t in made.items()}),
        ):
            seconds = in_turn(call, args.runs)
            medians = {side: statistics.median(times) for side, times in seconds.items()}
            rows.append((precision, what, {s: args.batch / m for s, m in medians.items()}))
    table = Table(title=f"{args.model}, batches of {args.batch} at {args.size}: images per second")
    for name in ("precision", "", *SIDES):
        table.add_column(name, justify="right" if name in SIDES else "left")
    for precision, what, speeds in rows:
        table.add_row(precision, what, *(f"{speeds[side]:,.1f}" for side in SIDES))
    standard_output().print(table)
    if args.json:
        facts = {"rows": rows, "versions": versions(), "model": args.model, "size": args.size}
        facts |= {"batch": args.batch, "devices": {side: devices(side) for side in SIDES}}
        args.json.write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    main()
