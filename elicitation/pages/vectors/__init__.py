"""The page of vectors that were compared."""
