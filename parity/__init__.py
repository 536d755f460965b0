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
    from parity.ladder import check
    from parity.port import Port
    from parity.report import Check, Report

# Public name -> where it is.
_PLACES = {
    "Check": "parity.report",
    "Port": "parity.port",
    "Report": "parity.report",
    "check": "parity.ladder",
}

__all__ = ["Check", "Port", "Report", "check"]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'parity' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
