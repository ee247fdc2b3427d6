"""Reading the inside of a model; nothing here changes a forward pass."""
