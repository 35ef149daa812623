"""Turns texts into rows: batches, a forward pass that exposes every layer, and poolings."""
