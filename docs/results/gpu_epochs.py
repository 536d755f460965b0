"""How many epochs of both sides fit into the time that is left, by a short study: for `gpu.sh`.

python docs/results/gpu_epochs.py STUDY.json SECONDS_THAT_IT_TOOK SECONDS_LEFT SEEDS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

VALIDATE_EVERY = 10  # epochs, as gpu.sh asks for
MOST = 300  # epochs of the published run
SURE = 0.9  # of the time that is left is planned


def epochs(study: dict[str, Any], took: float, left: float, seeds: int) -> int:
    """Return the number of epochs, at least 1.

    Args:
        study: The `study.json` of a study of one seed.
        took: Seconds that it took, starting and compiling included.
        left: Seconds that are left.
        seeds: Number of seeds to train, each on both sides.
    """
    runs = [run for run in study["rows"][0]["runs"] if run["status"] == "finished"]
    if not runs:
        return 1
    train, val = study["images"]
    # All runs together: one epoch, one validation; what these two epochs took beside that.
    epoch = sum(train / run["speed"]["images_per_second"] for run in runs)
    validation = sum(val / run["speed"]["validation"] for run in runs)
    begin = max(0.0, took - study["epochs"] * epoch - validation)
    planned = SURE * left - seeds * (begin + validation)
    found = int(planned / (seeds * (epoch + validation / VALIDATE_EVERY)))
    return max(1, min(MOST, found))


if __name__ == "__main__":
    path, took, left, seeds = sys.argv[1:]
    print(epochs(json.loads(Path(path).read_text()), float(took), float(left), int(seeds)))
