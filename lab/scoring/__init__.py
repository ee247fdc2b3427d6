"""Scoring: passes of both models over texts that are already written."""
