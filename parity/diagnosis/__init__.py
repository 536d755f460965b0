"""Proving the cause of a failed comparison."""
