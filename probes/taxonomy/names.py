"""names: what categories are called, by the labels of their segments or by the words in them."""

import re
from collections import Counter

import numpy as np
import polars as pl
from jaxtyping import Int

N_PIECES = 3


def category_names(
    segments: pl.DataFrame, categories: Int[np.ndarray, " segment"], n_categories: int
) -> tuple[str, ...]:
    """A name for each category, all different, from `SEGMENTS` rows and the category of each.

    The most common label of its segments; where no segment has a label, the pieces (words and marks) whose share of its
    segments is highest above their share of the others, in standard errors. An empty category is called `empty`. A name
    that comes again is numbered.
    """
    labels, words = segments["label"].to_list(), segments["words"].to_list()
    pieces = [frozenset(re.findall(r"\w+|[^\w\s]", text)) for text in words]
    everywhere = Counter(piece for found in pieces for piece in found)
    names: list[str] = []
    for category in range(n_categories):
        members = np.flatnonzero(categories == category).tolist()
        stated = Counter(labels[member] for member in members if labels[member] is not None)
        if stated:
            # Of equals the first by name, whatever the order of segments.
            names.append(min(stated, key=lambda label: (-stated[label], label)))
        elif members:
            inside = Counter(piece for member in members for piece in pieces[member])
            names.append(" ".join(_distinctive(inside, len(members), everywhere, len(words))))
        else:
            names.append("empty")
    return tuple(_numbered(names))


def _distinctive(inside: Counter[str], n_inside: int, everywhere: Counter[str], n_segments: int) -> list[str]:
    """The pieces with the largest z of two proportions; `inside` and `everywhere` count segments."""
    n_outside = n_segments - n_inside

    def z(piece: str) -> float:
        share = everywhere[piece] / n_segments
        variance = share * (1 - share) * (1 / n_inside + 1 / n_outside) if n_outside else 0.0
        difference = inside[piece] / n_inside - (everywhere[piece] - inside[piece]) / max(1, n_outside)
        return difference / variance**0.5 if variance else 0.0

    return sorted(inside, key=lambda piece: (-z(piece), piece))[:N_PIECES]


def _numbered(names: list[str]) -> list[str]:
    before: Counter[str] = Counter()
    numbered = []
    for name in names:
        before[name] += 1
        numbered.append(name if before[name] == 1 else f"{name} {before[name]}")
    return numbered
