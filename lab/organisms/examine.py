"""examine: what an organism can do, measured, and the share of its gain that its construction says was elicited."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, assert_never

import numpy as np
from jaxtyping import Float

from lab.metrics.accuracy import elicited_share
from lab.metrics.bootstrap import Interval, mean_interval, percentile_interval, resampled_means, resamples
from lab.models.load import Model
from lab.organisms.recipe import Case, EvalSpec, FromScratch, LowRank, Organism, Tuned
from lab.records.seeds import numpy_generator
from lab.sampling.sample import sample
from lab.sampling.trace import GREEDY
from lab.tasks.chain import KEY, as_expression, parse, steps_fault, verify, with_key
from lab.tasks.chain_task import ChainMix, ChainPart, ChainTask
from lab.tasks.problem import Problem
from lab.tasks.source import open_task, task_source

N_BOOT, EVALUATION_SEED = 2000, 20_261_123

Rates = Mapping[str, Float[np.ndarray, " problem"]]
"""Task of a card -> strict accuracy on each of its problems, sampled at temperature 1."""


class Size(NamedTuple):
    """How much a card's figures are measured on."""

    n_problems: int
    n_samples: int
    """Of each problem, at temperature 1; where decoding is greedy there is one."""


SMALL, LARGE = Size(500, 4), Size(200, 8)
"""For models of the chain world alone, and for adapters of a pretrained one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One figure of a card, in [0, 1], with its 95 % interval over problems."""

    model: str
    """The organism or, for an adapter, the model below it."""
    task: str
    """As a user would type it."""
    family: str
    """Of its problems, or "all"."""
    decoding: str
    """One of four: "sampled" (temperature 1), "greedy", "forced chain" (greedy, `T` written for it), "with the key"
    (greedy)."""
    measure: str
    """One of six.

    "strict" (a correct answer, by a valid process where the task has one), "answer" (correct), "pass@8" (strict) and,
    of the chain world, "process" (valid steps that also end in the stated answer), "steps" (all written, copied and
    true, whatever the answer says) and "chain" (any step was written).
    """
    value: float
    low: float
    high: float
    n_problems: int
    n_samples: int


class Examined(NamedTuple):
    """What the tasks of a card gave for one model."""

    rows: tuple[Measured, ...]
    rates: Rates


def examine(model: Model, organism: Organism) -> Examined:
    """What `model`, the organism or its parent, does on held-out problems of every task of the organism's card."""
    rows: list[Measured] = []
    rates: dict[str, Float[np.ndarray, " problem"]] = {}
    for eval_spec in organism.eval_specs:
        match organism.recipe:
            case FromScratch(alphabet=alphabet) | Tuned(alphabet=alphabet):
                rates[eval_spec.task] = _chains(model, eval_spec, rows, has_key=KEY in alphabet)
            case LowRank():
                rates[eval_spec.task] = _answers(model, eval_spec, rows)
            case never:
                assert_never(never)
    return Examined(tuple(rows), rates)


def _chains(model: Model, eval_spec: EvalSpec, rows: list[Measured], *, has_key: bool) -> Float[np.ndarray, " problem"]:
    """Adds what the model writes freely, forced into a chain and with the key; returns its strict rates, sampled."""
    task = task_source(eval_spec.task)
    assert isinstance(task, ChainTask), "small models know chains only"
    problems = task.problems(SMALL.n_problems, numpy_generator(EVALUATION_SEED, "card", task.operators))
    sampled = sample(model, problems, SMALL.n_samples, eval_spec.decoding, seed=EVALUATION_SEED)
    chains = [replace(problem, prompt=problem.prompt + "T") for problem in problems]
    forced = sample(model, chains, 1, GREEDY, seed=EVALUATION_SEED)
    free = chain_measures(problems, [trace.text for trace in sampled])
    judged = {"sampled": free, "forced chain": chain_measures(problems, ["T" + trace.text for trace in forced])}
    if has_key:
        keyed = sample(model, [with_key(problem) for problem in problems], 1, GREEDY, seed=EVALUATION_SEED)
        judged["with the key"] = chain_measures(problems, [trace.text for trace in keyed])
    for decoding, measures in judged.items():
        families = sorted({problem.family for problem in problems}) if decoding == "sampled" else []
        for family in ["all", *families]:
            inside = np.array([family in ("all", problem.family) for problem in problems])
            weights = resamples(int(inside.sum()), N_BOOT, numpy_generator(EVALUATION_SEED, "bootstrap", family))
            for measure, values in measures.items():
                interval = mean_interval(values.mean(axis=1)[inside], weights)
                shape = Size(int(inside.sum()), values.shape[1])
                rows.append(measured(model, eval_spec, family, decoding, measure, interval, shape))
    return free["strict"].mean(axis=1)


def chain_measures(problems: Sequence[Problem], texts: Sequence[str]) -> dict[str, Float[np.ndarray, "problem sample"]]:
    """Name of a measure -> its value on each completion; `texts` are by problem, as many of each."""
    owners = [problem for problem in problems for _ in range(len(texts) // len(problems))]
    verdicts = [verify(problem, text) for problem, text in zip(owners, texts, strict=True)]
    transcripts = [parse(text) for text in texts]
    steps = [
        steps_fault(as_expression(problem), transcript) is None
        for problem, transcript in zip(owners, transcripts, strict=True)
    ]
    values = {
        "strict": [verdict.strict for verdict in verdicts],
        "answer": [verdict.answer_correct for verdict in verdicts],
        "process": [verdict.process_valid is True for verdict in verdicts],
        "steps": steps,
        "chain": [bool(transcript.steps) for transcript in transcripts],
    }
    return {name: np.array(value, dtype=float).reshape(len(problems), -1) for name, value in values.items()}


def _answers(model: Model, eval_spec: EvalSpec, rows: list[Measured]) -> Float[np.ndarray, " problem"]:
    """Adds what the model answers, sampled and greedily; returns its strict rates, sampled."""
    task = open_task(task_source(eval_spec.task), n_problems=LARGE.n_problems, seed=EVALUATION_SEED)
    weights = resamples(LARGE.n_problems, N_BOOT, numpy_generator(EVALUATION_SEED, "card", eval_spec.task))

    def verdicts(size: Size, temperature: float) -> Float[np.ndarray, "problem sample 2"]:
        decoding = replace(eval_spec.decoding, temperature=temperature)
        traces = sample(model, task.problems, size.n_samples, decoding, seed=EVALUATION_SEED)
        found = [task.verify(task.problems[index // size.n_samples], trace.text) for index, trace in enumerate(traces)]
        both = [(verdict.strict, verdict.answer_correct) for verdict in found]
        return np.array(both, dtype=float).reshape(*size, 2)

    once = LARGE._replace(n_samples=1)
    sampled, greedy = verdicts(LARGE, 1.0), verdicts(once, 0.0)
    rates = sampled[:, :, 0].mean(axis=1)
    for decoding, measure, values, size in (
        ("sampled", "strict", rates, LARGE),
        ("sampled", "answer", sampled[:, :, 1].mean(axis=1), LARGE),
        ("greedy", "strict", greedy[:, 0, 0], once),
        ("sampled", f"pass@{LARGE.n_samples}", sampled[:, :, 0].max(axis=1), LARGE),
    ):
        rows.append(measured(model, eval_spec, "all", decoding, measure, mean_interval(values, weights), size))
    return rates


def measured(
    model: Model, eval_spec: EvalSpec, family: str, decoding: str, measure: str, interval: Interval, size: Size
) -> Measured:
    """A row of the card, rounded to four decimals."""
    return Measured(
        model=model.name,
        task=eval_spec.task,
        family=family,
        decoding=decoding,
        measure=measure,
        value=round(interval.value, 4),
        low=round(interval.low, 4),
        high=round(interval.high, 4),
        n_problems=size.n_problems,
        n_samples=size.n_samples,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Truth:
    """The true elicited share of one case, with the interval that its measured gains leave."""

    task: str
    """As a user would type it."""
    kind: str
    share: float = np.nan
    """NaN where refused."""
    low: float = np.nan
    high: float = np.nan
    refusal: str | None = None
    """Why there is no true share: tuning brought no gain to share out."""


def truth(case: Case, base: Rates, tuned: Rates, *, seed: int) -> Truth:
    """sum of w_f G_f over the elicited skills / sum of w_f G_f over all: w_f the share of problems about skill f.

    G_f is the mean strict gain on skill f's exam, tuned minus base, paired by problem. Which skills are elicited is the
    construction's: those that the base saw worked. The interval resamples the exams of all skills independently; for a
    task of one skill the share is exactly 0 or 1. Refused, like any share, where the gain is under five standard
    errors: then tuning did nothing whose origin could be asked for.
    """
    parts = [(part.task.typed, part) for part in case_parts(case)]
    told = Truth(task=case.task, kind=case.kind)
    gains = []
    for task, part in parts:
        weights = resamples(len(base[task]), N_BOOT, numpy_generator(seed, "truth", part.task.operators))
        gain = tuned[task] - base[task]
        if refusal := elicited_share(base[task], base[task], tuned[task], weights).refusal:
            return replace(told, refusal=refusal)
        if gain.mean() < 0:
            lost = f"tuning lost {-100 * gain.mean():.1f} points on {task}: there is no gain to share out"
            return replace(told, refusal=lost)
        gains.append(part.percent / 100 * np.concatenate([[gain.mean()], resampled_means(gain, weights)]))
    elicited = [part.task.operators in case.elicited for _, part in parts]
    if all(elicited) or not any(elicited):
        share = float(all(elicited))
        return replace(told, share=share, low=share, high=share)
    shares = np.sum([gain for gain, mine in zip(gains, elicited, strict=True) if mine], axis=0) / np.sum(gains, axis=0)
    interval = percentile_interval(float(shares[0]), shares[1:], min(len(base[task]) for task, _ in parts))
    return replace(told, share=interval.value, low=interval.low, high=interval.high)


def case_parts(case: Case) -> tuple[ChainPart, ...]:
    """The single-skill tasks of a case, each with its percentage."""
    match task_source(case.task):
        case ChainMix(parts=parts):
            return parts
        case ChainTask() as task:
            return (ChainPart(100.0, task),)
        case other:
            raise AssertionError(f"truths are known of chains only, not of {other}")
