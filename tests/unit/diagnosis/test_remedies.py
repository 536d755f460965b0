"""The texts on every fault of the catalogue."""

from __future__ import annotations

import re
from pathlib import Path

import parity.diagnosis.experiments
from parity.diagnosis.catalogue import PROVED_AS, Fault
from parity.diagnosis.remedies import remedies, remedy


def of_experiments() -> set[str]:
    """Names of changes of the reference, as the experiments' modules write them."""
    folder = Path(parity.diagnosis.experiments.__file__).parent
    texts = [file.read_text() for file in folder.glob("*.py")]
    return {name for text in texts for name in re.findall(r'"([a-z]+-[a-z-]+)"', text)}


def test_every_fault_has_a_remedy_and_every_remedy_a_fault() -> None:
    """Catches a fault of the catalogue without an explanation, and one that is left over."""
    assert set(Fault) <= set(remedies())
    assert set(remedies()) - set(Fault) <= of_experiments()
    for fault, texts in remedies().items():
        for text in (texts.symptom, texts.why, texts.fix):
            assert text.endswith((".", ")")), (fault, text)
        assert texts.size, fault


def test_a_proof_of_another_name_has_the_remedy_of_its_fault() -> None:
    """Catches a fix for a fault that was not proved: a change that may be several has none."""
    assert remedy("gelu-approximation") == remedies()[Fault.GELU_TANH]
    shared = [n for names in PROVED_AS.values() for n in names]
    several = next(n for n in shared if shared.count(n) > 1 and n not in remedies())
    assert remedy(several) is None
    assert remedy("no such change") is None
