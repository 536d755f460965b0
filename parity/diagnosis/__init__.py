"""Finding the likely cause of a failed comparison."""
