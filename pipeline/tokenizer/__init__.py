"""A model's tokenizer: loaded without trust, and asked whether it knows the texts' words."""
