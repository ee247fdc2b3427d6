"""Capture: activations of a model at its sites, read in passes that nothing changes."""
