"""Changing the inside of a model: vectors, edits, hybrids, and the studies that put them to use."""
