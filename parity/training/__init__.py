"""Training runs: the loop, its checkpoints and logs, and what is measured of them."""
