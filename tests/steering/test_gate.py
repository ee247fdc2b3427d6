"""Gates count in texts, and say so where they cannot."""

import pytest
import torch

from lab.records.errors import SiteError
from steering.gate import (
    AtPositions,
    CompletionStart,
    InCompletion,
    InPrompt,
    WhileWriting,
    Window,
    is_open,
)

# A text of two tokens of prompt and three of completion, and one of four and one.
WINDOW = Window(torch.tensor([[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]), torch.tensor([2, 4]))


@pytest.mark.parametrize(
    ("gate", "first", "second"),
    [
        (InPrompt(), "xx...", "xxxx."),
        (InCompletion(), "..xxx", "....x"),
        (CompletionStart(2), "..xx.", "....x"),
        (CompletionStart(0), ".....", "....."),
        (AtPositions((0, 3)), "x..x.", "x..x."),
        (AtPositions((-1,)), ".x...", "...x."),
        (AtPositions((-3, 4)), "....x", ".x..x"),
        (AtPositions(()), ".....", "....."),
        (WhileWriting((0,)), ".x...", "...x."),
        (WhileWriting((1, 3)), "..x.x", "....x"),
        (WhileWriting(()), ".....", "....."),
    ],
)
def test_a_gate_is_open_at_the_tokens_that_it_names(gate, first, second):
    drawn = ["".join(".x"[opened] for opened in row) for row in is_open(gate, WINDOW).tolist()]
    assert drawn == [first, second]


@pytest.mark.parametrize(
    "gate", [InPrompt(), InCompletion(), CompletionStart(1), AtPositions((-1,)), WhileWriting((0,))]
)
def test_a_gate_that_counts_from_the_prompts_end_has_to_know_it(gate):
    with pytest.raises(SiteError, match=r"needs to know where prompts end: give the block n_prompt"):
        is_open(gate, Window(WINDOW.positions, None))


@pytest.mark.parametrize("gate", [InPrompt(), AtPositions((0,))])
def test_a_gate_has_to_know_where_tokens_stand(gate):
    with pytest.raises(SiteError, match=r"needs to know where tokens stand in their texts: pass position_ids or"):
        is_open(gate, Window(None, WINDOW.n_prompt))


def test_positions_from_the_start_ask_for_no_prompt():
    assert is_open(AtPositions((1,)), Window(torch.tensor([[1]]), None)).all()


def test_numbers_that_no_completion_has_are_refused():
    with pytest.raises(SiteError, match="first -1 tokens of a completion: want a number from 0 on"):
        CompletionStart(-1)
    with pytest.raises(SiteError, match=r"a schedule of steps \(3, -1\): want tokens of the completion"):
        WhileWriting((3, -1))
