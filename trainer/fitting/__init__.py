"""How a head is fitted: solved to its optimum or trained in epochs, and its best state kept."""
