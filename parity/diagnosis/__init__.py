"""From a failed comparison to its likely cause."""
