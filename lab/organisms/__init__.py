"""Built-in models whose history is known: small ones, and adapters on a pretrained one, each with a card."""
