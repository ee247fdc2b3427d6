"""Contamination stage: can what a study measures be memory? Both models complete questions, and answer copies of them.

The completion of partly shown questions is that of "Reasoning or Memorization?" (Wu et al. 2025, arXiv 2507.10532):
shown the first 60 % of a question, without a chat template and decoded greedily, Qwen2.5-Math-7B writes the rest of
54.6 % of MATH-500 exactly, Llama-3.1-8B of 3.8 %, and either of 0 % of LiveMathBench 202505, which is newer than both.
Departures: a question is cut between two words; texts are compared word by word, without white space; what all
questions end with is left out; and each number has a control, the rests of the other questions. Their second measure,
answers to questions that are shown in part, is not here.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Float, Int

from elicitation.pages.study.contamination import CONTAMINATION
from elicitation.study.config import StudyContext, Tables
from elicitation.study.sampled import read_traces, trace_stage
from lab.metrics.bootstrap import Interval, difference_interval, interval_columns, mean_interval, resamples
from lab.models.prompt_format import Prompter, Raw
from lab.records.errors import TaskError
from lab.records.provenance import digest
from lab.records.seeds import numpy_generator
from lab.records.stage import Artefact
from lab.records.tables import read_table
from lab.sampling.sample import encode_prompt
from lab.sampling.trace import GREEDY, VERDICTS, verdict_table
from lab.scoring.evidence import Role
from lab.tasks.problem import Perturbed, Problem
from lab.tasks.source import Task

Rates = Float[np.ndarray, " problem"]
Weights = Int[np.ndarray, "boot problem"]
_WORD = re.compile(r"\w+|[^\w\s]")
LONGEST = 60
"""Words of a rest that are compared, at most."""
SLACK = 8
"""Tokens that are written beyond as many as the longest rest has."""
Copies = Sequence[tuple[Problem, Perturbed]]
"""Originals and their copies."""


class Shown(NamedTuple):
    """A question of which a part is shown."""

    problem: Problem
    """Its prompt is that part."""
    rest: tuple[str, ...]
    """The words behind it."""


def partly_shown(problems: Sequence[Problem], share: float) -> list[Shown]:
    """The first `share` of the characters of each question, up to the nearest end of a word, as a problem of its own.

    What all questions end with, such as how to answer, is no part of them. Where no word ends, a question is left out.
    """
    backwards = zip(*(problem.asked[::-1] for problem in problems), strict=False)
    shared = takewhile(lambda letters: len({*letters}) == 1, backwards if len(problems) > 1 else ())
    ending = "".join(letter for letter, *_ in shared)[::-1]
    # Up to white space, so that no word is cut.
    ending = ending[first.start() :] if (first := re.search(r"\s|\W*$", ending)) else ""
    found = []
    for problem in problems:
        text = problem.asked.removesuffix(ending)
        ends = [space.start() for space in re.finditer(r"(?<=\S)\s+(?=\S)", text)]
        if ends := ends or [word.end() for word in _WORD.finditer(text)][:-1]:
            cut = min(ends, key=lambda end: abs(end - share * len(text)))
            part = replace(problem, id=f"{problem.id}/shown", prompt=text[:cut], question=None)
            found.append(Shown(part, words(text[cut:])[:LONGEST]))
    return found


def words(text: str) -> tuple[str, ...]:
    """Words and signs, without white space."""
    return tuple(_WORD.findall(text))


def common_words(written: Sequence[str], rest: Sequence[str]) -> float:
    """Share of `rest` in the longest common subsequence with as many words of `written`; 1 only where they are equal.

    ROUGE-L (Lin 2004, "ROUGE: A package for automatic evaluation of summaries", section 3), whose recall and precision
    are one where both texts have as many words. The length is counted in the bits of one number (Hyyro 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(rest):
        places[word] = places.get(word, 0) | 1 << place
    row = full = (1 << len(rest)) - 1
    for word in written[: len(rest)]:
        hit = row & places.get(word, 0)
        row = (row + hit) | (row - hit)
    return (len(rest) - (row & full).bit_count()) / len(rest)


def perturbed_copies(task: Task, n_problems: int, seed: int) -> Copies:
    """Those of the first problems of which a rule makes a copy, with it."""
    if (perturb := task.judge.perturb) is None:
        return []
    drawn = ((one, perturb(one, numpy_generator(seed, "copy", one.id))) for one in task.problems[:n_problems])
    return [(problem, copy) for problem, copy in drawn if copy is not None]


def is_later(dated: str | None, cutoff: str) -> bool | None:
    """Whether a problem is of that day or later; None where that cannot be told, as of `2024` and a day in that year.

    >>> is_later("2024-07", "2024-06-01"), is_later("2023", "2024-06-01"), is_later("2024", "2024-06-01")
    (True, False, None)
    """
    unknown = dated is None or (cutoff != dated and cutoff.startswith(dated))
    return None if dated is None or unknown else dated >= cutoff


def require_checks(context: StudyContext) -> None:
    """TaskError where the study names a date that does not part the problems; DecodingError for copies too long."""
    asked, task = context.study.contamination, context.task
    if asked.cutoff is not None:
        known = [problem.dated for problem in task.problems if problem.dated is not None]
        if not {True, False} <= {is_later(dated, asked.cutoff) for dated in known}:
            there = f"their dates are {min(known)} to {max(known)}" if known else "none of them has a date"
            raise TaskError(
                f"cutoff {asked.cutoff}: want problems of {task.name} on both sides of it, {there}; rows have it as "
                "date, release_date, contest_date or year"
            )
    for _, copy in perturbed_copies(task, asked.n_problems, context.study.seed):
        for model in (context.base, context.pair.tuned):
            encode_prompt(model, copy.problem, context.study.decoding)


def contamination_stage(context: StudyContext, tables: Artefact) -> Artefact:
    """`contamination/`: `CONTAMINATION` of both models; `tables` has the verdicts on the originals."""
    study, asked, problems = context.study, context.study.contamination, context.task.problems
    shown = partly_shown(problems[: asked.n_problems], asked.shown)
    copies = perturbed_copies(context.task, asked.n_problems, study.seed)
    models = {Role.BASE: context.base, Role.TUNED: context.pair.tuned}
    stages: dict[str, Artefact] = {}
    for role, model in models.items():
        rests = [len(model.tokenizer(" ".join(part.rest)).input_ids) for part in shown]
        greedy = replace(GREEDY, max_new_tokens=max(rests, default=0) + SLACK)
        plain = replace(model, prompter=Prompter(format=Raw(), tokenizer=model.tokenizer))
        for name, asked_model, of, n_samples, decoding in (
            (f"shown-{role}", plain, tuple(part.problem for part in shown), 1, greedy),
            (f"copies-{role}", model, tuple(copy.problem for _, copy in copies), study.n_samples, study.decoding),
        ):
            parents = {"problems": digest(of), "model": model.digest}
            if of:
                stages[name] = trace_stage(context, name, asked_model, of, n_samples, parents, decoding)

    def compute() -> Tables:
        verdicts = read_table(tables.path / "verdicts.parquet", VERDICTS)
        rows: list[dict[str, object]] = []
        for role, model in models.items():
            solved = strict_rates(verdicts.filter(arm=role))
            named: dict[str, object] = {"role": str(role), "model": model.name}
            if len(shown) > 1:
                rows += [named | row for row in completion_rows(context, shown, read_traces(stages[f"shown-{role}"]))]
            if copies:
                rows += [
                    named | row for row in copy_rows(context, copies, read_traces(stages[f"copies-{role}"]), solved)
                ]
            if asked.cutoff is not None:
                rows.append(named | date_row(context, asked.cutoff, solved))
        return {"contamination": (CONTAMINATION, CONTAMINATION.frame(rows))}

    parents = {"tables": tables.digest, "problems": digest(problems)}
    return context.tables(
        "contamination", asked, parents | {name: stage.digest for name, stage in stages.items()}, compute
    )


def strict_rates(verdicts: pl.DataFrame) -> dict[str, float]:
    """Problem -> share of its completions that are right by a valid process."""
    return dict(verdicts.group_by("problem_id").agg(pl.col("strict").mean()).iter_rows())


def completion_rows(context: StudyContext, shown: Sequence[Shown], traces: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Both measures of one model's completions; the control is the mean over the other rests, taken as it is."""
    written = dict(traces.select("problem_id", "text").iter_rows())
    texts = [words(written[part.problem.id]) for part in shown]
    matches = np.array([[common_words(text, part.rest) for part in shown] for text in texts])
    for check, found in {"exact": (matches == 1).astype(np.float64), "overlap": matches}.items():
        own = np.diagonal(found).copy()
        setting = {"check": check, "setting": f"first {100 * context.study.contamination.shown:g} %"}
        yield setting | paired(context, own, (found.sum(axis=1) - own) / (len(shown) - 1))


def copy_rows(
    context: StudyContext, copies: Copies, traces: pl.DataFrame, solved: Mapping[str, float]
) -> Iterator[dict[str, object]]:
    """Accuracy on the copies of each kind beside that on their originals, for one model."""
    on_copies = strict_rates(verdict_table(traces, [copy.problem for _, copy in copies], context.task.verify))
    for kind in ("numbers", "wording"):
        rates = [(on_copies[copy.problem.id], solved[one.id]) for one, copy in copies if copy.kind == kind]
        if len(rates) > 1:
            setting = {"check": kind, "setting": f"{context.study.n_samples} samples each"}
            yield setting | paired(context, *np.array(rates).T)


def resampled(context: StudyContext, rates: Rates, name: str = "") -> tuple[Interval, Weights]:
    """The mean of some rates, and the resamples behind its interval."""
    generator = numpy_generator(context.study.seed, "bootstrap of checks", name)
    weights = resamples(len(rates), context.study.n_boot, generator)
    return mean_interval(rates, weights), weights


def paired(context: StudyContext, found: Rates, control: Rates) -> dict[str, object]:
    """The numbers of a row whose control is of the same problems."""
    (value, weights), (beside, _) = resampled(context, found), resampled(context, control)
    counts = {"n_problems": len(found), "n_control": len(control)}
    return counts | columns(value, beside, difference_interval(found, control, weights))


def date_row(context: StudyContext, cutoff: str, solved: Mapping[str, float]) -> dict[str, object]:
    """Accuracy of one model on problems of a date and later, beside that on earlier ones: two sets of problems."""
    sides = [(is_later(problem.dated, cutoff), solved[problem.id]) for problem in context.task.problems]
    rates = {side: np.array([rate for later, rate in sides if later is side]) for side in (True, False)}
    after, before = (resampled(context, rates[side], str(side))[0] for side in (True, False))
    found = {"check": "dates", "setting": f"from {cutoff}", "n_problems": len(rates[True])}
    return found | {"n_control": len(rates[False])} | columns(after, before, apart(after, before))


def apart(one: Interval, other: Interval) -> Interval:
    """`one` minus `other`, of different problems: their intervals joined (Newcombe 1998, Stat. Med. 17:873)."""
    value = one.value - other.value
    low = value - math.hypot(one.value - one.low, other.high - other.value)
    high = value + math.hypot(one.high - one.value, other.value - other.low)
    return Interval(value=value, low=low, high=high, stderr=math.hypot(one.stderr, other.stderr))


def columns(value: Interval, control: Interval, difference: Interval) -> dict[str, object]:
    """The numbers of a row of `CONTAMINATION`."""
    beside = interval_columns(control, "control", "control_")
    return interval_columns(value) | beside | interval_columns(difference, "difference", "difference_")
