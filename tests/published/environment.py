"""transformers, of a version whose requirements do not fit ours, in a folder of its own."""

from __future__ import annotations

import importlib
import subprocess
import sys
from types import ModuleType

from parity.io import compilation_cache
from tests.made_once import made_once
from tests.torchvision_import import torchvision

VERSION = "4.55.4"  # the last release with Flax classes

# What transformers needs to be imported, but for what the suite has anyway.
PACKAGES = (
    f"transformers=={VERSION}",
    "huggingface_hub>=0.34,<1",
    "tokenizers>=0.21,<0.22",
    "regex",
    "requests",
    "tqdm",
    "pyyaml",
    "filelock",
    "charset_normalizer",
    "idna",
    "urllib3",
    "certifi",
)


def transformers() -> ModuleType:
    """Import transformers; it is installed if it is not there, 140 MB, once."""
    torchvision()  # which transformers imports by itself
    place = compilation_cache.of_user().with_name(f"transformers-{VERSION}")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place)]
    made_once(place, lambda: subprocess.run([*pip, *PACKAGES], check=True))
    if str(place) not in sys.path:
        sys.path.append(str(place))  # last: what is installed here stays what is used
    return importlib.import_module("transformers")
