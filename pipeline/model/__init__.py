"""Loads frozen models from their files and finds out their properties."""
