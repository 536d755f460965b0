"""Files and caches: atomic writing, JSON, compiled XLA programs."""
