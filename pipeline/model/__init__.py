"""A frozen model from its files, and what it says of itself."""
