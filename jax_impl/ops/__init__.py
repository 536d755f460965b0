"""Formulations that XLA compiles and runs well, some with hand-written gradients; arrays are NHWC.

The layers define what is computed, these functions how. PyTorch needs no counterpart.
"""
