"""The ladder on GENet: one small network per way of gathering."""

from __future__ import annotations

import pytest

from parity.diagnosis.check import check
from parity.model_checks.networks import port
from parity.spec.models import MODELS
from parity.spec.networks.genet import GENetConfig

VARIANTS = {
    "global, means": GENetConfig(depth=10, width=1),
    # Several convolutions and norms a gate. Of one, and of means, JAX's gradients are held against
    # the published ones by test_golden.py.
    "extent 4, parameters, MLP": GENetConfig(
        depth=10, width=1, extent=4, extra_params=True, mlp=True
    ),
}
OTHERS = {
    "global, parameters, MLP": GENetConfig(depth=10, width=1, extra_params=True, mlp=True),
    "extent 2, parameters": GENetConfig(depth=10, width=1, extent=2, extra_params=True),
}


@pytest.mark.parametrize(
    "name", [*VARIANTS, *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)]
)
def test_variants(name: str) -> None:
    """Catches a gate that gathers, or a batch norm of one pixel a channel, done otherwise."""
    config = (VARIANTS | OTHERS)[name]
    check(port(name, config, (32, 32), batch=4)).assert_faithful()


@pytest.mark.long
@pytest.mark.parametrize("model", [name for name in MODELS if name.startswith("genet")])
def test_published(model: str) -> None:
    """Catches a difference at the published width and batch."""
    check(port(model, MODELS[model], (32, 32), batch=128)).assert_faithful()
