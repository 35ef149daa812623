"""For all tests: one thread a process, because two on two busy cores wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
