"""`parity convert --rules`: converting checkpoints of any network by rules."""

from __future__ import annotations

import argparse
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from parity.spec.errors import InputError, listed, printable

if TYPE_CHECKING:
    from parity.ladder.port import Port
    from weights_convert.rules import Described
    from weights_convert.streaming.conversion import Conversion
    from weights_convert.streaming.plan import Planner

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}

# Options that only conversions by rules take, and those that they do not take.
OWN = ("reverse", "forward", "shard_size", "workers", "dry_run")
OTHERS = (
    *("model", "key", "prefix", "naming_scheme", "to"),
    *("dtype", "weights_only", "labels", "preprocessing"),
)
CALLED = {"naming_scheme": "from"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("conversions of any network, by rules")
    group.add_argument(
        "--rules",
        metavar="RULES|FILE.py:FUNCTION",
        help="a table of rules (TOML), or a function that makes a parity.Port, whose weights are"
        " rules",
    )
    way = group.add_mutually_exclusive_group()
    way.add_argument("--reverse", action="store_true", help="IN has the port's names")
    way.add_argument(
        "--forward",
        action="store_true",
        help="IN has the reference's names (default: detected from the names)",
    )
    group.add_argument(
        "--shard-size",
        metavar="SIZE",
        help="write a folder of safetensors shards with an index, of at most this size each, such"
        " as 5GB",
    )
    group.add_argument(
        "--workers", type=int, metavar="N", help="how many shards are written at once (default: 2)"
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="print what each tensor of OUT would be made of, and write nothing",
    )


def refuse(args: argparse.Namespace) -> None:
    """Refuse options of conversions by rules in one without.

    Raises:
        InputError: Names one.
    """
    for name in OWN:
        if _is_given(args, name):
            raise InputError(f"--{name.replace('_', '-')} is only for --rules")


def _is_given(args: argparse.Namespace, name: str) -> bool:
    """Return whether an option was given, be it as an empty text or 0."""
    value = getattr(args, name)
    return value is not None and value is not False


def run(args: argparse.Namespace) -> int:
    from parity.report.console import working
    from parity.report.lines import say
    from weights_convert.streaming.conversion import WORKERS, convert

    for name in OTHERS:
        if _is_given(args, name):
            option = CALLED.get(name, name).replace("_", "-")
            raise InputError(f"--{option} is for networks of this suite, not for --rules")
    size = None if args.shard_size is None else parse_bytes(args.shard_size)
    with working() as progress:
        progress("reading the rules")
        done = convert(
            args.source,
            args.target,
            planner_of(args),
            shard_size=size,
            workers=WORKERS if args.workers is None else args.workers,
            dry_run=args.dry_run,
            progress=progress,
        )
    say("\n".join(map(printable, lines(done))))
    return 0


def planner_of(args: argparse.Namespace) -> Planner:
    """Return what plans the conversion that `--rules` asks for.

    Raises:
        InputError: There are no such rules.
    """
    from parity.ladder.factory import is_factory
    from weights_convert import rules
    from weights_convert.streaming.by_rules import planner

    reverse = True if args.reverse else False if args.forward else None
    if not is_factory(args.rules):
        return planner(rules.load(args.rules), reverse)

    from parity.capture.jax_models import wrap
    from parity.ladder.factory import make_port
    from parity.ladder.ruled import table_of

    port = make_port(args.rules)
    weights = port.weights
    found = (rules.Rules.of(weights), True) if isinstance(weights, Mapping) else table_of(weights)
    if found is None:
        raise InputError(f"{args.rules}: its weights are no rules, so they cannot be applied")
    reference, tied = _reference(port)
    state = wrap(port.port, port.params).state()
    return planner(found[0], reverse, reference, state, tied, found[1])


def _reference(port: Port) -> tuple[Mapping[str, Described], list[frozenset[str]]]:
    """Return the tensors of a port's reference, and the names of those that are one.

    Raises:
        InputError: It is a trace that holds none.
    """
    from parity.ladder.recorded import is_recorded
    from weights_convert.rules import ArraySpec

    if is_recorded(port):
        from parity.trace.reading import TraceFile

        trace = TraceFile(port.reference)
        arrays, stored = trace.index["arrays"], trace.index["state"]
        if not stored:
            raise InputError(f"{trace.path} holds no state, so rules cannot be proved by it")
        specs = {
            name: ArraySpec(tuple(arrays[a]["shape"]), arrays[a]["dtype"])
            for name, a in stored.items()
        }
        return specs, [frozenset(names) for names in trace.index["aliases"].values()]
    reference = port.reference.state_dict()
    memory = defaultdict(set)
    for name, tensor in reference.items():
        memory[tensor.data_ptr(), tensor.shape, tensor.stride()].add(name)
    return reference, [frozenset(names) for names in memory.values()]


def parse_bytes(text: str) -> int:
    """Parse `5GB` to 5,000,000,000; `GiB` are of 1,024 MiB.

    Raises:
        InputError: Anything else.
    """
    match = re.fullmatch(r"(\d{1,15})\s*([A-Za-z]*)", text, re.ASCII)
    if not match or match[2].upper() not in UNITS or not int(match[1]):
        raise InputError(f"size {text!r}, expected such as 5GB, 500MB or 2GiB")
    return int(match[1]) * UNITS[match[2].upper()]


def lines(done: Conversion) -> Iterator[str]:
    """Yield the lines that say what was read and written, or would be."""
    plan, source = done.plan, done.source
    ways = ("the reference's names to the port's", "the port's names to the reference's")
    if done.manifest is None:
        yield from plan.lines()
    yield f"read      {source.path}: {source.format}, {len(source.tensors)} tensors"
    yield f"rules     from {ways[plan.reverse]}"
    if plan.unused:
        yield f"not carried: {len(plan.unused)} tensors, {listed(plan.unused)}"
    if source.skipped:
        yield f"not carried: {listed(source.skipped)}"
    shards = f" in {done.files} shards" if done.format == "shards" else ""
    verb = "would write" if done.manifest is None else "wrote    "
    kind = "safetensors" if shards else done.format
    yield f"{verb} {done.path}: {kind}{shards}, {len(plan.made)} tensors, {plan.nbytes:,} bytes"
    if done.manifest is not None:
        yield "verified  read back and compared: bitwise equal"
