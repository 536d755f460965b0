"""A scaled-down recipe trained on both sides, and each part of a step against a third party."""
