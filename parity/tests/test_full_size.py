"""Networks as they are used: 512x1024, ICNet 1024x2048, GENet in batches of 128. Minutes each.

`pytest parity/tests/test_full_size.py -m long -n 0`
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from parity.diagnosis.check import check
from parity.model_checks.networks import port
from parity.spec.models import MODELS

pytestmark = pytest.mark.long

# Model -> height, width and number of the images.
FULL = {
    "enet": (512, 1024, 1),
    "enet-mindspore": (512, 1024, 1),
    "erfnet": (512, 1024, 1),
    "icnet": (1024, 2048, 1),
    "genet": (32, 32, 128),
}
MEMORY = 6 * 2**20  # KiB that a forward pass of one image may need

# The peak of a process that runs the network once, in eval mode.
FORWARD = """
import resource, sys
import numpy as np
from parity.spec import draw
from parity.spec.models import MODELS
model, side, height, width = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
config = MODELS[model]
weights, image = draw.weights(config, 0), np.zeros((1, height, width, 3), np.float32)
if side == "torch":
    import torch
    import torch_impl.state
    network = torch_impl.state.build(config, weights).eval()
    with torch.inference_mode():
        network(torch.from_numpy(image).permute(0, 3, 1, 2))
else:
    import jax
    from flax import nnx
    import jax_impl.state
    from weights_convert import to_jax
    network = jax_impl.state.build(config, to_jax(config, weights))
    network.eval()
    graph, state = nnx.split(network)
    jax.block_until_ready(jax.jit(lambda s, x: nnx.merge(graph, s)(x))(state, image))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.parametrize("side", ["torch", "jax"])
@pytest.mark.parametrize("model", FULL)
def test_memory(model: str, side: str) -> None:
    """Catches a formulation that is fast because it copies the map many times."""
    height, width, _ = FULL[model]
    command = [sys.executable, "-c", FORWARD, model, side, str(height), str(width)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = int(done.stdout.split()[-1])
    print(f"{model} {side} {height}x{width}: {peak / 2**20:.2f} GiB")
    assert peak <= MEMORY


@pytest.mark.parametrize("model", FULL)
def test_ladder(model: str) -> None:
    """Catches a difference that only the sizes in use show."""
    height, width, batch = FULL[model]
    report = check(port(model, MODELS[model], (height, width), batch=batch))
    print(report)
    report.assert_faithful()
