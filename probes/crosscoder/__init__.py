"""What a base model and the model tuned from it share: one sparse dictionary over both streams, and a placebo."""
