"""Models: where weights come from, and the parts of a decoder."""
