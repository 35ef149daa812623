"""A model's tokenizer: loaded without trust, and tested on the texts' words."""
