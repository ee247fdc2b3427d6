"""Organisms: small models whose history is known."""
