"""Categories of sentences or steps: a small clustering SAE of a model's stream, fitted, judged against exact labels."""
