"""The measures of a card, on completions written by hand; the page of a card; and the list of all."""

from dataclasses import replace
from math import nan

import numpy as np
import pytest

from lab.models.tiny import tiny_model
from lab.organisms import card as module
from lab.organisms.card import Measured, Size, Truth, chain_measures, examine, listed, read_card, rounded, write_card
from lab.organisms.catalogue import organism_named
from lab.organisms.recipe import EvalSpec
from lab.sampling.trace import Trace
from lab.tasks.chain import (
    ALPHABET,
    CAREFUL,
    GUARDED_ALPHABET,
    Expression,
    as_expression,
    as_problem,
    chain_document,
)

PROBLEM = as_problem(Expression((6, 0, 4, 8), "--+"))


def values(text: str) -> dict[str, float]:
    return {measure: float(value.mean()) for measure, value in chain_measures([PROBLEM], [text]).items()}


def test_an_answer_first_trace_with_a_wrong_answer_has_its_steps_and_no_valid_process():
    assert values("A1T6-0=6;6-4=2;2+8=0;.") == {"strict": 0, "answer": 0, "process": 0, "steps": 1, "chain": 1}


def test_the_measures_of_right_false_and_direct_completions():
    assert set(values("T6-0=6;6-4=2;2+8=0;A0.").values()) == {1.0}
    assert values("T6-0=6;6-4=3;3+8=1;A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 1}
    assert values("A0.") == {"strict": 0, "answer": 1, "process": 0, "steps": 0, "chain": 0}


@pytest.fixture
def page(tmp_path):
    """The page of an organism with some figures and truths."""

    def written(name, *, measures=("strict",), truths=(), seed=0) -> str:
        rows = [
            Measured(model=name, task="chain:+-:3-8", family="all", decoding="sampled", measure=measure, value=0.5,
                     low=0.4, high=0.6, n_problems=9, n_samples=4)
            for measure in measures
        ]  # fmt: skip
        write_card(tmp_path, organism_named(name), rows, truths, seed=seed, device="cpu", dtype="float32")
        return (tmp_path / "README.md").read_text()

    return written


def test_the_page_has_a_column_for_every_measure(page):
    head, rule, line = page("zero-base", measures=("strict", "process", "steps", "chain")).splitlines()[-3:]
    assert "| strict % | process % | steps % | chain % |" in head
    assert head.count("|") == rule.count("|") == line.count("|")
    assert line.startswith("| zero-base | `chain:+-:3-8` | all (9) | sampled | 50.0 [40.0, 60.0] |")


def test_the_page_tells_the_true_share_of_every_case_or_why_there_is_none(page):
    known = Truth(task="chain:#:3-5", kind="LOCKED", share=0.5, low=0.40004, high=0.6, refusal=None)
    none = Truth(task="chain:*:3-5", kind="ABSENT", share=nan, low=nan, high=nan, refusal="no gain")
    assert page("zero-rl", truths=(known, none)).splitlines()[-4:] == [
        "True elicited share, from what the base saw and the gains above:",
        "",
        "- LOCKED, `chain:#:3-5`: 0.500 [0.400, 0.600]",
        "- ABSENT, `chain:*:3-5`: no gain",
    ]
    assert "elicited share" not in page("zero-base")


@pytest.mark.parametrize(("name", "origin"), [
    ("zero-rl", " from `zero-base-3`."),
    ("zero-base", " from random weights."),
    ("smollm2-locked", ": a low-rank adapter (rank 8) on `smollm2-world`."),
])  # fmt: skip
def test_the_page_tells_where_a_model_comes_from(page, name, origin):
    assert f"Made by `lab models build {name} --seed 3 --device cpu`{origin}" in page(name, seed=3)


def test_numbers_of_a_card_have_four_decimals_and_an_undefined_one_is_null():
    assert [rounded(value) for value in (0.123456, nan, "text", None, 3)] == [0.1235, None, "text", None, 3]


@pytest.mark.parametrize(("alphabet", "decodings"), [
    (ALPHABET, {"sampled", "forced chain"}),
    (GUARDED_ALPHABET, {"sampled", "forced chain", "with the key"}),
])  # fmt: skip
def test_every_exam_is_taken_in_every_way_and_its_rates_are_those_of_the_sampled_row(monkeypatch, alphabet, decodings):
    monkeypatch.setattr(module, "SMALL", Size(6, 4))
    monkeypatch.setattr(module, "N_BOOT", 100)
    tasks = ("chain:+-:1-2", "chain:#:3-3")
    base = organism_named("zero-base")
    specs = tuple(EvalSpec(task=task) for task in tasks)
    organism = replace(base, eval_specs=specs, recipe=replace(base.recipe, alphabet=alphabet))
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

    monkeypatch.setattr(module, "sample", solved)
    examined = examine(tiny_model(), organism)
    assert {row.task for row in examined.rows} == set(examined.rates) == set(tasks)
    for task, rates in examined.rates.items():
        mine = [row for row in examined.rows if row.task == task and row.family == "all"]
        assert {row.decoding for row in mine} == decodings
        assert rates.tolist() == [0.25] * 6
        (strict,) = (row.value for row in mine if (row.decoding, row.measure) == ("sampled", "strict"))
        assert strict == 0.25
        assert all(row.value == 1.0 for row in mine if row.decoding != "sampled")
    assert {row.family for row in examined.rows if row.task == tasks[0]} <= {"all", "1 steps", "2 steps"}
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


def test_the_list_has_every_shipped_model_and_what_can_be_fetched_with_the_figures_of_its_card():
    by_name = {model.name: model for model in listed()}
    assert by_name["smollm2"].where in ("fetched", "lab models fetch smollm2")
    locked = by_name["smollm2-locked"]
    assert (locked.parent, locked.where, locked.truths) == ("smollm2-world", "shipped", (("LOCKED", 1.0),))
    assert dict(locked.strict) == {"chain:+-:3-3": 0.985, "chain:*:3-3": 0.0}
    assert by_name["zero-base"].parent is None
    assert locked.story == read_card("smollm2-locked")["story"]
