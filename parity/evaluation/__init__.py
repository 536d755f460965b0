"""Evaluation of both sides' predictions on a data set."""
