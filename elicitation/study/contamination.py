"""Contamination stage: can what a study measures be memory? Both models complete questions, and answer copies of them.

The completion of partly shown questions is that of "Reasoning or Memorization?" (Wu et al. 2025, arXiv 2507.10532):
shown the first 60 % of a question, without a chat template and decoded greedily, Qwen2.5-Math-7B writes the rest of
54.6 % of MATH-500 exactly, Llama-3.1-8B of 3.8 %, and either of 0 % of LiveMathBench 202505, which is newer than both.
Departures: a question is cut between two words; texts are compared word by word, without white space; what all
questions end with is left out; and each number has a control, the rests of the other questions. Their second measure,
answers to questions that are shown in part, is not here.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int

from elicitation.pages.study.contamination import CONTAMINATION
from elicitation.study.config import StudyContext, Tables
from elicitation.study.sampled import read_traces, trace_stage
from lab.metrics.bootstrap import (
    Interval,
    difference_interval,
    interval_columns,
    mean_interval,
    percentile_interval,
    resampled_means,
    resamples,
)
from lab.models.load import Model
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
_WORD = re.compile(r"\w+|[^\w\s]")
LONGEST = 60
"""Words of a rest that are compared, at most."""
SLACK = 8
"""Tokens that are written beyond as many as the longest rest has."""


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
        ends = ends or [word.end() for word in _WORD.finditer(text)][:-1]
        if ends:
            cut = min(ends, key=lambda end: abs(end - share * len(text)))
            part = replace(problem, id=f"{problem.id}/shown", prompt=text[:cut], question=None)
            found.append(Shown(part, words(text[cut:])[:LONGEST]))
    return found


def words(text: str) -> tuple[str, ...]:
    """Words and signs, without white space."""
    return tuple(_WORD.findall(text))


def same_words(written: Sequence[str], rest: Sequence[str]) -> float:
    """1 where `written` begins with `rest`, else 0."""
    return float(tuple(written[: len(rest)]) == tuple(rest))


def common_words(written: Sequence[str], rest: Sequence[str]) -> float:
    """Share of `rest` in the longest common subsequence with as many words of `written`: ROUGE-L of the two.

    Lin 2004, "ROUGE: A package for automatic evaluation of summaries", section 3; recall and precision are one where
    both texts have as many words. The length is counted in the bits of one number (Hyyro 2004).
    """
    places: dict[str, int] = {}
    for place, word in enumerate(rest):
        places[word] = places.get(word, 0) | 1 << place
    full = (1 << len(rest)) - 1
    row = full
    for word in written[: len(rest)]:
        hit = row & places.get(word, 0)
        row = (row + hit) | (row - hit)
    return (len(rest) - (row & full).bit_count()) / len(rest)


def against_all(
    texts: Sequence[Sequence[str]],
    rests: Sequence[Sequence[str]],
    match: Callable[[Sequence[str], Sequence[str]], float],
) -> tuple[Rates, Rates]:
    """How far each text matches its own rest, and, on average, the rests of the others; NaN where there are none."""
    matches = np.array([[match(text, rest) for rest in rests] for text in texts])
    own = np.diagonal(matches)
    return own.copy(), (matches.sum(axis=1) - own) / (len(rests) - 1) if len(rests) > 1 else np.full(len(rests), np.nan)


def perturbed_copies(task: Task, n_problems: int, seed: int) -> list[tuple[Problem, Perturbed]]:
    """(original, copy) of those of the first problems of which a rule makes a copy."""
    perturb = task.judge.perturb
    if perturb is None:
        return []
    drawn = ((one, perturb(one, numpy_generator(seed, "copy", one.id))) for one in task.problems[:n_problems])
    return [(problem, copy) for problem, copy in drawn if copy is not None]


def is_later(dated: str | None, cutoff: str) -> bool | None:
    """Whether a problem is of that day or later; None where that cannot be told, as of `2024` and a day in that year.

    >>> is_later("2024-07", "2024-06-01"), is_later("2023", "2024-06-01"), is_later("2024", "2024-06-01")
    (True, False, None)
    """
    if dated is None or (cutoff != dated and cutoff.startswith(dated)):
        return None
    return dated >= cutoff


def require_checks(context: StudyContext) -> None:
    """TaskError where the study names a date that does not part the problems; DecodingError for copies too long."""
    asked, task = context.study.contamination, context.task
    if asked.cutoff is not None:
        known = [problem.dated for problem in task.problems if problem.dated is not None]
        sides = [is_later(dated, asked.cutoff) for dated in known]
        if not (True in sides and False in sides):
            there = f"their dates are {min(known)} to {max(known)}" if known else "none of them has a date"
            raise TaskError(
                f"cutoff {asked.cutoff}: want problems of {task.name} on both sides of it, {there}; rows have it as "
                "date, release_date, contest_date or year"
            )
    for _, copy in perturbed_copies(task, asked.n_problems, context.study.seed):
        for model in (context.base, context.pair.tuned):
            encode_prompt(model, copy.problem.prompt, context.study.decoding)


def contamination_stage(context: StudyContext, tables: Artefact) -> Artefact:
    """`contamination/`: `CONTAMINATION` of both models; `tables` has the verdicts on the originals."""
    study, asked, problems = context.study, context.study.contamination, context.task.problems
    models = {Role.BASE: context.base, Role.TUNED: context.pair.tuned}
    shown = partly_shown(problems[: asked.n_problems], asked.shown)
    copies = perturbed_copies(context.task, asked.n_problems, study.seed)
    completed = {role: shown_traces(context, model, role, shown) for role, model in models.items() if shown}
    answered = {role: copy_traces(context, model, role, copies) for role, model in models.items() if copies}
    parents = {"tables": tables.digest, "problems": digest(problems)}
    parents |= {f"shown-{role}": stage.digest for role, stage in completed.items()}
    parents |= {f"copies-{role}": stage.digest for role, stage in answered.items()}

    def compute() -> Tables:
        verdicts = read_table(tables.path / "verdicts.parquet", VERDICTS)
        rows: list[dict[str, object]] = []
        for role, model in models.items():
            solved = strict_rates(verdicts.filter(arm=role))
            named: dict[str, object] = {"role": str(role), "model": model.name}
            if shown:
                rows += [named | row for row in completion_rows(context, shown, read_traces(completed[role]))]
            if copies:
                rows += [named | row for row in copy_rows(context, copies, read_traces(answered[role]), solved)]
            if asked.cutoff is not None:
                rows.append(named | date_row(context, asked.cutoff, solved))
        return {"contamination": (CONTAMINATION, CONTAMINATION.frame(rows))}

    return context.tables("contamination", asked, parents, compute)


def shown_traces(context: StudyContext, model: Model, role: Role, shown: Sequence[Shown]) -> Artefact:
    """`traces/shown-<role>/`: what a model writes behind the parts, greedily and without any format."""
    problems = tuple(part.problem for part in shown)
    lengths = [len(model.tokenizer(" ".join(part.rest)).input_ids) for part in shown]
    decoding = replace(GREEDY, max_new_tokens=max(lengths) + SLACK)
    parents = {"problems": digest(problems), "model": model.digest}
    return trace_stage(context, f"shown-{role}", model, problems, 1, parents, decoding)


def copy_traces(
    context: StudyContext, model: Model, role: Role, copies: Sequence[tuple[Problem, Perturbed]]
) -> Artefact:
    """`traces/copies-<role>/`: a model's answers to the copies, as to held-out problems."""
    problems, study = tuple(copy.problem for _, copy in copies), context.study
    parents = {"problems": digest(problems), "model": model.digest}
    return trace_stage(context, f"copies-{role}", model, problems, study.n_samples, parents, study.decoding)


def strict_rates(verdicts: pl.DataFrame) -> dict[str, float]:
    """Problem -> share of its completions that are right by a valid process."""
    return dict(verdicts.group_by("problem_id").agg(pl.col("strict").mean()).iter_rows())


def completion_rows(context: StudyContext, shown: Sequence[Shown], traces: pl.DataFrame) -> Iterator[dict[str, object]]:
    """Both measures of the completions of one model; the control is an average over the others, taken as it is."""
    written = dict(traces.select("problem_id", "text").iter_rows())
    texts, rests = [words(written[part.problem.id]) for part in shown], [part.rest for part in shown]
    setting = f"first {100 * context.study.contamination.shown:g} %"
    for check, match in {"exact": same_words, "overlap": common_words}.items():
        own, others = against_all(texts, rests, match)
        if len(rests) > 1:
            yield {"check": check, "setting": setting} | paired(context, own, others)


def copy_rows(
    context: StudyContext, copies: Sequence[tuple[Problem, Perturbed]], traces: pl.DataFrame, solved: dict[str, float]
) -> Iterator[dict[str, object]]:
    """Accuracy on the copies of each kind beside that on their originals, for one model."""
    verdicts = verdict_table(traces, [copy.problem for _, copy in copies], context.task.verify)
    on_copies = strict_rates(verdicts)
    for kind in ("numbers", "wording"):
        of_kind = [(problem.id, copy.problem.id) for problem, copy in copies if copy.kind == kind]
        if len(of_kind) > 1:
            own = np.array([on_copies[copy] for _, copy in of_kind])
            originals = np.array([solved[problem] for problem, _ in of_kind])
            yield {"check": kind, "setting": f"{context.study.n_samples} samples each"} | paired(
                context, own, originals
            )


def paired(context: StudyContext, found: Rates, control: Rates) -> dict[str, object]:
    """The numbers of a row whose control is of the same problems."""
    weights = resamples(len(found), context.study.n_boot, numpy_generator(context.study.seed, "bootstrap"))
    return columns(
        len(found),
        mean_interval(found, weights),
        len(control),
        mean_interval(control, weights),
        difference_interval(found, control, weights),
    )


def date_row(context: StudyContext, cutoff: str, solved: dict[str, float]) -> dict[str, object]:
    """Accuracy of one model on problems of a date and later, beside that on earlier ones: two sets of problems."""
    sides = [(is_later(problem.dated, cutoff), solved[problem.id]) for problem in context.task.problems]
    known = [(later, rate) for later, rate in sides if later is not None]
    later, rates = np.array([side for side, _ in known]), np.array([rate for _, rate in known])
    weights = resamples(len(known), context.study.n_boot, numpy_generator(context.study.seed, "bootstrap"))
    after, before = (mean_interval(rates[side], weights[:, side]) for side in (later, ~later))
    apart = unpaired(rates, later, weights)
    return {"check": "dates", "setting": f"from {cutoff}"} | columns(
        int(later.sum()), after, int((~later).sum()), before, apart
    )


def unpaired(rates: Rates, first: Bool[np.ndarray, " problem"], weights: Int[np.ndarray, "boot problem"]) -> Interval:
    """Mean over the problems that are `first` minus that over the others."""
    means = [(float(rates[side].mean()), resampled_means(rates[side], weights[:, side])) for side in (first, ~first)]
    (one, drawn_one), (other, drawn_other) = means
    fewer = int(min(first.sum(), (~first).sum()))
    return percentile_interval(one - other, drawn_one - drawn_other, fewer, bounds=(-1.0, 1.0))


def columns(n_problems: int, value: Interval, n_control: int, control: Interval, apart: Interval) -> dict[str, object]:
    """The numbers of a row of `CONTAMINATION`."""
    found = interval_columns(value) | interval_columns(control, "control", "control_")
    found |= interval_columns(apart, "difference", "difference_")
    return found | {"n_problems": n_problems, "n_control": n_control}
