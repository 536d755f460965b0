"""An environment with MindSpore: it needs NumPy 1, so it cannot be installed beside JAX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from parity.io import compilation_cache
from tests.made_once import made_once

VERSION = "2.10.0"


def mindspore_python() -> Path:
    """Return its Python; it is made once, 400 MB, where what can be made again is kept."""
    place = compilation_cache.of_user().with_name(f"mindspore-{VERSION}")

    def make() -> None:
        subprocess.run([sys.executable, "-m", "venv", place], check=True)
        wanted = [f"mindspore=={VERSION}", "numpy<2"]
        subprocess.run([place / "bin" / "pip", "install", "--quiet", *wanted], check=True)

    return made_once(place, make) / "bin" / "python"
