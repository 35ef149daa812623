"""Fine-tuning of the model itself (LoRA) on the same examples: what heads on a cache have to be compared with."""
