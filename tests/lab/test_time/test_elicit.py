"""One verb for all ways of answering: what each gives, what it costs, and what is refused."""

from dataclasses import dataclass, replace

import pytest
import torch

from lab.models.load import Model, load
from lab.models.source import BuiltInModel
from lab.records.errors import DecodingError, EstimateError
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY, Decoding
from lab.tasks.source import open_task, task_source
from lab.test_time import elicit as methods
from lab.test_time.choice import AS_IS, CANDIDATES, CHAIN_OPENING, BestPrompt, Fitting, Temperature
from lab.test_time.elicit import CotDecoding, PowerSampling, SelfConsistency, elicit
from lab.test_time.method import Cost, Elicitation, Elicited, tokens_written

TASK = open_task(task_source("chain"), n_problems=5, seed=0)
FITTING = Fitting(problems=open_task(task_source("chain"), n_problems=5, seed=0, held_out=False).problems, n_samples=2)
METHODS = {
    "prompt": BestPrompt(forms=(AS_IS, CHAIN_OPENING), fitting=FITTING),
    "temperature": Temperature(temperatures=(1.0, 0.6), fitting=FITTING),
    "self-consistency": SelfConsistency(n_votes=3),
    "cot-decoding": CotDecoding(n_branches=4),
    "power sampling": PowerSampling(alpha=2.0, n_blocks=3, n_moves=2),
}
DECODING = Decoding()


@pytest.fixture(scope="module")
def model() -> Model:
    return load(BuiltInModel(name="zero-base"), device=torch.device("cpu"), dtype=torch.float32)


@pytest.mark.parametrize("name", METHODS)
def test_answers_are_reproducible_and_depend_neither_on_the_batch_nor_on_the_other_problems(model, name):
    method = METHODS[name]
    found = elicit(model, TASK, TASK.problems, method, DECODING, n_samples=2, seed=3)
    alone = elicit(model, TASK, TASK.problems[2:4], method, DECODING, n_samples=2, seed=3, batch_size=3)
    n_samples = 1 if name == "cot-decoding" else 2
    wanted = [(problem.id, index) for problem in TASK.problems for index in range(n_samples)]
    assert [(trace.problem_id, trace.sample_index) for trace in found.traces] == wanted
    assert [trace.tokens for trace in alone.traces] == [
        trace.tokens for trace in found.traces[2 * n_samples : 4 * n_samples]
    ]
    assert alone.cost.n_tokens == found.cost.n_tokens[2:4]


@pytest.mark.parametrize("name", METHODS)
def test_the_cost_is_at_least_the_tokens_that_are_handed_back(model, name):
    found = elicit(model, TASK, TASK.problems, METHODS[name], DECODING, n_samples=1, seed=3)
    for trace, n_tokens in zip(found.traces, found.cost.n_tokens, strict=True):
        kept_all = name in ("prompt", "temperature")
        assert n_tokens == len(trace.tokens) if kept_all else n_tokens >= len(trace.tokens)
    thrown_away = sum(found.cost.n_tokens) - sum(len(trace.tokens) for trace in found.traces)
    assert (thrown_away > 0) == (name not in ("prompt", "temperature"))
    assert (found.cost.n_fit_tokens > 0) == (found.candidates is not None) == (name in ("prompt", "temperature"))


def test_a_choice_is_applied_to_the_problems_and_its_table_comes_along(model):
    found = elicit(model, TASK, TASK.problems, METHODS["prompt"], DECODING, n_samples=2, seed=3)
    assert found.candidates is not None
    assert CANDIDATES.checked(found.candidates)["chosen"].to_list() == [False, True]
    assert all(trace.text.startswith("T") for trace in found.traces)
    found = elicit(model, TASK, TASK.problems, METHODS["temperature"], DECODING, n_samples=2, seed=3)
    assert found.candidates is not None
    best = found.candidates["candidate"].filter(found.candidates["chosen"]).item()
    decoding = replace(DECODING, temperature=float(best.removeprefix("temperature ")))
    assert found.traces == sample(model, TASK.problems, 2, decoding, seed=3)


def test_greedy_decoding_gives_one_answer_however_it_is_asked_for(model):
    greedy = Temperature(temperatures=(0.0,), fitting=FITTING)
    found = elicit(model, TASK, TASK.problems, greedy, DECODING, n_samples=4, seed=3)
    as_is = BestPrompt(forms=(AS_IS,), fitting=FITTING)
    asked = elicit(model, TASK, TASK.problems, as_is, GREEDY, n_samples=4, seed=3)
    assert found.traces == asked.traces == sample(model, TASK.problems, 1, GREEDY, seed=0)


@pytest.mark.parametrize("name", ["prompt", "temperature"])
def test_choosing_on_the_problems_that_are_measured_is_refused(model, name):
    method = replace(METHODS[name], fitting=Fitting(problems=TASK.problems[:1]))
    with pytest.raises(EstimateError, match="would be both chosen on and measured"):
        elicit(model, TASK, TASK.problems, method, DECODING, seed=0)


@pytest.mark.parametrize(("n_problems", "n_samples", "batch_size"), [(0, 1, 8), (1, 0, 8), (1, 1, 0)])
def test_an_empty_request_is_refused(model, n_problems, n_samples, batch_size):
    with pytest.raises(DecodingError, match="want at least one of each"):
        elicit(
            model,
            TASK,
            TASK.problems[:n_problems],
            CotDecoding(),
            DECODING,
            n_samples=n_samples,
            seed=0,
            batch_size=batch_size,
        )


@pytest.mark.parametrize("name", METHODS)
def test_a_prompt_beyond_the_context_is_refused(model, name):
    with pytest.raises(EstimateError if name == "prompt" else DecodingError, match="exceed the context of 160"):
        elicit(model, TASK, TASK.problems, METHODS[name], replace(DECODING, max_new_tokens=158), seed=0)


@dataclass(frozen=True)
class Shortest:
    """A method of one's own: the shortest of some samples."""

    n_tries: int = 3

    def answer(self, asked):
        tried = sample(asked.model, asked.problems, self.n_tries, asked.decoding, seed=asked.seed)
        groups = [tried[start : start + self.n_tries] for start in range(0, len(tried), self.n_tries)]
        kept = [replace(min(group, key=lambda trace: len(trace.tokens)), sample_index=0) for group in groups]
        return Elicited(kept, Cost(n_tokens=tokens_written(tried, asked.problems)))


def test_a_method_of_ones_own_is_a_value_or_one_entry(model, monkeypatch):
    monkeypatch.setitem(methods.METHODS, "shortest", lambda _: Shortest())
    fit = open_task(task_source("chain"), n_problems=2, seed=0, held_out=False)
    assert methods.METHODS["shortest"](fit) == Shortest()
    found = elicit(model, TASK, TASK.problems, Shortest(), DECODING, seed=3)
    tried = sample(model, TASK.problems, 3, DECODING, seed=3)
    shortest = [min(len(trace.tokens) for trace in tried[start : start + 3]) for start in range(0, 15, 3)]
    assert [len(trace.tokens) for trace in found.traces] == shortest


def test_every_listed_method_is_one_and_chooses_on_the_problems_it_is_given():
    fit = open_task(task_source("chain"), n_problems=2, seed=0, held_out=False)
    found = {name: method(fit) for name, method in methods.METHODS.items()}
    assert all(isinstance(method, Elicitation) for method in found.values())
    assert found["prompt"].fitting.problems == found["temperature"].fitting.problems == fit.problems
    assert found["power"] == PowerSampling()
