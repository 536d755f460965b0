"""The ladder of parity checks, L0 to L5, over any pair of networks."""
