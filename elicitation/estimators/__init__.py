"""Estimators of elicitation: one file each, tables in, a table of estimates out."""
