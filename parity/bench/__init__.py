"""Code that `parity bench` times on both sides: forward passes, training steps, several devices."""
