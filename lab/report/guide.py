"""Guide: how to read a page: each word that is not plain English with its meaning, folded away, as HTML."""

from collections.abc import Mapping


def guide(words: Mapping[str, str]) -> str:
    """`words` is word -> what it means here, both trusted HTML; the words stand in the summary too, so that a reader
    sees what there is to look up.
    """
    named = ", ".join(words)
    entries = "".join(f"<div><dt>{word}</dt><dd>{meaning}</dd></div>" for word, meaning in words.items())
    summary = f'<summary>How to read this <span class="count">{named}</span></summary>'
    return f'<details class="how">{summary}<dl>{entries}</dl></details>'
