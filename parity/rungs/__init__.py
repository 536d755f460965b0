"""The rungs of the ladder, one module each, lowest first; `parity.ladder.climb` climbs them."""
