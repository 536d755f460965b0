"""Run by MindSpore's own Python: what MindSpore reads in our files, and files that it writes.

mindspore_side.py read FILE.ckpt FACTS.json
mindspore_side.py write ARRAYS.npz FILE.ckpt
mindspore_side.py train ARRAYS.npz START.ckpt FIRST LAST FILE.ckpt
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import mindspore
import numpy as np


def read(source: str, target: str) -> None:
    """Name -> dtype, shape and the hash of the bytes."""
    facts = {}
    for name, parameter in mindspore.load_checkpoint(source).items():
        array = parameter.asnumpy()
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        facts[name] = [str(array.dtype), list(array.shape), digest]
    Path(target).write_text(json.dumps(facts))


def write(source: str, target: str) -> None:
    """NumPy has no bfloat16: what is named so is cast."""
    parameters = []
    for name, array in np.load(source).items():
        tensor = mindspore.Tensor(array)
        if name.endswith("bfloat16"):
            tensor = tensor.astype(mindspore.bfloat16)
        parameters.append({"name": name, "data": tensor})
    mindspore.save_checkpoint(parameters, target)


class Trained(mindspore.nn.Cell):
    """Parameters and their Adam, of an own learning rate for each of thirty steps."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        super().__init__(auto_prefix=False)  # as MindSpore's `TrainOneStepCell`
        still = ("moving_mean", "moving_variance")
        parameters = [
            mindspore.Parameter(mindspore.Tensor(a), name=n, requires_grad=not n.endswith(still))
            for n, a in arrays.items()
        ]
        self.network = mindspore.ParameterTuple(parameters)
        trained = [p for p in parameters if p.requires_grad]
        rates = [5e-4 * (1 - step / 30) ** 0.9 for step in range(30)]
        self.optimizer = mindspore.nn.Adam(trained, rates, weight_decay=1e-4)

    def step(self, number: int) -> None:
        """An update by gradients that are drawn, all new at every step."""
        rng = np.random.default_rng(number)
        shapes = [p.shape for p in self.optimizer.parameters]
        gradients = (rng.standard_normal(shape, np.float32) for shape in shapes)
        self.optimizer(tuple(map(mindspore.Tensor, gradients)))


def train(source: str, start: str, first: str, last: str, target: str) -> None:
    """Steps `first` to `last`, from a checkpoint; where it is called `new`, from the beginning."""
    cell = Trained(dict(np.load(source).items()))
    if start != "new":
        missing, unread = mindspore.load_param_into_net(cell, mindspore.load_checkpoint(start))
        assert missing == ["learning_rate"], missing
        assert not unread, unread
    for number in range(int(first), int(last) + 1):
        cell.step(number)
    mindspore.save_checkpoint(cell, target)


if __name__ == "__main__":
    {"read": read, "write": write, "train": train}[sys.argv[1]](*sys.argv[2:])
