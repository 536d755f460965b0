"""Experiments that prove a cause: with one change, the reference gives the port's numbers.

`change.Change` is one hypothesis. A module per family yields those that fit an operation of the
reference; `engine` tries them.
"""
