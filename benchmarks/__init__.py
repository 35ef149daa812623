"""Measurements, each run as `python -m benchmarks.<name>`; the last line it prints is one JSON object."""

from ilse.core.machine.spinning import spin_briefly

spin_briefly()  # as a command of ours does, before a benchmark imports torch
