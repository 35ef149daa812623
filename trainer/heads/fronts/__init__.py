"""What stands in front of a head: a reader of tokens, or a map for each of several models."""
