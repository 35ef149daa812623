"""Searching over heads and settings: what is tried, and how a budget is spent."""
