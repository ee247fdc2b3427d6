"""What becomes of a completion: right, wrong, no answer, or cut."""

import pytest

from lab.sampling.trace import OUTCOMES, TRACES, verdict_table
from lab.tasks.chain import CHAIN
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem


def verdict(
    text,
    stop,
    *,
    judge=MATH,
    prompt="",
    answer="5",
):
    problem = Problem(id="1", prompt=prompt, answer=answer, family="", source="")
    trace = {"arm": "base", "problem_id": "1", "sample_index": 0, "text": text, "stop": stop}
    trace |= {name: [] for name in ("tokens", "logprobs", "routes", "categories", "content_bits")}
    table = verdict_table(TRACES.frame([trace]), [problem], judge.verify)
    return table.select("outcome", "read_by").row(0)


@pytest.mark.parametrize(
    ("text", "stop", "outcome", "read_by"),
    [
        (r"\boxed{5}", "eos", "right", "box"),
        ("It is 5, so", "length", "right", "number"),
        (r"\boxed{7}", "stop", "wrong", "box"),
        ("I cannot tell", "eos", "no answer", None),
        ("first we get 7 and", "length", "cut", None),
        (r"<think>\boxed{5}", "eos", "cut", None),
        (r"<think>\boxed{5}", "length", "cut", None),
        ("<think>a</think> It is 7", "eos", "wrong", "number"),
        ("It is 7.\n\nQuestion: and then?", "length", "wrong", "number"),
        ("It is 5.\n\nQuestion: and then? 7", "length", "right", "number"),
    ],
)
def test_a_verdict_says_what_became_of_the_completion_and_how_it_was_read(text, stop, outcome, read_by):
    assert verdict(text, stop) == (outcome, read_by)
    assert outcome in OUTCOMES


@pytest.mark.parametrize(("text", "outcome"), [(r"we try \boxed{5}", "cut"), (r"we try 7</think>\boxed{5}", "right")])
def test_a_thought_that_the_prompt_opened_must_be_closed(text, outcome):
    assert verdict(f"<think>\n{text}", "eos")[0] == outcome


@pytest.mark.parametrize(
    ("text", "stop", "outcome", "read_by"),
    [
        ("A5", "eos", "right", "direct"),
        ("T2+3=5;A5", "eos", "right", "answer"),
        ("T2+3=6;A6", "eos", "wrong", "answer"),
        ("T2+3=5;", "eos", "no answer", None),
        ("T2+3=5;", "length", "cut", None),
    ],
)
def test_chains_are_read_in_their_own_words(text, stop, outcome, read_by):
    assert verdict(text, stop, judge=CHAIN, prompt="<2+3?") == (outcome, read_by)
