"""The commands that lead to a cache and look after it, one module per command."""
