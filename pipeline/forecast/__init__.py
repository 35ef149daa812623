"""Estimates what an extraction will cost, before it runs."""
