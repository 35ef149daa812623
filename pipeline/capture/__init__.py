"""Texts to rows: batches, the forward pass that shows every layer, poolings."""
