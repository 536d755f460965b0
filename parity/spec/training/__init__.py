"""Training recipes as data, and the interface of one training step."""
