"""Predictions of both sides on a data set, and how good they are."""
