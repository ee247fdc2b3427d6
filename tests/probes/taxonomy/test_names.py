"""Names are the commonest labels, or without labels the words that tell a category from the others."""

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from probes.taxonomy.segments import SEGMENTS
from probes.taxonomy.taxonomy import category_names


def made(words: list[str], labels: list[str | None]) -> pl.DataFrame:
    return SEGMENTS.frame(
        [
            {"text": row, "problem_id": "p", "first": 1, "last": 2, "words": text, "label": label}
            for row, (text, label) in enumerate(zip(words, labels, strict=True))
        ]
    )


def test_a_category_is_called_by_its_commonest_label_and_a_second_one_is_numbered():
    found = made(["x"] * 7, ["step", "step", "check", "step", "check", "check", None])
    assert category_names(found, np.array([0, 0, 0, 1, 2, 2, 0]), 4) == ("step", "step 2", "check", "empty")


def test_of_equally_common_labels_the_first_by_name_is_taken():
    found = made(["x"] * 2, ["b", "a"])
    assert category_names(found, np.array([0, 0]), 1) == ("a",)


def test_without_labels_a_category_is_called_by_what_sets_it_apart():
    found = made(["wait, the sum", "wait, the other", "so the sum", "so the rest"], [None] * 4)
    first, second = category_names(found, np.array([0, 0, 1, 1]), 2)
    # Both of the first and none of the second have these; the sum is as common in both.
    assert set(first.split()[:2]) == {"wait", ","}
    assert second.split()[0] == "so"


coded = st.lists(st.tuples(st.sampled_from(["a b", "b", "c!"]), st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=30)
@given(coded, st.randoms())
def test_the_order_of_segments_does_not_matter(pairs, random):
    mixed = list(pairs)
    random.shuffle(mixed)
    names = [
        category_names(made([text for text, _ in rows], [None] * len(rows)), np.array([c for _, c in rows]), 3)
        for rows in (pairs, mixed)
    ]
    assert names[0] == names[1]
