"""Hybrids: two models in step, one decision a token."""
