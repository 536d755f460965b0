"""This project's export of JAX networks beside that of jax2onnx.

    pip install jax2onnx==0.17.1     # in an environment of its own: it wants an older orbax
    python -m tests.benchmarks.jax2onnx_export
    pytest -n 0 -p tests.benchmarks.jax2onnx_export tests/unit/export/test_onnx.py

The second runs tests of the export with jax2onnx in the place of `parity.export.from_jax`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from rich.table import Table

import jax_impl.state
from parity.export import build, from_jax
from parity.export.tuning import tuned
from parity.report.console import standard_output, working
from parity.spec.draw import weights
from parity.spec.models import MODELS, Config
from weights_convert import to_jax

NETWORKS = ("enet", "erfnet", "icnet", "genet", "enet-mindspore")
BATCH = 2
SIZES = {"genet": (32, 32)}  # the others: SIZE
SIZE = (128, 256)

Exporter = Callable[[Callable[[Any], Any], tuple[int, int], Sequence[str], int | None], Any]


class Row(NamedTuple):
    """One network's file.

    Attributes:
        nodes: How many operators it has.
        transposes: How many of them are transpositions.
        difference: The largest difference of an output from the JAX network's, relative to the
            output's largest value.
        milliseconds: Median of a run in ONNX Runtime.
    """

    nodes: int
    transposes: int
    difference: float
    milliseconds: float


def by_jax2onnx(
    network: Callable[[Any], Any], size: tuple[int, int], names: Sequence[str], batch: int | None
) -> onnx.ModelProto:
    """Export as `parity.export.from_jax.graph_of` does, by jax2onnx."""
    import jax2onnx  # type: ignore[import-not-found] # in an environment of its own

    shapes = jax.eval_shape(network, jax.ShapeDtypeStruct((BATCH, *size, 3), jnp.float32))
    maps = [i for i, shape in enumerate(jax.tree.leaves(shapes)) if len(shape.shape) == 4]
    return jax2onnx.to_onnx(
        lambda images: network(images),
        [(batch or "B", *size, 3)],
        opset=21,
        inputs_as_nchw=[0],
        outputs_as_nchw=maps or None,
        input_names=["input"],
        output_names=list(names),
    )


EXPORTERS: dict[str, Exporter] = {"parity": from_jax.graph_of, "jax2onnx": by_jax2onnx}


def measured(export: Exporter, config: Config, shape: Sequence[int], runs: int) -> Row:
    """Export a network with drawn weights for any batch, and run it on two images."""
    size = shape[0], shape[1]
    network = build.predicting(jax_impl.state.build(config, to_jax(config, weights(config, 0))))
    images = np.random.default_rng(0).standard_normal((BATCH, *size, 3)).astype(np.float32)
    expected = [np.asarray(x) for x in jax.tree.leaves(network(jnp.asarray(images)))]
    model = tuned(export(network, size, build.outputs_of(config), None))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    fed = {"input": images.transpose(0, 3, 1, 2)}
    outputs = session.run(None, fed)
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        session.run(None, fed)
        seconds.append(time.perf_counter() - start)
    transposes = sum(node.op_type == "Transpose" for node in model.graph.node)
    difference = max(map(relative, outputs, expected))
    return Row(len(model.graph.node), transposes, difference, 1e3 * float(np.median(seconds)))


def relative(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference, channels first against last, by the largest value."""
    if expected.ndim == 4:
        expected = expected.transpose(0, 3, 1, 2)
    return float(np.abs(output - expected).max() / np.abs(expected).max())


@pytest.fixture(autouse=True)
def replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the exporter in every test, where pytest is told `-p` this module."""
    monkeypatch.setattr(from_jax, "graph_of", by_jax2onnx)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default=",".join(NETWORKS), help="names, with commas between")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    columns = "network", "exporter", "operators", "transposes", "difference", "ms"
    table = Table(*columns, title=f"{BATCH} images, float32, ONNX Runtime")
    with working() as show:
        for name in args.models.split(","):
            for exporter, export in EXPORTERS.items():
                show(f"{name} by {exporter}")
                try:
                    row = measured(export, MODELS[name], SIZES.get(name, SIZE), args.runs)
                except Exception as error:  # whatever another package raises is a result
                    table.add_row(name, exporter, "-", "-", "-", type(error).__name__)
                    continue
                cells = (
                    f"{row.nodes:,} {row.transposes} {row.difference:.0e} {row.milliseconds:.0f}"
                )
                table.add_row(name, exporter, *cells.split())
    standard_output().print(table)


if __name__ == "__main__":
    main()
