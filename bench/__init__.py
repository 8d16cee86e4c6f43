"""Measurements: `python -m bench.run --help`. Not part of the package."""
