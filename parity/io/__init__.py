"""Files and caches: atomic writing, JSON, what XLA compiled."""
