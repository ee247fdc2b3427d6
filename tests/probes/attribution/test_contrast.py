"""Contrasts: what is asked, where an answer is stated, and what is refused."""

import math

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.models.load import load
from lab.models.source import BuiltInModel
from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError, SiteError, StorageError
from lab.sampling.trace import Trace, trace_table
from lab.tasks.chain import chain_answer
from lab.tasks.chain import verify as verify_chain
from lab.tasks.math_answer import final_answer, same_answer
from lab.tasks.math_answer import verify as verify_math
from lab.tasks.problem import Judge, Problem
from lab.tasks.source import Task
from probes.attribution.contrast import (
    CONTRASTS,
    Sides,
    answer_contrasts,
    contrast,
    contrasts_digest,
    first_token_contrasts,
    read_sides,
    require_contrasts,
    stated_at,
)

from .conftest import made_contrasts


@pytest.fixture(scope="module")
def organism():
    return load(BuiltInModel(name="zero-base"), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def llama():
    return tiny_model("llama", n_layers=1)


def problem(number, prompt, answer):
    return Problem(id=f"q{number}", prompt=prompt, answer=answer, family="f", source="s")


CHAIN = Task(
    name="chain",
    problems=(problem(0, "<6-0-4+8?", "0"), problem(1, "<1+1?", "0"), problem(2, "<1+2?", "3")),
    judge=Judge(
        name="chain", verify=verify_chain, read_answer=chain_answer, same_answer=lambda one, other: one == other
    ),
)
SUMS = Task(
    name="sums",
    problems=(problem(0, "20+22? ", "42"), problem(1, "1+1? ", "2"), problem(2, "40+3? ", "43")),
    judge=Judge(name="sums", verify=verify_math, read_answer=final_answer, same_answer=same_answer),
)


def traces(model, *written):
    """A `TRACES` table of (problem, text) pairs."""
    return trace_table(
        "base",
        [
            Trace(
                problem_id=f"q{number}",
                sample_index=0,
                tokens=tuple(tokens := model.tokenizer.encode(text, add_special_tokens=False)),
                logprobs=(0.0,) * len(tokens),
                routes=(0,) * len(tokens),
                categories=(-1,) * len(tokens),
                content_bits=(0.0,) * len(tokens),
                text=model.tokenizer.decode(tokens, skip_special_tokens=True),
                stop="eos",
            )
            for number, text in written
        ],
    )


def test_one_token_on_each_side_is_a_difference_of_two_logits():
    logits = torch.tensor([[0.5, -2.0, 3.25], [1.0, 2.0, 4.0]])
    sides = Sides(torch.tensor([[2], [0]]), torch.tensor([[1], [2]]))
    assert contrast(logits, sides).tolist() == [5.25, -3.0]


def test_several_tokens_on_a_side_count_by_their_summed_probability():
    logits = torch.tensor([[0.0, math.log(2), math.log(3), math.log(7)]])
    assert float(contrast(logits, Sides(torch.tensor([[1, 2, 0]]), torch.tensor([[3, -1]])))) == pytest.approx(
        math.log(6 / 7)
    )


@settings(max_examples=25)
@given(st.lists(st.floats(-20, 20), min_size=6, max_size=6), st.floats(-50, 50))
def test_a_contrast_is_odd_in_its_sides_and_blind_to_what_all_logits_share(values, shift):
    logits = torch.tensor([values], dtype=torch.float64)
    sides = Sides(torch.tensor([[0, 3]]), torch.tensor([[5, 1]]))
    there = float(contrast(logits, sides))
    assert float(contrast(logits, Sides(sides.against, sides.toward))) == pytest.approx(-there, abs=1e-4)
    assert float(contrast(logits + shift, sides)) == pytest.approx(there, abs=1e-4)


def test_sides_of_unequal_length_are_filled_up(llama):
    table = CONTRASTS.frame(
        [
            {"problem_id": "p", "tokens": [1], "toward": [4, 5], "against": [6]},
            {"problem_id": "p", "tokens": [1, 2], "toward": [7], "against": [8]},
        ]
    )
    sides = read_sides(table, torch.device("cpu"))
    assert sides.toward.tolist() == [[4, 5], [7, -1]]
    assert sides.against.tolist() == [[6], [8]]


def test_openings_are_prompts_with_the_same_tokens_on_each_side(organism):
    table = first_token_contrasts(organism, CHAIN.problems, ["T", "V"], ["A"])
    assert table["problem_id"].to_list() == ["q0", "q1", "q2"]
    assert [organism.tokenizer.decode(ids) for ids in table["tokens"].to_list()] == ["<6-0-4+8?", "<1+1?", "<1+2?"]
    named = {organism.tokenizer.decode([token]) for token in table["toward"][0]}
    assert named == {"T", "V"}
    assert organism.tokenizer.decode(table["against"][2].to_list()) == "A"


def test_a_string_that_is_not_one_token_is_refused(organism, llama):
    with pytest.raises(SiteError, match="'To' is 2 tokens of this model, want one"):
        first_token_contrasts(llama, CHAIN.problems, ["To"], ["A"])
    with pytest.raises(SiteError, match="a contrast with no string on one side"):
        first_token_contrasts(organism, CHAIN.problems, ["T"], [])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"tokens": []}, "has no text"),
        ({"tokens": [1] * 257}, "has 257 tokens: want at most 256"),
        ({"toward": []}, "has 0 tokens toward and 1 against: want at least one of each"),
        ({"against": [7, 5]}, "has token 5 on both sides"),
        ({"toward": [5, 5]}, "has a token twice on one side"),
        ({"tokens": [300]}, "has token 300: want ids from 0 to 257"),
        ({"against": [258]}, "has token 258: want ids from 0 to 257"),
        ({"toward": [-1]}, "has token -1: want ids from 0 to 257"),
    ],
)
def test_a_contrast_that_cannot_be_asked_is_refused_by_its_row(llama, row, message):
    good = {"problem_id": "p", "tokens": [1, 2], "toward": [5], "against": [6]}
    with pytest.raises(EstimateError, match=f"contrast 1, of 'p', {message}"):
        require_contrasts(llama, CONTRASTS.frame([good, good | row]))


def test_a_table_of_another_kind_or_of_no_rows_is_refused(llama):
    with pytest.raises(StorageError, match="not a 'contrasts' table"):
        require_contrasts(llama, made_contrasts(2).drop("against"))
    with pytest.raises(EstimateError, match="no contrasts came"):
        require_contrasts(llama, CONTRASTS.frame([]))


def test_the_digest_tells_apart_every_table():
    table = made_contrasts(4)
    others = [
        table.head(3),
        table.reverse(),
        table.rename({"toward": "against", "against": "toward"}).select(list(CONTRASTS.dtypes)),
        table.with_columns(pl.col("problem_id") + "x"),
        table.with_columns(pl.col("tokens").list.head(1)),
    ]
    assert len({contrasts_digest(each) for each in [table, *others]}) == 6
    assert contrasts_digest(made_contrasts(4)) == contrasts_digest(table)


def asked(model, table):
    """(text, toward, against) of every row, as text."""
    decode = model.tokenizer.decode
    return [(decode(tokens), decode(toward), decode(against)) for _, tokens, toward, against in table.iter_rows()]


def test_a_right_answer_stands_against_the_next_problems_that_differs(organism):
    written = traces(organism, (0, "T6-0=6;6-4=2;2+8=0;A0."), (2, "A3."))
    assert asked(organism, answer_contrasts(organism, CHAIN, written)) == [
        ("<6-0-4+8?T6-0=6;6-4=2;2+8=0;A", "0", "3"),
        ("<1+2?A", "3", "0"),
    ]


def test_a_wrong_answer_stands_against_the_gold_one(organism):
    assert asked(organism, answer_contrasts(organism, CHAIN, traces(organism, (0, "T6-0=0;A6.")))) == [
        ("<6-0-4+8?T6-0=0;A", "0", "6")
    ]


def test_in_free_text_the_place_is_where_the_task_reads_the_answer(llama):
    # The first tokens of 42 and 43 are the same byte, so the answer of the second problem is taken.
    written = traces(llama, (0, r"42 is 20+22, so \boxed{42}"), (2, "It is 44, no, the answer is 13."), (1, "so  2"))
    assert asked(llama, answer_contrasts(llama, SUMS, written)) == [
        (r"20+22? 42 is 20+22, so \boxed{", "4", "2"),
        ("40+3? It is 44, no, the answer is ", "4", "1"),
        ("1+1? so  ", "2", "4"),
    ]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ((0, "no idea"), "sample 0 of 'q0' states no answer; leave this trace out"),
        ((0, r"\boxed{4"), "states '4', and no other answer at hand starts with another token"),
        ((2, "the answer is 41"), "'q2' states '41', and no other answer at hand starts with another token"),
    ],
)
def test_a_trace_whose_answer_has_no_one_place_is_refused(llama, written, message):
    with pytest.raises(EstimateError, match=message):
        answer_contrasts(llama, SUMS, traces(llama, written))


def test_a_trace_of_another_task_is_refused(organism):
    with pytest.raises(EstimateError, match="sample 0 of 'q7' answers no problem of chain"):
        answer_contrasts(organism, CHAIN, traces(organism, (7, "A1.")))


@pytest.mark.parametrize(
    ("text", "stated", "n_places"), [("2 2", "2", 2), ("Two", "two", 0)], ids=["twice", "in another form"]
)
def test_places_that_do_not_decide_alone_are_refused(text, stated, n_places):
    lowest = Task(
        name="lowest",
        problems=CHAIN.problems,
        judge=Judge(
            name="lowest",
            verify=verify_chain,
            read_answer=lambda text: min(text.lower().split(), default=None),
            same_answer=CHAIN.same_answer,
        ),
    )
    with pytest.raises(EstimateError, match=f"states its answer '{stated}' at {n_places} places of its text: want one"):
        stated_at(lowest, text, "1")
    assert stated_at(lowest, "5 2", "1") == 2


def test_an_answer_inside_a_token_is_refused():
    model = tiny_model("llama", n_layers=1)
    model.tokenizer.add_tokens(["A3"])
    written = traces(model, (2, "A3"))
    assert written["tokens"].to_list() == [[258]]
    with pytest.raises(EstimateError, match="'q2' states its answer inside a token: want one that starts it"):
        answer_contrasts(model, CHAIN, written)
