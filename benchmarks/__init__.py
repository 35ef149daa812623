"""Measurements, each run as `python -m benchmarks.<name>`; the last line it prints is one JSON object."""
