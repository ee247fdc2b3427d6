"""Attribution: what every feature of an SAE adds to a scalar of the logits."""
