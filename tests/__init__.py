"""Tests of the package; `tests.fuzz`, `tests.mutation` and `tests.benchmarks` are programs, too."""
