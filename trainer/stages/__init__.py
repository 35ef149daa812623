"""The commands that train, analyse and evaluate, one module per command."""
