"""Statistics over problems: every number has an interval, and every arm shares the resamples."""
