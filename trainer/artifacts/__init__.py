"""Trained heads and answers on disk: written, read back and checked."""
