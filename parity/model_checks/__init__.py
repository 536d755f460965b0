"""What `parity check MODEL` adds for the project's own networks: recipes, devices, summaries."""
