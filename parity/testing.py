"""The ladder as pytest tests, for any port.

A test file of yours needs two lines:

    from parity.testing import ladder
    test_port = ladder(make_port)

where `make_port` takes nothing and returns a `parity.Port`. Each rung and layer becomes a test.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import pytest

from parity.report.quantity import Kind
from parity.report.report import Check, Omission

if TYPE_CHECKING:
    from parity.ladder.port import Port

Found = dict[tuple[str, str], list[Check | Omission]]  # by rung and layer of the reference

REST = "(network)"  # the test of a rung that takes what belongs to no layer of the reference


def ladder(
    make_port: Callable[[], Port],
    levels: Sequence[str] = ("L0", "L1", "L2", "L3", "L4", "L5"),
    precision: str = "float32",
    layers: str | Sequence[str] = (),
    sample: float | None = None,
    sample_seed: int = 0,
) -> Callable[..., None]:
    """One test per rung and layer of the reference.

    The ladder is climbed once, by the first test that runs.

    Args:
        make_port: Called once to name the tests, and once to run them.
        levels: See `parity.check`. L4 and L5 have tests only where the port has optimizers.
        precision: See `parity.check`.
        layers: See `parity.check`; the tests of other layers are skipped.
        sample: See `parity.check`.
        sample_seed: Decides which ones.

    Returns:
        A parametrised test function: bind it to a name that starts with `test`.
    """

    @functools.cache
    def attempt() -> Found | Exception:
        """Run the ladder once, whether it succeeds or raises."""
        try:
            return climb()
        except Exception as error:
            return error

    def climbed() -> Found:
        if isinstance(found := attempt(), Exception):
            raise found
        return found

    def climb() -> Found:
        from parity.diagnosis.check import check

        port = make_port()
        known = set(cases(port, levels))
        found: Found = {}
        bounds = (layers, sample, sample_seed)
        report = check(port, levels, precision, lambda _: None, *bounds)
        every: list[Check | Omission] = [*report.checks, *report.left_out]
        for c in every:
            case = (c.rung, layer_of(c))
            found.setdefault(case if case in known else (c.rung, REST), []).append(c)
        return found

    @pytest.mark.parametrize(
        ("rung", "layer"),
        [pytest.param(*case, id="-".join(case)) for case in cases(make_port(), levels)],
    )
    def test(rung: str, layer: str) -> None:
        """Catches a difference between the port and its reference on this rung in this layer."""
        found = climbed()
        here = found.get((rung, layer), [])
        checks = [c for c in here if isinstance(c, Check)]
        left = [c for c in here if isinstance(c, Omission)]
        failed = [c.sentence() for c in checks if not c.ok]
        if failed := failed + [c.sentence() for c in left if c.counts]:
            pytest.fail("\n".join(failed), pytrace=False)
        if layer == REST:
            every = [c for each in found.values() for c in each if c.rung == rung]
            if every and all(isinstance(c, Omission) and c.option for c in every):
                pytest.skip("; ".join(c.sentence() for c in left or every[:1]))
            assert any(isinstance(c, Check) for c in every), f"{rung} compared nothing"
        elif not checks:
            why = f"{layer}: nothing of the port answers this layer on rung {rung}"
            pytest.skip("; ".join(c.sentence() for c in left) or why)

    return test


def cases(port: Port, levels: Sequence[str]) -> list[tuple[str, str]]:
    """Rung and layer of the reference, in the order of both; last on each rung `REST`."""
    there = [r for r in sorted(levels) if port.optimizers is not None or r not in ("L4", "L5")]
    there = [r for r in there if port.train or r <= "L2"]
    return [(rung, layer) for rung in there for layer in (*_layers(port, rung), REST)]


def _layers(port: Port, rung: str) -> Iterator[str]:
    for name, leaf, tensors, trained in _facts(port):
        wanted = {"L0": tensors, "L1": leaf, "L2": leaf, "L3": trained, "L4": trained}
        if name and wanted.get(rung, tensors):
            yield name


def _facts(port: Port) -> Iterator[tuple[str, bool, bool, bool]]:
    """Yield each layer of the reference: whether it is innermost, holds tensors, trained ones."""
    from parity.ladder.recorded import is_recorded, recorded_facts

    if is_recorded(port):
        yield from recorded_facts(port)
        return
    for name, module in port.reference.named_modules():
        leaf = not any(True for _ in module.children())
        tensors = any(True for _ in (*module.parameters(False), *module.buffers(False)))
        yield name, leaf, tensors, any(p.requires_grad for p in module.parameters(recurse=False))


def layer_of(check: Check | Omission) -> str:
    """Return the layer of the reference that a check, or what was left out, belongs to."""
    quantity = check.quantity  # of a tensor, an omission names that; a check its layer
    of_tensor = isinstance(check, Omission) and quantity.path and quantity.kind is not Kind.OUTPUT
    layer = check.reference
    if check.rung == "L0" or of_tensor:
        layer = layer.rpartition(".")[0]
    return layer.partition("#")[0]
