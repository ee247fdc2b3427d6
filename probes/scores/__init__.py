"""What is measured of all features of an SAE at once, from a store of activations."""
