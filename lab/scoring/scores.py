"""scores: what base and tuned model think of completions that one of them wrote, token by token."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lab.models.load import Model
from lab.models.pair import ModelPair
from lab.records.errors import ModelError
from lab.sampling.decoder import left_padded, token_positions
from lab.sampling.sample import sample
from lab.sampling.trace import Decoding
from lab.scoring.evidence import PROCESS, RANKS, SCORES
from lab.tasks.problem import Cut, Problem, StepGrammar
from lab.tasks.source import Task

MOST_ROWS, MOST_LOGITS = 256, 2**25
"""Rows read at once, and numbers in their logits: a vocabulary of 50,000 leaves room for a few rows only."""


class Row(NamedTuple):
    """One text."""

    context: list[int]
    """Token ids that are given."""
    completion: list[int]
    """Token ids whose probabilities are asked for; at least one."""


class Texts(NamedTuple):
    """Rows of one piece, padded on the left."""

    rows: Sequence[Row]
    tokens: Int[Tensor, "text pos"]
    mask: Bool[Tensor, "text pos"]


def pieces(model: Model, rows: Sequence[Row]) -> Iterator[tuple[Sequence[int], Texts]]:
    """Pieces of `rows`, each with the indices of its rows; rows of like length share a piece."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index].context) + len(rows[index].completion))
    while order:
        longest = len(rows[order[-1]].context) + len(rows[order[-1]].completion)
        n_rows = max(1, min(MOST_ROWS, MOST_LOGITS // (longest * model.anatomy.d_vocab)))
        chosen, order = order[-n_rows:], order[:-n_rows]
        yield chosen, padded_texts(model, [rows[index] for index in chosen])


def padded_texts(model: Model, rows: Sequence[Row]) -> Texts:
    """Rows as one piece."""
    padded = left_padded(model, [row.context + row.completion for row in rows])
    return Texts(rows, padded.tokens, padded.mask)


def trace_rows(
    model: Model, traces: pl.DataFrame, problems: Mapping[str, Problem], *, n_shared: int | None = None
) -> list[Row]:
    """The rows of a `TRACES` table: the prompt is the context.

    Of an end that is beyond the `n_shared` first tokens, those of the model if not given, the text is read without it.
    Raises ModelError where another token is beyond them.
    """
    asked = {name: model.prompt_ids(problems[name].prompt) for name in traces["problem_id"].unique()}
    n_known = n_shared or model.anatomy.d_vocab
    known_end = next((end for end in sorted(model.ends) if end < n_known), 0)
    rows: list[Row] = []
    for problem_id, written in traces.select("problem_id", "tokens").iter_rows():
        is_known = not written or written[-1] < n_known
        tokens = written if is_known else written[:-1] or [known_end]
        if (highest := max(tokens, default=0)) >= n_known:
            raise ModelError(
                f"a text holds token {highest}, and {model.name} can read {n_known}: want a pair whose texts need no "
                "token, ends apart, that only one model has"
            )
        rows.append(Row(asked[problem_id], tokens))
    return rows


class ReadByBoth(NamedTuple):
    """One piece of texts as either model of a pair reads it: its own prompt, and the same completion."""

    chosen: Sequence[int]
    """The rows of the table that the piece holds."""
    base: Texts
    tuned: Texts


def read_by_both(pair: ModelPair, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Iterator[ReadByBoth]:
    """Every completion of a `TRACES` table, in pieces; raises as `trace_rows` by the tokens that both models have."""
    rows = {
        name: trace_rows(model, traces, problems, n_shared=pair.d_vocab)
        for name, model in (("base", pair.base), ("tuned", pair.tuned))
    }
    alike = rows["base"] == rows["tuned"]
    longer = [max(both, key=lambda row: len(row.context)) for both in zip(rows["base"], rows["tuned"], strict=True)]
    for chosen, _ in pieces(pair.base, longer):
        base = padded_texts(pair.base, [rows["base"][index] for index in chosen])
        tuned = base if alike else padded_texts(pair.tuned, [rows["tuned"][index] for index in chosen])
        yield ReadByBoth(chosen, base, tuned)


def completion_logits(model: Model, read: Texts) -> Float[Tensor, "text kept d_vocab"]:
    """Logits of the last tokens of every row, as many as the longest completion has, each at the token before it."""
    longest = max(len(row.completion) for row in read.rows)
    output = model.network(
        input_ids=read.tokens,
        attention_mask=read.mask.long(),
        position_ids=token_positions(read.mask),
        use_cache=False,
        logits_to_keep=longest + 1,
    )
    return output.logits[:, :-1]


class Readings(NamedTuple):
    """Both models' view of the same completions."""

    scores: pl.DataFrame
    """`SCORES`."""
    ranks: pl.DataFrame
    """`RANKS`."""


@torch.inference_mode()
def scores(pair: ModelPair, writer: str, traces: pl.DataFrame, problems: Mapping[str, Problem]) -> Readings:
    """Reads `traces`, which `writer` ("base" or "tuned") sampled, with both models, at temperature 1.

    Each reads the completions behind its own prompt, and over the tokens that both have. A completion that was cut at
    the token limit has no end token, and its probability is that of the cut text. Sums are over the text's tokens in
    double precision.
    """
    names = traces.select("problem_id", "sample_index").rows()
    totals: list[dict[str, object]] = [{}] * len(names)
    ranks: list[pl.DataFrame] = []
    for chosen, by_base, by_tuned in read_by_both(pair, traces, problems):
        base, tuned = (
            completion_logits(model, read)[..., : pair.d_vocab].double().log_softmax(dim=-1)
            for model, read in ((pair.base, by_base), (pair.tuned, by_tuned))
        )
        ours, theirs = (base, tuned) if writer == "base" else (tuned, base)
        divergence = (ours.exp() * (ours - theirs)).sum(dim=-1)
        rank = 1 + (base > base.gather(-1, tuned.argmax(dim=-1, keepdim=True))).sum(dim=-1)
        entropy = -(base.exp() * base).sum(dim=-1)
        for place, index in enumerate(chosen):
            tokens = torch.tensor(by_base.rows[place].completion, device=base.device)
            n = len(tokens)
            key = {"writer": writer, "problem_id": names[index][0], "sample_index": names[index][1]}
            totals[index] = key | {
                "n_tokens": n,
                "logp_base": float(base[place, -n:].gather(-1, tokens[:, None]).sum()),
                "logp_tuned": float(tuned[place, -n:].gather(-1, tokens[:, None]).sum()),
                "token_kl": float(divergence[place, -n:].sum()),
            }
            columns = {"rank": rank[place, -n:].int().cpu().numpy(), "entropy": entropy[place, -n:].cpu().numpy()}
            columns |= {"position": np.arange(n), **key}
            ranks.append(pl.DataFrame(columns, schema=RANKS.dtypes))  # pyright: ignore[reportArgumentType]
    order = ["problem_id", "sample_index", "position"]
    return Readings(SCORES.frame(totals), RANKS.checked(pl.concat(ranks).sort(order)))


@torch.inference_mode()
def answer_scores(model: Model, rows: list[Row]) -> tuple[Float[np.ndarray, " row"], list[bool]]:
    """(log-probability in nats of each row's completion, whether greedy decoding would write it) under one model."""
    logps, greedy = np.zeros(len(rows)), [False] * len(rows)
    for chosen, read in pieces(model, rows):
        table: Float[Tensor, "text kept d_vocab"] = completion_logits(model, read).double().log_softmax(dim=-1)
        for place, index in enumerate(chosen):
            tokens = torch.tensor(rows[index].completion, device=table.device)
            mine = table[place, -len(tokens) :]
            logps[index] = float(mine.gather(-1, tokens[:, None]).sum())
            greedy[index] = bool((mine.argmax(dim=-1) == tokens).all())
    return logps, greedy


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
    chosen = first_cuts(task.steps, task.problems, traces)
    rows = (reader_rows(name, model, task, task.steps, chosen, decoding, batch_size) for name, model in readers.items())
    return PROCESS.frame([row for of_reader in rows for row in of_reader])


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
        Row(model.prompt_ids(problem.prompt, cuts[step].text + grammar.ask), tokens(problem.answer))
        for problem, _, step, cuts in flat
    ]
    logps, early = answer_scores(model, asked)
    falsified = {
        (problem.id, step): grammar.falsify(problem, cuts[step]) for problem, _, step, cuts in flat if step > 0
    }
    answers: dict[tuple[str, int], str | None] = {}
    for step in sorted({step for _, step in falsified}):
        going_on = [
            replace(problem, opening=falsified[problem.id, step].text)
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
