"""Fits: ways to find a steering vector."""
