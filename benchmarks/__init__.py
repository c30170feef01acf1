"""Measurements, each a script: `python -m benchmarks.engine --help`."""
