"""Converting checkpoints of any network and any size by rules, a tensor at a time."""
