"""Describe a checkpoint or an ONNX file: format, names, network, tensors, hash, manifest.

The format is detected from the content. A file that is not a whole checkpoint of our networks is
described, too, with the reason. For an ONNX file: operators, inputs, outputs, weights; for JAX's
NAME.stablehlo: inputs, outputs, platforms; nothing is run.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from parity.cli.arguments import add_choice, choice_of
from parity.export import inspection as networks
from parity.export import stablehlo
from parity.io.files import check_writable, write_atomically
from parity.report.console import working
from parity.report.lines import say
from parity.spec.errors import InputError, listed, printable
from parity.spec.models import CLASSIFIERS, LANGUAGE
from parity.spec.preprocessing import Preprocessing
from weights_convert import Manifest
from weights_convert.formats import sidecar
from weights_convert.inspection import Inspection, inspect
from weights_convert.notes import assumptions, coverage, unsaid


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="the checkpoint or ONNX file")
    parser.add_argument("--model", help="which network (default: the one whose names the file has)")
    add_choice(parser)
    parser.add_argument("--tensors", action="store_true", help="list every tensor")
    parser.add_argument("--json", metavar="FILE", help="write all of it to this file")


def run(args: argparse.Namespace) -> int:
    import json

    if args.json is not None:
        check_writable(args.json)
        _check_other(Path(args.json), Path(args.file))
    with working() as progress:
        progress(f"reading {args.file}")
        found, lines = opened(args)
    if args.json is not None:
        write_atomically(args.json, json.dumps(found.to_dict(), indent=1).encode())
    say("\n".join(f"{name:<10}{printable(text)}" for name, text in lines))
    if args.tensors and not isinstance(found, stablehlo.Program):
        print()
        wide = max(map(len, found.tensors), default=0)
        for name, (dtype, shape) in found.tensors.items():
            print(printable(f"{name:<{wide}}  {dtype:<8}  {_sides(shape) or 'scalar'}"))
    return 0


def opened(args: argparse.Namespace) -> tuple[Any, list[tuple[str, str]]]:
    """Return what a file holds, and the lines that say it.

    Raises:
        InputError: It cannot be read, or an option is not for its kind.
    """
    if stablehlo.is_program(Path(args.file)):
        check_unasked(args, "a program of JAX's")
        if args.tensors:
            raise InputError(f"--tensors: {args.file} holds its weights as constants of a program")
        program = stablehlo.open_program(args.file)
        return program, program_facts(program)
    if networks.is_onnx(Path(args.file)):
        check_unasked(args, "an ONNX file")
        network = networks.inspect(args.file)
        return network, network_facts(network)
    found = inspect(args.file, args.model, choice_of(args))
    return found, facts(found)


def check_unasked(args: argparse.Namespace, what: str) -> None:
    """Refuse options that are for checkpoints.

    Raises:
        InputError: One is given.
    """
    for name in ("model", "key", "prefix"):
        if getattr(args, name) is not None:
            raise InputError(f"--{name} is for checkpoints; {args.file} is {what}")


def _check_other(target: Path, checkpoint: Path) -> None:
    """Refuse to write over what is looked at.

    Raises:
        InputError: It is the checkpoint, its manifest, or in it.
    """
    there, here = Path(os.path.realpath(target)), Path(os.path.realpath(checkpoint))
    own = (here, Path(os.path.realpath(sidecar.place(checkpoint))), sidecar.beside(here))
    if there in own or here in there.parents:
        raise InputError(f"{target}: belongs to {checkpoint}, not replaced")


def facts(found: Inspection) -> list[tuple[str, str]]:
    """Return the facts shown for a checkpoint, as (title, text) lines."""
    held, numbers = found.checkpoint, sum(_size(shape) for _, shape in found.tensors.values())
    after = f", each after {found.prefix!r}" if found.prefix else ""
    where = f", under the key {found.key!r}" if found.key else ""
    dtypes = ", ".join(f"{n} {dtype}" for dtype, n in found.dtypes.items())
    lines = [
        ("file", f"{found.path}, {found.bytes:,} bytes"),
        ("sha256", found.sha256),
        ("format", f"{found.format}{where}"),
        ("names", f"{found.naming_scheme}{after}"),
    ]
    if held:
        variant = ", ".join(f"{name} {value}" for name, value in held.config.describe().items())
        lines.append(("network", f"{held.network}: {variant}"))
        lines += _outputs(held.network, held.labels)
    else:
        lines.append(("network", f"unknown: {found.reason}"))
    lines.append(("tensors", f"{len(found.tensors)}: {dtypes}"))
    trained = "" if found.parameters is None else f", of which {found.parameters:,} are parameters"
    lines.append(("numbers", f"{numbers:,}{trained}"))
    lines += held.notes if held else []
    if held and held.optimizer:
        state = held.optimizer
        covered = coverage(held.config, len(state.absent(held.config)))
        step = "" if state.step is None else f", step {state.step}"
        lines.append(("optimizer", f"{state.kind}{step}{covered}"))
    if held and held.manifest:
        lines.append(("manifest", f"verified, of version {held.manifest.tool_version}"))
        if held.network not in LANGUAGE:
            lines += [("images", text) for text in _images(held.manifest.preprocessing)]
    else:
        lines.append(("manifest", "none: unverified"))
    if skipped := unsaid(found.skipped, held):
        lines.append(("beside", listed(skipped)))
    lines += [("metadata", f"{name}: {_short(text)}") for name, text in found.metadata.items()]
    return lines


def network_facts(found: networks.Inspection) -> list[tuple[str, str]]:
    """Return the facts shown for an ONNX file, as (title, text) lines."""
    opsets = ", ".join(f"{name or 'ONNX'} {version}" for name, version in found.opsets.items())
    dtypes = ", ".join(f"{n} {dtype}" for dtype, n in found.dtypes.items())
    lines = [
        ("file", f"{found.path}, {found.bytes:,} bytes"),
        ("sha256", found.sha256),
        ("format", f"onnx, version {found.version}, operators {opsets or 'of no version'}"),
        ("made by", found.producer or "nobody says"),
        ("graph", f"{found.nodes:,} nodes"),
    ]
    for title, values in (("input", found.inputs), ("output", found.outputs)):
        lines += [(title, f"{n}: {_sides(s) or 'scalar'} {d}") for n, (d, s) in values.items()]
    lines.append(("tensors", f"{len(found.tensors)}: {dtypes or 'none'}"))
    lines.append(("numbers", f"{found.numbers:,}"))
    lines += _said(found.manifest)
    lines += [("metadata", f"{name}: {_short(text)}") for name, text in found.metadata.items()]
    return lines


def program_facts(found: stablehlo.Program) -> list[tuple[str, str]]:
    """Return the facts shown for a StableHLO program, as (title, text) lines."""
    lines = [
        ("file", f"{found.path}, {found.bytes:,} bytes"),
        ("sha256", found.sha256),
        ("format", f"stablehlo, by jax.export, calling convention {found.version}"),
        ("runs on", ", ".join(found.platforms)),
    ]
    for title, values in (("input", found.inputs), ("output", found.outputs)):
        lines += [(title, f"{_sides(shape) or 'scalar'} {dtype}") for dtype, shape in values]
    return lines + _said(found.manifest)


def _said(said: Manifest | None) -> list[tuple[str, str]]:
    """Return the facts in an exported file's manifest, as (title, text) lines."""
    lines = []
    if said is not None:
        variant = ", ".join(f"{name} {value}" for name, value in said.config.items())
        lines.append(("network", f"{said.network}: {variant}"))
        lines += _outputs(said.network, said.labels)
        lines.append(("source", f"a checkpoint of SHA-256 {said.source_sha256}"))
        lines.append(("manifest", f"its seal is whole, of version {said.tool_version}"))
        lines += [("images", text) for text in _images(said.preprocessing)]
        lines += assumptions(said)
    else:
        lines.append(("manifest", "none: unverified"))
    return lines


def _outputs(network: str, labels: str | None) -> list[tuple[str, str]]:
    """Return a line on which output is void; none for networks that classify whole images."""
    if network in CLASSIFIERS:
        return []
    return [("outputs", f"void is {labels}" if labels else "void unknown")]


def _sides(shape: tuple[int | str, ...]) -> str:
    return "x".join(map(str, shape))


def _images(said: Preprocessing) -> list[str]:
    """Return lines on the preprocessing that the network expects."""
    size = "of any size" if said.size is None else f"{said.size[0]}x{said.size[1]}"
    lines = [f"{said.channels}, {size}, mean {list(said.mean)}, std {list(said.std)}"]
    if said.classes:
        lines.append(", ".join(said.classes))
    return lines


def _size(shape: tuple[int, ...]) -> int:
    import math

    return math.prod(shape)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 80 else f"{line[:77]}..."
