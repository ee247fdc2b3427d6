"""The vote by hand, by law, and on samples."""

import operator
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.records.errors import DecodingError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.math_answer import same_answer
from lab.tasks.problem import Judge, Problem, Verdict
from lab.tasks.source import Task
from lab.test_time.elicit import SelfConsistency, elicit, majority

ANSWERS = st.lists(st.sampled_from(["1", "2", "3", None]), min_size=1, max_size=12)


def first_letter(text: str) -> str | None:
    return text[:1] or None


PROBLEMS = tuple(
    Problem(id=f"p{index}", prompt=prompt, answer="", family="all", source="test")
    for index, prompt in enumerate(("what is 2+3?", "no"))
)
TASK = Task(
    name="first letters",
    problems=PROBLEMS,
    judge=Judge(
        name="first letters",
        verify=lambda problem, text: Verdict(answer_correct=False, process_valid=None, reason="test", read_by="whole"),
        read_answer=first_letter,
        same_answer=operator.eq,
    ),
)
DECODING = Decoding(max_new_tokens=4)


@pytest.mark.parametrize(
    ("answers", "winner"),
    [
        (["3", "5", "5"], 1),
        (["3", "5", "5", "3"], 0),
        ([None, "4", None, None], 1),
        ([None, None], 0),
        (["7", None, "2", "2", "7", "7"], 0),
    ],
)
def test_the_majority_wins_where_it_is_first_stated_and_the_first_seen_wins_ties(answers, winner):
    assert majority(answers, same=operator.eq) == winner


def test_answers_that_the_task_takes_for_one_are_counted_together():
    assert majority(["3", "7.0", "3", "7", "14/2"], same=same_answer) == 1
    assert majority(["3", "7.0", "3", "7", "14/2"], same=operator.eq) == 0


@given(ANSWERS)
def test_no_answer_has_more_votes_than_the_winner(answers):
    winner = answers[majority(answers, same=operator.eq)]
    votes = Counter(answer for answer in answers if answer is not None)
    assert votes[winner] == max(votes.values(), default=0)
    assert answers.index(winner) == majority(answers, same=operator.eq)


@given(ANSWERS, st.sampled_from(["1", "2", "3"]))
def test_more_votes_for_the_winner_change_nothing(answers, extra):
    place = majority(answers, same=operator.eq)
    if answers[place] == extra:
        assert majority([*answers, extra, None], same=operator.eq) == place


def test_each_answer_is_the_vote_of_samples_of_its_own():
    model, method = tiny_model(seed=5), SelfConsistency(n_votes=5, temperature=0.8)
    traces, cost, _ = elicit(model, TASK, PROBLEMS, method, DECODING, n_samples=2, seed=3, batch_size=7)
    votes = sample(model, PROBLEMS, 10, replace(DECODING, temperature=0.8), seed=3)
    wanted = []
    for start in range(0, 20, 5):
        letters = [first_letter(trace.text) for trace in votes[start : start + 5]]
        wanted.append(votes[start + majority(letters, same=operator.eq)].tokens)
    assert [trace.tokens for trace in traces] == wanted
    assert [(trace.problem_id, trace.sample_index) for trace in traces] == [("p0", 0), ("p0", 1), ("p1", 0), ("p1", 1)]
    assert cost.n_tokens == tuple(sum(len(trace.tokens) for trace in part) for part in (votes[:10], votes[10:]))


def test_one_vote_is_plain_sampling():
    model, method = tiny_model(seed=5), SelfConsistency(n_votes=1, temperature=1.0)
    traces, *_ = elicit(model, TASK, PROBLEMS, method, DECODING, n_samples=3, seed=3)
    assert traces == sample(model, PROBLEMS, 3, DECODING, seed=3)


def test_a_vote_of_nobody_is_refused():
    with pytest.raises(DecodingError, match="0 votes: want at least one"):
        SelfConsistency(n_votes=0)
