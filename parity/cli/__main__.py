"""`python -m parity.cli` is `python -m parity`, as it was called before."""

from __future__ import annotations

import sys

from parity.cli import main

if __name__ == "__main__":
    sys.exit(main())
