"""Measures the kit against the standard library's pools, both sides in one run: `python -m benchmarks`."""
