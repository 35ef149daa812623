"""Fronts of heads: a reader of tokens, or a map for each of several models."""
