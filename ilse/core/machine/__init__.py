"""The machine a command runs on: processor, memory, threads, signals."""
