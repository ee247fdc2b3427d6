"""Feature words: what a feature, or a way to its effect, is called where there is room for a few words."""

import polars as pl

from lab.report.token_text import token_word

_NAMED = 3


def method_words(method: str) -> str:
    """A way to an effect, such as `gradient`, in words that may follow `by`."""
    return "integrated gradients" if method == "integrated" else method


def feature_name(feature: int, logit_effects: pl.DataFrame) -> str:
    """`Feature 137 · raises T V`, plain text; a token's own spaces are ␣. Only the number where nothing is known."""
    raised = logit_effects.filter(pl.col("feature") == feature, pl.col("side") == "up").sort("rank")
    tokens = " ".join(token_word(text) for text in raised["text"].head(_NAMED))
    return f"Feature {feature} · raises {tokens}" if tokens else f"Feature {feature}"
