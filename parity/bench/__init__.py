"""What `parity bench` times on both sides: forward passes, steps of training, several devices."""
