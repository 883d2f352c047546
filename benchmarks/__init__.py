"""Benchmarks of this project; ``python -m benchmarks --help`` lists them. Not part of the wheel."""
