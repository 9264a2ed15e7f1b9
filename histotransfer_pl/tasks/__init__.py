"""LightningModules: extraction, attention-MIL, fine-tuning, similarity."""
