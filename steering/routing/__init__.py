"""Routing: when and which, fitted on traces of both models, for hybrids that ask the tuned model little or nothing."""
