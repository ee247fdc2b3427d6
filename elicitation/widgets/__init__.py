"""Widgets: values that a notebook shows as something to turn and choose, and any page as plain HTML."""
