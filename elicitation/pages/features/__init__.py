"""The page of features."""
