"""Formulations that XLA compiles and runs well, some with gradients written out; arrays are NHWC.

The layers say what is computed, these functions how. PyTorch brings its own.
"""
