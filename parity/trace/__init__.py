"""Traces: what a reference computed elsewhere, in one file; writing, reading, comparing them."""
