"""Compare a port with its reference, and prove the cause of the first fault."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from parity.diagnosis import causes
from parity.diagnosis.partings import parting, port_line
from parity.diagnosis.remedies import remedy
from parity.ladder.bounds import Bounds
from parity.ladder.climb import Ladder, climb
from parity.ladder.port import Port
from parity.report.report import RUNGS, Report
from parity.report.source import NO_LINE
from parity.spec.errors import one_line


def check(
    port: Port,
    levels: Sequence[str] = tuple(RUNGS),
    precision: str = "float32",
    progress: Callable[[str], None] = lambda _: None,
    layers: str | Sequence[str] = (),
    sample: float | None = None,
    sample_seed: int = 0,
) -> Report:
    """Run the rungs of the ladder, and explain the first fault, if there is one.

    Args:
        port: The port to compare with its reference.
        levels: Which rungs, of `L0` to `L5`.
        precision: The working precision: `float32`, `bfloat16` or `float16`.
        progress: Called with the name of a rung when it begins.
        layers: Patterns of dotted names of either side, such as `encoder.*`: only these layers, and
            all inside them, are compared one by one, and only their tensors on L2 to L5. All if
            there is none. Weights, outputs, losses and the inputs' gradients are always compared.
        sample: How many of the layers that are alike but for their values are compared, such as 1,
            or which share of them, such as 0.25; at least one of each kind. All if None.
        sample_seed: Decides which ones.

    Returns:
        Everything that was compared; `report.ok` is the verdict, and `report.bounds` says what
        `layers` and `sample` left out.

    Raises:
        ValueError: An unknown rung or precision, or no rung.
        InputError: The port cannot be compared: see `Port` for what it must be. Or a pattern fits
            no layer, or `sample` is neither a number of layers nor a share.
        ForwardError: A network raised while it ran; see `parity.ladder.climb.climb`.
    """
    bounds = Bounds.of(layers, sample, sample_seed)
    return climb(port, levels, precision, progress, explain, bounds)


def explain(ladder: Ladder, report: Report) -> None:
    """Put into the report what the experiments on the first fault proved, and where it begins.

    They run networks in ways in which nobody did before: what one of them raises may not cost the
    report, but is said in it.
    """
    prove(ladder, report)
    try:
        if (fault := report.fault()) is not None:
            report.parting = parting(ladder.runs, fault)
            line = report.parting.port_line if report.parting is not None else NO_LINE
            report.port_line = line or port_line(ladder.runs, fault)
    except Exception as error:  # of any network
        report.notes.append(f"its line was not looked for: {_said(error)}")


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"


def prove(ladder: Ladder, report: Report) -> None:
    """Put into the report what the experiments on the first fault proved, as `explain` does.

    Where it begins is not looked for: for that the whole port is compiled once more.
    """
    try:
        found = causes.explained(ladder, report)
    except Exception as error:  # of any network
        report.notes.append(f"its cause was not looked for: {_said(error)}")
        return
    report.causes = list(found.proofs)
    if found.proofs and (known := remedy(found.proofs[0].fault)) is not None:
        report.fix = known.fix
    if untried := getattr(found.proofs, "untried", 0):
        report.notes.append(f"causes: {untried} changes of the reference were not tried (time)")
    report.operations = found.shown()
