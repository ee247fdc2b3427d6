"""Features acted on: which ones carry a behaviour, and what the models do without them or with more of them."""
