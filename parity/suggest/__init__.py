"""Suggesting the rules of a new pair: a table from one network's tensors to the other's.

`suggest` looks at names, shapes, values that both sides hold, and at the order in which either side
uses its tensors in a forward pass. What these do not decide is marked; `settle` runs both sides on
the candidates.
"""
