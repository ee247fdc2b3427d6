"""Sparse autoencoders of a site: trained from a store, loaded, judged, spliced into a pass."""
