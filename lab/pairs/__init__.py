"""Pairs of a real language model: a pretrained one that is fetched, and adapters on it whose history is known."""
