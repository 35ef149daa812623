"""Heads that pass messages between layers (`cayley`, `fc`) and the graphs they pass them on."""
