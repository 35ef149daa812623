"""Trains small heads over every layer of a frozen model, from the cache alone."""
