"""The texts on every fault of the catalogue."""

from __future__ import annotations

import importlib.resources
import tomllib

from parity.diagnosis.catalogue import PROVED_AS, Fault
from parity.diagnosis.remedies import remedies, remedy


def test_every_fault_has_a_remedy_and_every_remedy_a_fault() -> None:
    """Catches a fault of the catalogue without an explanation, and one that is left over."""
    file = importlib.resources.files("parity.diagnosis") / "remedies.toml"
    assert set(tomllib.loads(file.read_text())) == set(Fault) == set(remedies())
    for fault, texts in remedies().items():
        for text in (texts.symptom, texts.why, texts.fix):
            assert text.endswith((".", ")")), (fault, text)
        assert texts.size, fault


def test_a_proof_of_another_name_has_the_remedy_of_its_fault() -> None:
    """Catches a fix for a fault that was not proved: a change that may be several has none."""
    assert remedy("gelu-approximation") == remedies()[Fault.GELU_TANH]
    shared = [n for names in PROVED_AS.values() for n in names]
    several = next(name for name in shared if shared.count(name) > 1)
    assert remedy(several) is None
    assert remedy("no such change") is None
