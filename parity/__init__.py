"""Carries neural networks between PyTorch and JAX, and proves that nothing was lost.

    from parity import Port, check

    report = check(Port(reference=torch_module, port=nnx_module, inputs=(2, 224, 224, 3)))
    report.assert_faithful()

Nothing is loaded before it is used: neither framework by `import parity`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from parity.diagnosis.check import check
    from parity.ladder.port import Port
    from parity.model_checks.check import check_model
    from parity.report.report import Check, Report

# Public name -> where it is.
_PLACES = {
    "Check": "parity.report.report",
    "Port": "parity.ladder.port",
    "Report": "parity.report.report",
    "check": "parity.diagnosis.check",
    "check_model": "parity.model_checks.check",
}

__all__ = ["Check", "Port", "Report", "check", "check_model"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
