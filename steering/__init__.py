"""Changing the inside of a model: vectors, edits, hybrids."""
