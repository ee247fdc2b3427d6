"""Prompt forms, forced openings, and the choice of the best form."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import BuiltInModel
from lab.models.tiny import tiny_model
from lab.records.errors import EstimateError
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.tasks.chain import verify
from lab.tasks.math_answer import MATH
from lab.tasks.problem import Problem
from lab.tasks.source import Task, open_task, task_source
from lab.test_time.choice import (
    AS_IS,
    CHAIN_OPENING,
    TEXT_FORMS,
    BestPrompt,
    Fitting,
    PromptForm,
    chain_forms,
    put,
    sample_under,
)
from lab.test_time.method import Asked

PROBLEM = Problem(id="p", prompt="what is 2+3?", answer="5", family="all", source="test")
DECODING = Decoding(max_new_tokens=12)


@pytest.fixture(scope="module")
def organism() -> Model:
    return load(BuiltInModel(name="zero-base"), device=torch.device("cpu"), dtype=torch.float32)


def test_a_form_stands_around_the_prompt_and_leaves_the_problem_its_name():
    asked = put(PromptForm(name="both", prefix="Q: ", suffix="\nA:"), PROBLEM)
    assert (asked.prompt, asked.id, asked.answer) == ("Q: what is 2+3?\nA:", "p", "5")


def under(model, form, problems, n_samples, decoding, **options):
    task = Task(name="texts", problems=tuple(problems), judge=MATH)
    asked = Asked(model=model, task=task, problems=problems, decoding=decoding, **options)
    return sample_under(form, asked, problems, n_samples)


def test_as_is_is_plain_sampling():
    model = tiny_model(seed=5)
    assert under(model, AS_IS, [PROBLEM], 3, DECODING, seed=1) == sample(model, [PROBLEM], 3, DECODING, seed=1)


def test_a_forced_opening_belongs_to_the_completion_and_costs_no_chance():
    model, opening = tiny_model(seed=5), "So: "
    traces = under(model, PromptForm(name="o", opening=opening), [PROBLEM], 4, DECODING, seed=1)
    prompt = model.tokenizer(PROBLEM.prompt).input_ids
    assert len({trace.tokens for trace in traces}) == 4
    for trace in traces:
        assert trace.tokens[:4] == tuple(opening.encode())
        assert trace.text.startswith(opening)
        assert len(trace.tokens) <= DECODING.max_new_tokens
        with torch.no_grad():
            logits = model.network(torch.tensor([[*prompt, *trace.tokens]])).logits[0, len(prompt) - 1 : -1]
        wanted = logits.log_softmax(-1).gather(1, torch.tensor(trace.tokens)[:, None])[:, 0]
        assert trace.logprobs[:4] == (0.0,) * 4
        np.testing.assert_allclose(trace.logprobs[4:], wanted[4:].numpy(), atol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_opening_is_forced_at_any_temperature_and_in_any_batch(temperature):
    model, form = tiny_model(seed=5), PromptForm(name="o", opening="xy")
    problems = [replace(PROBLEM, id=f"p{n}", prompt="a" * (n + 1)) for n in range(5)]
    decoding = replace(DECODING, temperature=temperature)
    together = under(model, form, problems, 2, decoding, seed=1)
    apart = under(model, form, problems, 2, decoding, seed=1, batch_size=3)
    assert [trace.tokens for trace in apart] == [trace.tokens for trace in together]
    assert all(trace.text.startswith("xy") for trace in together)


def test_worked_examples_are_flawless_and_of_the_training_side():
    plain, one, two, opening = chain_forms()
    assert (plain, opening) == (AS_IS, CHAIN_OPENING)
    assert two.prefix.startswith(one.prefix)
    held_out = {problem.prompt for problem in open_task(task_source("chain:+-:3-3"), n_problems=300, seed=0).problems}
    documents = [f"<{document}" for document in two.prefix.split("<")[1:]]
    assert len(set(documents)) == 2
    for document in documents:
        prompt, completion = document[: document.index("?") + 1], document[document.index("?") + 1 :]
        answer = completion[-2]
        worked = Problem(id="x", prompt=prompt, answer=answer, family="", source="chain")
        assert verify(worked, completion).strict
        assert prompt not in held_out


def chosen(model, task, forms, n_samples, decoding):
    fitting = Fitting(problems=task.problems, n_samples=n_samples)
    asked = Asked(model=model, task=task, problems=task.problems, decoding=decoding, seed=0)
    return BestPrompt(forms=forms, fitting=fitting).choose(asked)


def test_the_opening_of_a_chain_is_the_best_prompt_of_an_organism_and_what_does_not_fit_is_left_out(organism):
    task = open_task(task_source("chain"), n_problems=12, seed=0, held_out=False)
    choice = chosen(organism, task, chain_forms((1, 2)), 4, Decoding())
    assert choice.chosen == CHAIN_OPENING
    table = choice.table
    assert table["candidate"].to_list() == ["as is", "worked examples: 1", "worked examples: 2", "opening T"]
    assert table["chosen"].to_list() == [False, False, False, True]
    assert "exceed the context of 160" in table["left_out"][2]
    assert table["left_out"].null_count() == 3
    assert np.isnan(table["strict"].to_numpy()).tolist() == [False, False, True, False]
    assert sum(table["n_tokens"]) > 0
    assert table["strict"][3] > table["high"][0]


def test_where_no_form_fits_the_message_says_why(organism):
    task = open_task(task_source("chain"), n_problems=2, seed=0, held_out=False)
    with pytest.raises(EstimateError, match=r"no candidate can be tried \(as is: prompt of .* exceed the context"):
        chosen(organism, task, (AS_IS,), 1, Decoding(max_new_tokens=160))


def test_forms_for_text_have_names_of_their_own_and_the_plain_one_is_first():
    assert TEXT_FORMS[0] == AS_IS
    assert len({form.name for form in TEXT_FORMS}) == len(TEXT_FORMS)
    assert len({put(form, PROBLEM).prompt + form.opening for form in TEXT_FORMS}) == len(TEXT_FORMS)
