"""Letters of choices, and answers that are a text of their own."""

import pytest

from lab.tasks.choice_answer import CHOICE, TEXT
from lab.tasks.problem import Problem

LIONS = Problem(
    id="1", prompt="Which?", answer="B", family="f", source="s", choices=("3 cats", "The lion", "$\\frac{1}{2}$", "7")
)
PARIS = Problem(id="1", prompt="Where?", answer="Paris", family="f", source="s", aliases=("City of Light",))


@pytest.mark.parametrize(
    "said",
    [
        "B", "(B)", "b.", "B. The lion", "The answer is (B).", "Answer: B", "**Answer: B**",
        "So 3 of 4.\nThe answer is B",
        r"So it is \boxed{B}.", r"\boxed{\text{B}}", r"\boxed{B) The lion}", "Option B",
        "Since 3 < 7, I choose option B.",
        "The correct answer is **B. The lion**.", "<think>A?</think>It roars.\n\nB", "Cats do not roar.\n\nThe lion",
        "The final answer is: the lion", "The correct choice is (B) The lion", "So the answer must be (B)",
        "answer is B because it roars", "So the answer must be B.", "Therefore, B is correct.", "Hence B", "[B]",
        "The answer is B, not A.", '{"answer": "B"}', "B\n\nExplanation: A is wrong.",
        "Choice B is right, while choice A is wrong.",
    ],
)  # fmt: skip
def test_a_letter_or_the_text_of_its_choice_is_read(said):
    assert CHOICE.verify(LIONS, said).reason == "ok"


@pytest.mark.parametrize(
    "said",
    [
        "A",
        "",
        "The answer is (C).",
        "3 cats",
        r"\boxed{D}",
        "<think>B",
        "the tiger",
        "A lion",
        "7",
        "The answer is I",
        "It is not (B)",
        "Between (A) and (B)",
    ],
)
def test_another_letter_or_another_text_is_wrong(said):
    assert not CHOICE.verify(LIONS, said).answer_correct


@pytest.mark.parametrize(
    "said", ["paris", "The answer is Paris.", r"\boxed{\text{Paris}}", "I know it.\nPARIS!", "City of light"]
)
def test_a_text_is_compared_whole_once_it_is_plain(said):
    assert TEXT.verify(PARIS, said).answer_correct


@pytest.mark.parametrize("said", ["", "London", "Paris or London", "The answer is not Paris"])
def test_another_text_is_wrong(said):
    assert not TEXT.verify(PARIS, said).answer_correct


def test_the_guess_floor_compares_what_was_read():
    assert CHOICE.same_answer(CHOICE.read_answer("I say (B)") or "", "B")
    assert TEXT.same_answer(TEXT.read_answer("Answer: the Seine") or "", "The Seine")
