"""Shards of a cache in the making: computing one, borrowing its rows, keeping unfinished ones, one run at a time."""
