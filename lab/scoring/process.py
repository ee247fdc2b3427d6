"""process: whether a model's answer hangs on the steps that the tuned model wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import polars as pl

from lab.models.load import Model
from lab.sampling.decoding import Decoding
from lab.sampling.sample import sample
from lab.scoring.evidence import PROCESS
from lab.scoring.scores import Row, answer_scores
from lab.tasks.problem import Cut, Problem, StepGrammar
from lab.tasks.source import Task


def process(
    readers: Mapping[str, Model], task: Task, traces: pl.DataFrame, decoding: Decoding, *, batch_size: int
) -> pl.DataFrame:
    """`PROCESS` rows: for each problem the first of `traces` whose steps are all true, cut after each of its steps.

    Each reader is asked for the answer after every cut (log-probability of the gold one, and whether greedy decoding
    gives it), and goes on greedily from every cut whose last step was falsified. No rows where the task has no step
    grammar, or no trace has true steps.
    """
    if task.steps is None:
        return PROCESS.frame([])
    chosen = list(first_cuts(task.steps, task.problems, traces))
    frames = [
        reader_rows(name, model, task, task.steps, chosen, decoding, batch_size) for name, model in readers.items()
    ]
    return PROCESS.frame([row for rows in frames for row in rows])


class Worked(NamedTuple):
    """A worked answer that a grammar could cut."""

    problem: Problem
    sample_index: int
    cuts: tuple[Cut, ...]


def first_cuts(grammar: StepGrammar, problems: Sequence[Problem], traces: pl.DataFrame) -> Sequence[Worked]:
    """The first sample of each problem that the grammar can cut."""
    texts: dict[str, list[tuple[int, str]]] = {}
    for problem_id, sample_index, text in traces.select("problem_id", "sample_index", "text").iter_rows():
        texts.setdefault(problem_id, []).append((sample_index, text))
    found = []
    for problem in problems:
        for sample_index, text in sorted(texts.get(problem.id, [])):
            if cuts := grammar.cuts(problem, text):
                found.append(Worked(problem, sample_index, cuts))
                break
    return found


def reader_rows(
    reader: str,
    model: Model,
    task: Task,
    grammar: StepGrammar,
    worked: Sequence[Worked],
    decoding: Decoding,
    batch_size: int,
) -> list[dict[str, object]]:
    """One row for each cut, in order."""
    flat = [(problem, sample, step, cuts) for problem, sample, cuts in worked for step in range(len(cuts))]

    def tokens(text: str) -> list[int]:
        # What follows a prompt has no opening token of its own.
        return model.tokenizer(text, add_special_tokens=False).input_ids

    asked = [
        Row(model.tokenizer(problem.prompt + cuts[step].text + grammar.ask).input_ids, tokens(problem.answer))
        for problem, _, step, cuts in flat
    ]
    logps, early = answer_scores(model, asked)
    falsified = {
        (problem.id, step): grammar.falsify(problem, cuts[step]) for problem, _, step, cuts in flat if step > 0
    }
    answers: dict[tuple[str, int], str | None] = {}
    for step in sorted({step for _, step in falsified}):
        going_on = [
            replace(problem, prompt=problem.prompt + falsified[problem.id, step].text)
            for problem, _, _ in worked
            if (problem.id, step) in falsified
        ]
        # A falsified text and what follows may be as long as a completion, and no longer.
        n_read = max(len(tokens(falsified[problem.id, step].text)) for problem in going_on)
        rest = replace(decoding, temperature=0.0, max_new_tokens=max(1, decoding.max_new_tokens - n_read))
        for trace in sample(model, going_on, 1, rest, seed=0, batch_size=batch_size):
            written = falsified[trace.problem_id, step].text + trace.text
            answers[trace.problem_id, step] = task.read_answer(written)
    return [
        {
            "reader": reader,
            "problem_id": problem.id,
            "sample_index": sample_index,
            "step": step,
            "n_steps": len(cuts) - 1,
            "logp_answer": float(logps[index]),
            "leaked": problem.answer in cuts[step].states,
            "early_correct": early[index],
            "followed": None if step == 0 else answers[problem.id, step] == falsified[problem.id, step].implied,
        }
        for index, (problem, sample_index, step, cuts) in enumerate(flat)
    ]
