"""Training runs: the loop, checkpoints, logs and scores."""
