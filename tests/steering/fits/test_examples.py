"""Examples say which token is at stake where, and are split by their problems."""

import pytest
import torch

from lab.records.errors import VectorError
from lab.records.seeds import numpy_generator
from steering.fits.fit import Completions, Disagreements, Example, chosen, listed, split_by_problem

TOKENS = torch.tensor([[0, 5, 6, 7], [1, 2, 3, 4]])
MASK = torch.tensor([[False, True, True, True], [True, True, True, True]])


def test_a_decision_is_at_the_last_position_of_its_context():
    assert listed(Disagreements(TOKENS, MASK, torch.tensor([8, 9]))) == [
        Example([5, 6, 7], 2, [2], [8]),
        Example([1, 2, 3, 4], 3, [3], [9]),
    ]


def test_the_tokens_of_a_completion_are_at_stake_where_each_is_next_and_the_vector_acts_everywhere():
    assert listed(Completions(TOKENS, MASK, torch.tensor([1, 3]))) == [
        Example([5, 6, 7], 0, [1], [7]),
        Example([1, 2, 3, 4], 0, [0, 1, 2], [2, 3, 4]),
    ]


def many(n=40) -> Disagreements:
    """A decision for each number, whose target is the number."""
    return Disagreements(torch.arange(n)[:, None], torch.ones(n, 1).bool(), torch.arange(n))


def test_a_choice_keeps_contexts_and_targets_together():
    assert chosen(many(), torch.tensor([3, 1])).tokens.tolist() == [[3], [1]]
    assert chosen(many(), torch.tensor([3, 1])).targets.tolist() == [3, 1]


def test_no_problem_is_on_both_sides_of_a_split_and_no_example_is_lost():
    problems = [f"problem {index % 10}" for index in range(40)]
    to_fit, held_out = split_by_problem(many(), problems, 0.3, numpy_generator(0))
    sides = [{problems[index] for index in side.targets.tolist()} for side in (to_fit, held_out)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) == 3
    assert sorted(to_fit.targets.tolist() + held_out.targets.tolist()) == list(range(40))
    again = split_by_problem(many(), problems, 0.3, numpy_generator(0))
    assert torch.equal(held_out.targets, again[1].targets)
    other = split_by_problem(many(), problems, 0.3, numpy_generator(1))
    assert not torch.equal(held_out.targets, other[1].targets)


@pytest.mark.parametrize("share", [0.0, 0.01, 1.0])
def test_a_split_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(VectorError, match=f"{share:g} of 5 problems held out leaves a side without any"):
        split_by_problem(many(5), list("abcde"), share, numpy_generator(0))
