"""Run by MindSpore's own Python: what MindSpore reads in our files, and files that it writes.

mindspore_side.py read FILE.ckpt FACTS.json
mindspore_side.py write ARRAYS.npz FILE.ckpt
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


if __name__ == "__main__":
    {"read": read, "write": write}[sys.argv[1]](*sys.argv[2:])
