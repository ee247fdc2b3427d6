"""Shuffled lessons keep every text and token, and forget what they stand for."""

from dataclasses import replace
from itertools import chain

import polars as pl
import pytest

from elicitation.comparison.fits import TrainingPairs, sides_forgotten, some_rows, tokens_misplaced
from elicitation.study.fits import DISAGREEMENTS
from lab.records.seeds import torch_generator
from lab.sampling.trace import TRACES


def traces(arm: str, n: int, token: int) -> pl.DataFrame:
    return TRACES.frame(
        [
            {
                "arm": arm,
                "problem_id": f"p{index}",
                "sample_index": 0,
                "tokens": [token] + [100 + token] * (index % 4 + 1),
                "logprobs": [0.0] * (index % 4 + 2),
                "routes": [0] * (index % 4 + 2),
                "text": "",
                "stop": "eos",
            }
            for index in range(n)
        ]
    )


@pytest.fixture
def taught() -> TrainingPairs:
    positive, negative = traces("tuned", 60, 7), traces("base", 30, 8)
    decided = DISAGREEMENTS.frame(
        [
            {"problem_id": f"p{index}", "sample_index": 0, "position": 0, "base_token": 8, "tuned_token": 7}
            for index in range(60)
        ]
    )
    return TrainingPairs(
        positive=positive,
        negative=negative,
        decided=decided,
        decided_in=positive,
        problems={},
        description="by both",
        digest="d",
    )


def texts(*frames: pl.DataFrame) -> list:
    return sorted(row for frame in frames for row in frame.select("arm", "problem_id").rows())


def test_forgotten_sides_have_the_old_sizes_and_hold_the_same_texts_mixed(taught):
    mixed = sides_forgotten(taught, 0, 0)
    assert (mixed.positive.height, mixed.negative.height) == (60, 30)
    assert texts(mixed.positive, mixed.negative) == texts(taught.positive, taught.negative)
    # Of 60, 40 are expected from the positive side, give or take 2.6.
    assert 30 < (mixed.positive["arm"] == "tuned").sum() < 50
    assert sides_forgotten(taught, 0, 0).positive.equals(mixed.positive)
    assert not sides_forgotten(taught, 0, 1).positive.equals(mixed.positive)
    assert len({taught.digest, mixed.digest, sides_forgotten(taught, 0, 1).digest}) == 3


def test_misplaced_tokens_are_the_same_tokens_in_texts_of_the_same_lengths(taught):
    mixed = tokens_misplaced(taught, 0)
    before, after = (frame["tokens"].to_list() for frame in (taught.positive, mixed.positive))
    assert [len(tokens) for tokens in after] == [len(tokens) for tokens in before]
    assert sorted(chain(*after)) == sorted(chain(*before))
    assert after != before
    TRACES.checked(mixed.positive)


def test_misplaced_targets_are_no_longer_the_tuned_models_choice_but_come_from_its_texts(taught):
    decided = DISAGREEMENTS.checked(tokens_misplaced(taught, 0).decided)
    targets = decided["tuned_token"].to_list()
    assert set(targets) == {7, 107}
    # Of the 210 tokens, 60 open a text.
    assert 6 < targets.count(7) < 30
    assert decided.drop("tuned_token").equals(taught.decided.drop("tuned_token"))


def test_lessons_without_any_text_can_be_shuffled_too(taught):
    nothing = replace(
        taught, positive=TRACES.frame([]), negative=TRACES.frame([]), decided=DISAGREEMENTS.frame([]),
        decided_in=TRACES.frame([]),
    )  # fmt: skip
    assert sides_forgotten(nothing, 0, 0).positive.is_empty()
    assert tokens_misplaced(nothing, 0).decided.is_empty()


def test_some_rows_are_drawn_without_change_of_order(taught):
    few = some_rows(taught.positive, 10, torch_generator(0))
    numbers = [int(name[1:]) for name in few["problem_id"]]
    assert few.height == 10
    assert numbers == sorted(numbers)
    assert some_rows(taught.positive, 60, torch_generator(0)).equals(taught.positive)
