"""Export: steering vectors as files."""
