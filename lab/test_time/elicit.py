"""elicit: answers of a model under one way of decoding, with no tuned model and no weight changed."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import polars as pl

from lab.models.load import Model
from lab.records.errors import DecodingError
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.sampling.trace import Trace
from lab.tasks.problem import Problem
from lab.tasks.source import Task
from lab.test_time.choice import Cost, require_apart, tokens_written
from lab.test_time.cot_decoding import CotDecoding, cot_decoding
from lab.test_time.power_sampling import PowerSampling, power_sampling
from lab.test_time.prompts import BestPrompt, choose_prompt, sample_under
from lab.test_time.self_consistency import SelfConsistency, self_consistency
from lab.test_time.temperature import Temperature, choose_temperature, n_samples_at

Elicitation: TypeAlias = BestPrompt | Temperature | SelfConsistency | CotDecoding | PowerSampling
"""A rung of the ladder that nothing of the tuned model reaches: 0 bits."""


class Elicited(NamedTuple):
    """Answers, what they cost, and how they came to be."""

    traces: list[Trace]
    """As many of each problem, by problem in the order asked, then by sample."""
    cost: Cost
    candidates: pl.DataFrame | None
    """`lab.test_time.choice.CANDIDATES` where something was chosen."""


def elicit(
    model: Model,
    task: Task,
    problems: Sequence[Problem],
    method: Elicitation,
    decoding: Decoding,
    *,
    n_samples: int = 1,
    seed: int,
    batch_size: int = 256,
) -> Elicited:
    """`n_samples` answers of each problem; one, whatever `n_samples`, where nothing is random.

    Nothing is random in CoT-decoding and at temperature 0. `decoding` gives the limits, and for `BestPrompt` the
    temperature and top-p too; `Temperature` and `SelfConsistency` put their own temperature in its place, and the
    others say what they use of it. The random numbers are functions of (seed, problem id, sample index) and of the
    place in the method, so neither `batch_size` nor the other problems change an answer. Raises EstimateError where
    problems to choose on are among `problems`, or no candidate can be tried, and DecodingError as `sample` does.
    """
    if not problems or n_samples < 1 or batch_size < 1:
        raise DecodingError(
            f"{len(problems)} problems x {n_samples} answers in batches of {batch_size}: want at least one of each"
        )
    match method:
        case BestPrompt(forms=forms, fitting=fitting):
            require_apart(fitting, problems)
            prompt = choose_prompt(
                model,
                fitting.problems,
                task.verify,
                forms,
                n_samples_at(decoding.temperature, fitting.n_samples),
                decoding,
                seed=seed,
                batch_size=batch_size,
            )
            n_drawn = n_samples_at(decoding.temperature, n_samples)
            traces = sample_under(model, prompt.chosen, problems, n_drawn, decoding, seed=seed, batch_size=batch_size)
            cost = Cost(n_tokens=tokens_written(traces, problems), n_fit_tokens=prompt.n_tokens)
            return Elicited(traces, cost, prompt.table)
        case Temperature(temperatures=temperatures, fitting=fitting):
            require_apart(fitting, problems)
            choice = choose_temperature(
                model,
                fitting.problems,
                task.verify,
                temperatures,
                fitting.n_samples,
                decoding,
                seed=seed,
                batch_size=batch_size,
            )
            n_drawn, at_best = n_samples_at(choice.chosen, n_samples), replace(decoding, temperature=choice.chosen)
            traces = sample(model, problems, n_drawn, at_best, seed=seed, batch_size=batch_size)
            cost = Cost(n_tokens=tokens_written(traces, problems), n_fit_tokens=choice.n_tokens)
            return Elicited(traces, cost, choice.table)
        case SelfConsistency():
            traces, cost = self_consistency(
                model, task, problems, n_samples, method, decoding, seed=seed, batch_size=batch_size
            )
        case CotDecoding():
            traces, cost = cot_decoding(model, task, problems, method, decoding, batch_size=batch_size)
        case PowerSampling():
            traces, cost = power_sampling(
                model, problems, n_samples, method, decoding, seed=seed, batch_size=batch_size
            )
    return Elicited(traces, cost, None)
