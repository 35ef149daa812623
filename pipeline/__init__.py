"""Makes the cache: fetch a model and texts, prepare them, extract every layer. `store` owns the format."""
