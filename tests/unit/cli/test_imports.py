"""What commands import: nothing that they do not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from parity.spec import augmentation, draw
from parity.spec.models import MODELS
from weights_convert import save

# Each takes from a tenth of a second to several seconds.
LARGE = {"torch", "jax", "flax", "optax", "orbax", "onnx", "onnxruntime", "grain", "scipy"}
SMALL = {"numpy", "PIL", "rich", "safetensors"}
CODE = """
import sys
from parity.cli import main
try:
    status = main(sys.argv[2:])
except SystemExit as error:
    status = error.code
loaded = set(sys.argv[1].split(",")) & set(sys.modules)
print(status or 0, *sorted(loaded))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("imports") / "genet.safetensors"
    config = MODELS["genet-mean8"]
    save(path, config, draw.weights(config, 0))
    return path


@pytest.mark.parametrize(
    ("argv", "used"),
    [
        (["--help"], set()),
        (["inspect", "FILE"], {"numpy", "safetensors"}),
        (["convert", "FILE", "made.npz"], {"numpy", "safetensors"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_commands_import_what_they_use(
    argv: list[str], used: set[str], checkpoint: Path, tmp_path: Path
) -> None:
    """Catches a command that becomes slow to start by a package it does nothing with."""
    given = [str(checkpoint) if word == "FILE" else word for word in argv]
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(LARGE | SMALL), *given],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    status, *loaded = done.stdout.splitlines()[-1].split()
    assert (status, set(loaded)) == ("0", used)


FRAMEWORKS = """
import contextlib, importlib.abc, json, sys
from parity.report import console
from parity.cli import main

class Loads(BaseException):
    pass

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "jax", "flax"):
            raise Loads

opened = []

def noted(show):
    @contextlib.contextmanager
    def shown(*given):
        opened.append(True)
        with show(*given) as progress:
            yield progress
    return shown

sys.meta_path.insert(0, Finder())
console.working, console.counting = noted(console.working), noted(console.counting)
for argv in json.loads(sys.argv[1]):
    opened.clear()
    try:
        said = f"ended: {main(argv)}"
    except Loads:
        said = "shown" if opened else "nothing shown"
    print(said, *argv, file=sys.stderr)
"""


def test_progress_is_shown_before_frameworks_are_loaded(checkpoint: Path, tmp_path: Path) -> None:
    """Catches a command whose first sign of life comes when PyTorch and JAX are loaded: seconds."""
    (tmp_path / "port.py").write_text("import torch\n")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "a.png")
    port, weights = "port.py:make_port", ["--weights", str(checkpoint)]
    lines = [
        *(["check", "enet"], ["check", port], ["check", "enet", "--devices", "1,2"]),
        *(["suggest", port], ["pairs", port], ["record", port, "a.trace"]),
        *(["faults", "--model", "enet"], ["faults", port], ["drift", "enet-camvid"]),
        *(["summary", "enet"], ["bench"], ["bench", "--train", "--devices", "1,2"]),
        ["export", "genet-mean8", "a.onnx", *weights],
        ["predict", "photos", *weights, "--out", "drawn"],
    ]
    code = [sys.executable, "-c", FRAMEWORKS, json.dumps(lines)]
    done = subprocess.run(code, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.splitlines() == [" ".join(["shown", *line]) for line in lines]


def test_pillows_numbers() -> None:
    """Catches images resized in another way than their name says."""
    assert augmentation.BILINEAR == Image.Resampling.BILINEAR
    assert augmentation.NEAREST == Image.Resampling.NEAREST
