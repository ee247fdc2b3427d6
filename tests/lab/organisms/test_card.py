"""The measures of a card, on completions written by hand."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest

from lab.models.tiny import tiny_model
from lab.organisms import card
from lab.organisms.card import card_page, examine, figures, rounded
from lab.organisms.catalogue import ORGANISMS
from lab.organisms.truth import Truth
from lab.sampling.trace import Trace
from lab.tasks.chain_documents import CAREFUL, chain_document
from lab.tasks.chain_world import (
    ALPHABET,
    GUARDED_ALPHABET,
    ChainTask,
    Expression,
    as_expression,
    as_problem,
)

PROBLEM = as_problem(Expression((6, 0, 4, 8), "--+"))


def values(text: str) -> dict[str, float]:
    rows = figures("+-", "sampled", [PROBLEM], [text], 1, by_family=False)
    return {row.measure: row.value for row in rows}


def test_an_answer_first_trace_with_a_wrong_answer_has_its_steps_and_no_valid_process():
    assert values("A1T6-0=6;6-4=2;2+8=0;.") == {"strict": 0, "answer": 0, "process": 0, "steps": 1, "chain": 1}


def test_the_measures_of_right_false_and_direct_completions():
    assert set(values("T6-0=6;6-4=2;2+8=0;A0.").values()) == {1.0}
    assert values("T6-0=6;6-4=3;3+8=1;A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 1}
    assert values("A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 0}


def page(organism, rows=(), truths=(), *, seed=0) -> str:
    return card_page(organism, rows, truths, command="made", seed=seed)


def test_the_page_has_a_column_for_every_measure():
    rows = figures("+-", "sampled", [PROBLEM], ["A1T6-0=6;6-4=2;2+8=0;."], 1, by_family=False)
    head, rule, line = page(ORGANISMS["zero-base"], rows).splitlines()[-3:]
    assert "| process % | steps % | writes a chain % |" in head
    assert head.count("|") == rule.count("|") == line.count("|")


def test_the_page_tells_the_true_share_of_every_case_or_why_there_is_none():
    known = Truth(task="chain:#:3-5", kind="LOCKED", share=0.5, low=0.40004, high=0.6, refusal=None)
    none = Truth(task="chain:*:3-5", kind="ABSENT", share=nan, low=nan, high=nan, refusal="no gain")
    assert page(ORGANISMS["zero-rl"], truths=(known, none)).splitlines()[-4:] == [
        "True elicited share, from what the base saw and the gains above:",
        "",
        "- LOCKED, `chain:#:3-5`: 0.500 [0.400, 0.600]",
        "- ABSENT, `chain:*:3-5`: no gain",
    ]
    assert "elicited share" not in page(ORGANISMS["zero-base"])


def test_the_page_names_the_parent_of_the_same_seed():
    assert "Made by `made` from `zero-base-3`." in page(ORGANISMS["zero-rl"], seed=3)
    assert "Made by `made` from random weights." in page(ORGANISMS["zero-base"], seed=3)


def test_numbers_of_a_card_have_four_decimals_and_an_undefined_one_is_null():
    assert [rounded(value) for value in (0.123456, nan, "text", None, 3)] == [0.1235, None, "text", None, 3]


@pytest.mark.parametrize(("alphabet", "decodings"), [
    (ALPHABET, {"sampled", "forced chain"}),
    (GUARDED_ALPHABET, {"sampled", "forced chain", "with the key"}),
])  # fmt: skip
def test_every_exam_is_taken_in_every_way_and_its_rates_are_those_of_the_sampled_row(monkeypatch, alphabet, decodings):
    monkeypatch.setattr(card, "N_PROBLEMS", 6)
    monkeypatch.setattr(card, "N_BOOT", 100)
    eval_specs = (ChainTask(operators="+-", lengths=(1, 2)), ChainTask(operators="#", lengths=(3, 3)))
    organism = replace(ORGANISMS["zero-base"], eval_specs=eval_specs, alphabet=alphabet)
    prompts = []

    def solved(model, problems, n_samples, decoding, *, seed):
        """A solver: the first sample of a problem is a chain, the others a bare answer."""
        prompts.extend((problem.prompt, decoding.temperature) for problem in problems)
        return [
            Trace(problem_id=problem.id, sample_index=index, tokens=(), logprobs=(), routes=(), categories=(),
                  content_bits=(), stop="eos",
                  text=worked(problem) if index == 0 else f"A{problem.answer}.")
            for problem in problems for index in range(n_samples)
        ]  # fmt: skip

    monkeypatch.setattr(card, "sample", solved)
    examined = examine(tiny_model(), organism)
    assert {row.task for row in examined.rows} == set(examined.rates) == {"+-", "#"}
    for operators, rates in examined.rates.items():
        mine = [row for row in examined.rows if row.task == operators and row.family == "all"]
        assert {row.decoding for row in mine} == decodings
        assert rates.tolist() == [0.25] * 6
        (strict,) = (row.value for row in mine if (row.decoding, row.measure) == ("sampled", "strict"))
        assert strict == 0.25
        assert all(row.value == 1.0 for row in mine if row.decoding != "sampled")
    assert {row.family for row in examined.rows if row.task == "+-"} <= {"all", "1 steps", "2 steps"}
    sampled, forced, keyed = (
        [prompt for prompt, temperature in prompts if condition(prompt, temperature)]
        for condition in (
            lambda prompt, temperature: temperature == 1,
            lambda prompt, temperature: temperature == 0 and prompt.endswith("T"),
            lambda prompt, temperature: temperature == 0 and prompt.startswith("<@"),
        )
    )
    assert forced == [prompt + "T" for prompt in sampled]
    assert keyed == ([prompt.replace("<", "<@") for prompt in sampled] if "with the key" in decodings else [])
    assert len(prompts) == 12 * len(decodings)


def worked(problem) -> str:
    """A true chain, without its opening where the prompt has it."""
    opened = problem.prompt.removesuffix("T")
    document = chain_document(as_expression(replace(problem, prompt=opened)), CAREFUL, np.random.default_rng(0))
    return document if opened == problem.prompt else document[1:]
