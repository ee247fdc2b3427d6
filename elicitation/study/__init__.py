"""Studies: from a pair of models to a report."""
