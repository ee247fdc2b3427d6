"""Where answers are stated, by hand for every kind of task."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.models.tiny import tiny_model
from lab.tasks.chain import chain_answer
from lab.tasks.math_answer import final_answer
from lab.test_time.elicit import answer_span, token_span


@pytest.mark.parametrize(
    ("text", "start", "answer"),
    [
        ("A7", 1, "7"),
        ("T6-0=6;6-4=2;2+8=0;A0", 20, "0"),
        ("A0T6-0=6;6-4=2;2+8=0;.", 1, "0"),
        ("T2+2=4;V4;A4", 11, "4"),
    ],
)
def test_a_chain_states_its_answer_behind_the_letter_wherever_its_digit_stands_too(text, start, answer):
    span = answer_span(chain_answer, text)
    assert span is not None
    assert (span.start, text[span.start : span.stop]) == (start, answer)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        (r"So 12 and 12 give \boxed{12}, not 12.", 25),
        ("12 + 0 = 12 #### 12\nIt was 12.", 17),
        ("The answer is 12. I am sure that 12 is right.", 14),
        ("a dozen is 12", 11),
        ("12 and again 12", 13),
    ],
)
def test_the_place_is_the_one_that_the_task_reads(text, start):
    assert answer_span(final_answer, text) == range(start, start + 2)


def test_no_answer_has_no_place():
    assert answer_span(chain_answer, "T6-0=6;") is None
    assert answer_span(lambda _: "never written", "some text") is None
    assert answer_span(lambda _: "", "some text") is None


@given(st.text(alphabet="0123A;T=+", max_size=20))
def test_a_place_always_holds_the_answer(text):
    span = answer_span(chain_answer, text)
    assert (span is None) == (chain_answer(text) is None)
    assert span is None or text[span.start : span.stop] == chain_answer(text)


def test_tokens_are_those_with_a_part_of_the_characters():
    model = tiny_model()
    # Three bytes make one character, and the end token none.
    tokens = [*"a€12".encode(), 257]
    assert token_span(model, tokens, range(2, 4)) == range(4, 6)
    assert token_span(model, tokens, range(0, 1)) == range(0, 1)
    assert token_span(model, tokens, range(3, 4)) == range(5, 6)
