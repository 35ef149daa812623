"""What a head is trained on: examples joined to the rows of one or several caches, and their targets."""
