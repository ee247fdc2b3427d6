"""Calibration: estimators against organisms whose true elicited share is known."""
