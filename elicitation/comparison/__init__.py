"""Comparison: fits of steering vectors side by side, each against its controls."""
