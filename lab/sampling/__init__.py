"""Sampling: one decoding loop for models and hybrids."""
