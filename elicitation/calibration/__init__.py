"""Calibration: the whole instrument, run on every pair whose answer is known."""
