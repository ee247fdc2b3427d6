"""What every page is made of, and nothing of what it is about."""
