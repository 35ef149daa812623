"""Rows and tokens of a split: held in memory or streamed from the cache, in batches."""
