"""Faults of the contract itself: both sides read the same wrong number, and agree.

`parity check` cannot see them, so each must be found by a test that asks a third party.
"""
