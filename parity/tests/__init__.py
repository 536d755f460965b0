"""The ladder over the project's own networks, run by `pytest parity/`."""
